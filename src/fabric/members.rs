//! What the authority asks of the agent: who is one of the fabric by the policy in force, and that a host which was let in
//! becomes one. For that an operator's key has to lie on this host; without it, the operator is told what to do.

use super::shared::Shared;
use crate::{
    admin::AgentView,
    authority::{
        Admitted, Authority, Membership,
        listener::{Admission, Members},
    },
    bundles::publish,
    files,
};
use anyhow::{Context as _, anyhow};
use ripstop_config::{HostName, agent::PolicySource, edit};
use ripstop_policy::{Content, Policy, RevokedCertificate};
use ripstop_transport::{CertificateId, Identity, Revoked, signing::SigningKey};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// How often a host is added to a policy that somebody else changes at the same time.
const TRIES: u32 = 5;

/// The authority's view of the agent.
pub(super) struct Desk {
    shared: Arc<Shared>,
    authority: Arc<Authority>,
    /// An operator's key.
    key: Option<PathBuf>,
    /// Hosts are added one after another, as each addition is made to the policy before it.
    adding: Mutex<()>,
}

impl Desk {
    pub(super) fn new(shared: &Arc<Shared>, authority: Arc<Authority>) -> Self {
        let key = shared.config().authority.as_ref().and_then(|settings| settings.operator.clone());
        Self { shared: Arc::clone(shared), authority, key, adding: Mutex::default() }
    }

    /// Puts a host into the signed policy, or takes it back into it.
    fn add(&self, admitted: &Admitted, address: Option<SocketAddr>) -> anyhow::Result<()> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tried = 0;
        loop {
            tried += 1;
            let before = self.shared.bundle_id();
            match self.try_to_add(admitted, address) {
                Err(_) if tried < TRIES && self.shared.bundle_id() != before => {}
                done => return done,
            }
        }
    }

    fn try_to_add(&self, admitted: &Admitted, address: Option<SocketAddr>) -> anyhow::Result<()> {
        let running = self.shared.running(None).map_err(|why| anyhow!(why))?;
        let before = running.content.clone().context("there is no policy yet")?;
        let mut content = before.clone();
        if let Some(address) = address {
            let change = edit::Edit::Host { name: admitted.host.clone(), address };
            content.graph = edit::edit(&content.file, &content.graph, &change)?;
        }
        self.take_back(admitted, &mut content);
        if content == before {
            return Ok(());
        }
        let path = self.key.as_ref().context("no operator's key lies on the authority's host")?;
        let key = SigningKey::load(path)?;
        let is_over = |one: &RevokedCertificate| {
            self.authority.is_over(&CertificateId { issuer: one.issuer.clone(), serial: one.serial.clone() })
        };
        content.revoked.certificates.retain(|one| !is_over(one));
        content.note = format!("{} has joined", admitted.host);
        let version = publish::next_version(&running)?;
        let envelope = publish::seal(self.authority.fabric(), version, running.id, content, &[key])?;
        self.shared.take(&envelope.encode()).map(drop).map_err(|why| anyhow!(why.to_string()))
    }

    /// A host that was revoked is so no more, but with every certificate that it had before.
    fn take_back(&self, admitted: &Admitted, content: &mut Content) {
        if !content.revoked.hosts.remove(&admitted.host) {
            return;
        }
        let earlier = self.authority.certificates(&admitted.host).into_iter().map(|issued| issued.id);
        content.revoked.certificates.extend(earlier.filter(|id| *id != admitted.granted.id).map(revoked));
    }

    /// What an operator has to do for a host that could not be added.
    fn missing(&self, host: &HostName, address: Option<SocketAddr>, error: &anyhow::Error) -> String {
        let why = format!("the policy does not have this host yet ({error:#}); an operator has to");
        match self.membership(host, None) {
            Membership::Revoked => format!("{why} run `ripstop host revoke {host} --undo`"),
            Membership::Member | Membership::Unknown => {
                let address = address.map(|address| format!("{{ address: {address} }}")).unwrap_or_default();
                format!("{why} put `{host}: {address}` under `hosts:` of the graph and run `ripstop apply`")
            }
        }
    }

    fn admission(&self) -> anyhow::Result<Admission> {
        let PolicySource::Signed(operators) = &self.shared.config().policy else {
            anyhow::bail!(
                "the policy of this fabric is a file: copy it to the host, and add the host to it everywhere"
            );
        };
        let bundle = self.shared.bundle().map(|bundle| bundle.bytes().to_vec()).unwrap_or_default();
        Ok(Admission { operators: files::read(operators)?, bundle, missing: None })
    }
}

impl Members for Desk {
    fn identity(&self) -> Identity {
        self.shared.data().transport().identity()
    }

    fn membership(&self, host: &HostName, certificate: Option<&CertificateId>) -> Membership {
        let policy = self.shared.policy();
        let is_revoked = |id: &CertificateId| policy.revoked().certificates.contains(&revoked(id.clone()));
        if policy.revoked().hosts.contains(host) || certificate.is_some_and(is_revoked) {
            return Membership::Revoked;
        }
        if policy.graph().hosts.contains_key(host) { Membership::Member } else { Membership::Unknown }
    }

    fn admit(&self, admitted: &Admitted, address: Option<SocketAddr>) -> Admission {
        let missing = self.add(admitted, address).err().map(|error| self.missing(&admitted.host, address, &error));
        if let Some(missing) = &missing {
            tracing::warn!(host = %admitted.host, missing, "a host has joined, but the policy does not have it yet");
        }
        match self.admission() {
            Ok(admission) => Admission { missing, ..admission },
            Err(error) => Admission { missing: Some(format!("{error:#}")), ..Admission::default() },
        }
    }
}

/// A certificate as the policy names it.
fn revoked(id: CertificateId) -> RevokedCertificate {
    RevokedCertificate { issuer: id.issuer, serial: id.serial }
}

/// Whom the policy shuts out, as the transport knows them.
pub(super) fn shut_out(policy: &Policy) -> Revoked {
    let ripstop_policy::Revoked { hosts, certificates } = policy.revoked().clone();
    let id = |one: RevokedCertificate| CertificateId { issuer: one.issuer, serial: one.serial };
    Revoked { hosts, certificates: certificates.into_iter().map(id).collect() }
}
