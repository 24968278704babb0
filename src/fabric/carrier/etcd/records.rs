//! Hosts' records in etcd: what each says of itself, signed, gone with its lease. They say which policy a host runs to
//! who applies one. They grant nothing: whoever has etcd may keep an old one of a host there, but none that it has not
//! signed.

use super::{Carrier, Session, keys::Keys};
use crate::{
    admin::AgentView as _,
    fabric::{members, shared::Shared},
    session::{
        endpoints::State,
        report::{self, Report},
    },
};
use bytes::Bytes;
use ripstop_config::{HostName, ServiceId};
use ripstop_policy::BundleId;
use ripstop_transport::{
    CertificateId, Identity, RECORD_MAX, Revoked,
    etcd::{Client, Entry, EtcdError},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Least time between two records of this host that say something new.
const BETWEEN: Duration = Duration::from_millis(500);
/// Least time until a record that tells of another load only: with a thousand hosts etcd has some 30 writes a second.
const LOAD: Duration = Duration::from_secs(30);
/// Records that are read at once: 5 MiB at worst.
const PAGE: u32 = 64;
/// Hosts of which something is kept: all that can be connected.
const HOSTS_MAX: usize = 4_096;

/// This host's record.
#[derive(Default)]
pub(super) struct Own {
    told: Option<Told>,
    /// When what is not told yet may be.
    due: Option<Instant>,
}

struct Told {
    at: Instant,
    report: Bytes,
    essence: Essence,
}

/// What of a record is to be known at once.
#[derive(Debug, PartialEq, Eq)]
struct Essence {
    policy: BundleId,
    endpoints: Vec<(ServiceId, State)>,
    /// By which it is signed: a record is good for as long as that.
    certificate: CertificateId,
}

impl Essence {
    fn of(report: &Report, identity: &Identity) -> Self {
        let endpoints = report.endpoints.iter().map(|one| (one.service.clone(), one.state)).collect();
        Self { policy: report.policy, endpoints, certificate: identity.certificate().clone() }
    }
}

impl Own {
    /// When there is something to tell.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.due.filter(|due| *due > now)
    }

    /// Whether it is time to tell something else; when not yet, notes when.
    fn is_due(&mut self, report: &Bytes, essence: &Essence, now: Instant) -> bool {
        let wait = match &self.told {
            None => Duration::ZERO,
            Some(told) if told.essence != *essence => BETWEEN,
            Some(told) if told.report == *report => return false,
            Some(_) => LOAD,
        };
        let due = self.told.as_ref().map_or(now, |told| told.at + wait);
        self.due = (due > now).then_some(due);
        due <= now
    }
}

impl Carrier<'_> {
    /// Puts this host's record there, if it says something new.
    pub(super) async fn tell(&self, session: &mut Session) -> Result<(), EtcdError> {
        let report = session.reports.borrow_and_update().clone();
        let identity = self.shared.data().transport().identity();
        // Before the data thread has said anything there is nothing to tell.
        let Ok(says) = report::decode(&report) else { return Ok(()) };
        let (essence, now) = (Essence::of(&says, &identity), Instant::now());
        if !session.own.is_due(&report, &essence, now) {
            return Ok(());
        }
        match identity.sign_record(&report) {
            Ok(record) => {
                let key = self.keys.host(self.shared.host());
                session.client.put(&key, &record, Some(&session.lease)).await?;
            }
            Err(error) => tracing::error!(%error, "this host cannot say by etcd which policy it runs"),
        }
        session.own.told = Some(Told { at: now, report, essence });
        Ok(())
    }
}

/// Other hosts' records.
#[derive(Default)]
pub(super) struct Others {
    /// Those that were verified, by the policy of then, so that each is once.
    verified: BTreeMap<HostName, (Vec<u8>, BundleId)>,
    policy: BundleId,
}

impl Others {
    /// Reads what all hosts of the policy say.
    pub(super) async fn read(&mut self, shared: &Shared, keys: &Keys, client: &mut Client) -> Result<(), EtcdError> {
        let policy = shared.policy();
        let (revoked, identity) = (members::shut_out(&policy), shared.data().transport().identity());
        if self.policy != policy.id() {
            // Who was good may be shut out.
            (self.policy, self.verified) = (policy.id(), BTreeMap::new());
        }
        let (mut said, mut before) = (BTreeMap::new(), None::<String>);
        for _ in 0..HOSTS_MAX.div_ceil(PAGE as usize) {
            let page = client.list(&keys.hosts(), before.as_deref(), PAGE, RECORD_MAX * PAGE as usize).await?;
            for entry in &page.entries {
                let host = keys.host_of(&entry.key).filter(|host| policy.graph().hosts.contains_key(host));
                let Some(host) = host else { continue };
                let policy = self.verify(&host, entry, &identity, &revoked);
                said.extend(policy.map(|policy| (host, policy)));
            }
            match page.entries.last() {
                Some(last) if page.entries.len() == PAGE as usize => before = Some(last.key.clone()),
                Some(_) | None => break,
            }
        }
        self.verified.retain(|host, _| said.contains_key(host));
        shared.carried.said(said);
        Ok(())
    }

    /// Which policy a host says to run, if it is that host who says so.
    fn verify(&mut self, host: &HostName, entry: &Entry, identity: &Identity, revoked: &Revoked) -> Option<BundleId> {
        if let Some((record, policy)) = self.verified.get(host)
            && *record == entry.value
        {
            return Some(*policy);
        }
        let opened = identity.open_record(&entry.value, revoked);
        let signed = match opened {
            Ok((signer, report)) if signer == *host => report::decode(report).map_err(|error| error.to_string()),
            Ok((signer, _)) => Err(format!("it is that of {signer}")),
            Err(error) => Err(error.to_string()),
        };
        match signed {
            Ok(report) => {
                self.verified.insert(host.clone(), (entry.value.clone(), report.policy));
                Some(report.policy)
            }
            Err(error) => {
                tracing::debug!(%host, error, "a host's record in etcd is not believed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_soon_and_a_load_now_and_then() {
        let (mut own, start) = (Own::default(), Instant::now());
        let certificate = CertificateId { issuer: "i".into(), serial: "1".into() };
        let essence = |digest| Essence {
            policy: BundleId { digest: [digest; 8], ..BundleId::default() },
            endpoints: Vec::new(),
            certificate: certificate.clone(),
        };
        let mut tell = |report: &'static str, digest, ms| {
            let (report, now) = (Bytes::from(report), start + Duration::from_millis(ms));
            let due = own.is_due(&report, &essence(digest), now);
            if due {
                own.told = Some(Told { at: now, report, essence: essence(digest) });
            }
            (due, own.due(now).map(|due| (due - start).as_millis()))
        };
        assert_eq!(tell("a", 1, 0), (true, None));
        assert_eq!(tell("a", 1, 9_000), (false, None), "nothing new");
        assert_eq!(tell("b", 2, 100), (false, Some(500)));
        assert_eq!(tell("b", 2, 500), (true, None));
        assert_eq!(tell("more load", 2, 1_000), (false, Some(30_500)));
        assert_eq!(tell("more load", 2, 30_500), (true, None));
    }
}
