//! Whether a record that came by another host, or by etcd, is believed.

use super::clocks::Clocks;
use crate::{
    admin::AgentView as _,
    fabric::{members, shared::Shared},
};
use bytes::Bytes;
use ripstop_config::HostName;
use ripstop_datapath::session::{
    hearsay::{Hearsay, Said, Taken},
    report::{self, Report},
};
use ripstop_policy::Policy;
use ripstop_telemetry::instruments;
use ripstop_transport::{Identity, Record, RecordError, Revoked, Stamp, StampError};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Why it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::fabric) enum Refused {
    /// It is not one, or not of a host that was asked for.
    #[error("malformed")]
    Malformed,
    /// Its host has not signed it.
    #[error("forged")]
    Forged,
    /// No CA that is trusted here vouches for its certificate at this time.
    #[error("signed with a certificate that is not good")]
    Certificate,
    /// The policy does not name its host.
    #[error("of an unknown host")]
    Unknown,
    /// The policy shuts its host, or its certificate, out.
    #[error("of a host that is shut out")]
    Revoked,
    /// Its life is over.
    #[error("expired")]
    Expired,
    /// It is of a time to come, or claims to be good for too long.
    #[error("of the future")]
    Future,
    /// What it says is of another version.
    #[error("of another version")]
    Version,
}

impl Refused {
    /// The label of the metric.
    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Certificate => "certificate",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Future => "future",
            Self::Version => "version",
        }
    }

    /// No host that works as it should would have handed it on. The others may be of two policies, clocks or versions.
    pub(super) fn is_of_who_hands_it_on(self) -> bool {
        match self {
            Self::Malformed | Self::Forged => true,
            Self::Certificate | Self::Unknown | Self::Revoked | Self::Expired | Self::Future | Self::Version => false,
        }
    }
}

impl From<RecordError> for Refused {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Codec(_) | RecordError::Leaf(_) => Self::Malformed,
            RecordError::Another(_) | RecordError::Signature | RecordError::Key => Self::Forged,
            RecordError::Certificate(_) => Self::Certificate,
            RecordError::Revoked => Self::Revoked,
        }
    }
}

impl From<StampError> for Refused {
    fn from(error: StampError) -> Self {
        match error {
            StampError::Expired(_) => Self::Expired,
            StampError::Future(_) | StampError::Life(_) => Self::Future,
        }
    }
}

/// Whether a policy has a host, and does not shut it out.
pub(super) fn is_member(policy: &Policy, host: &HostName) -> bool {
    policy.graph().hosts.contains_key(host) && !policy.revoked().hosts.contains(host)
}

/// What records are held against. May be used on any thread.
pub(in crate::fabric) struct Judge {
    pub(super) policy: Arc<Policy>,
    /// Whom that shuts out.
    pub(super) revoked: Revoked,
    pub(super) identity: Identity,
    pub(super) hearsay: Arc<Hearsay>,
    pub(super) clocks: Arc<Clocks>,
}

impl Judge {
    /// By the policy in force and the identity of this host.
    pub(in crate::fabric) fn new(shared: &Shared) -> Self {
        let (policy, identity) = (shared.policy(), shared.data().transport().identity());
        Self {
            revoked: members::shut_out(&policy),
            policy,
            identity,
            hearsay: Arc::clone(&shared.hearsay),
            clocks: Arc::clone(&shared.clocks),
        }
    }

    /// Takes a record of a host that is expected, where it is good; says whose it claims to be, if it is one at all.
    pub(in crate::fabric) fn judge(
        &self,
        bytes: &[u8],
        is_expected: impl Fn(&HostName) -> bool,
    ) -> (Option<HostName>, Result<Taken, Refused>) {
        let (host, judged) = match Record::read(bytes) {
            Ok(record) if is_expected(&record.host) => {
                let judged = self.take(&record, bytes, SystemTime::now());
                (Some(record.host), judged)
            }
            Ok(_) | Err(_) => (None, Err(Refused::Malformed)),
        };
        if let Err(refused) = judged {
            instruments::host_record_refused(refused.as_str());
        }
        (host, judged)
    }

    /// What is cheap to tell first: a signature takes a tenth of a millisecond to verify.
    fn take(&self, record: &Record<'_>, bytes: &[u8], now: SystemTime) -> Result<Taken, Refused> {
        if self.revoked.hosts.contains(&record.host) {
            return Err(Refused::Revoked);
        }
        if !self.policy.graph().hosts.contains_key(&record.host) {
            return Err(Refused::Unknown);
        }
        if let Err(error) = record.stamp.check(now) {
            self.doubt(record, error, now);
            return Err(error.into());
        }
        if !self.hearsay.wants(&record.host, record.stamp.issued) {
            return Ok(Taken::Late);
        }
        let report = self.identity.verify_record(record, &self.revoked)?;
        let report = report::decode(report).map_err(|_| Refused::Version)?;
        self.clocks.agree(&record.host);
        let good_for = good_for(record.stamp, now);
        let said = said(Bytes::copy_from_slice(bytes), record.stamp, report);
        Ok(self.hearsay.take(&record.host, said, good_for, Instant::now()))
    }

    /// Notes whose clock it is that is another one, where it is the host's last record and signed: what somebody kept back, or has
    /// made up, says nothing of that.
    fn doubt(&self, record: &Record<'_>, error: StampError, now: SystemTime) {
        let is_of_clocks = match error {
            StampError::Expired(_) | StampError::Future(_) => true,
            StampError::Life(_) => false,
        };
        let is_last = is_of_clocks && self.hearsay.wants(&record.host, record.stamp.issued);
        if is_last && self.identity.verify_record(record, &self.revoked).is_ok() {
            self.clocks.are_apart(&record.host, record.stamp.ahead(now), Instant::now());
        }
    }

    /// Forgets those that are not believed any more.
    pub(super) fn again(&self) {
        let now = Instant::now();
        for host in self.hearsay.ages(now).into_keys() {
            let Some(bytes) = self.hearsay.record(&host, now) else { continue };
            let verified =
                Record::read(&bytes).is_ok_and(|one| self.identity.verify_record(&one, &self.revoked).is_ok());
            if !verified {
                self.hearsay.forget(&host);
            }
        }
    }
}

/// For how long from now: what has passed since it was issued counts, but no more than a quarter of its life, as two clocks
/// may not agree, and the next one comes at half.
fn good_for(stamp: Stamp, now: SystemTime) -> Duration {
    stamp.life() - stamp.age(now).min(stamp.life() / 4)
}

/// What a record has to say.
pub(super) fn said(record: Bytes, stamp: Stamp, report: Report) -> Said {
    let Report { policy, addresses, endpoints, .. } = report;
    Said { record, stamp, policy, endpoints, addresses }
}
