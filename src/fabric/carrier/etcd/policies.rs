//! Policies in etcd: those that are newer are taken, and this host's is put there.

use super::{
    Carrier, Session,
    keys::{self, Keys, PART},
    rests::Listed,
};
use crate::{
    bundles::store::KEPT_MAX,
    fabric::carrier::{
        FetchError,
        behind::{self, Source},
    },
};
use bytes::Bytes;
use ripstop_policy::{Bundle, BundleId};
use ripstop_transport::etcd::{Client, EtcdError};
use std::{cmp::Reverse, time::Instant};

/// Policies that are listed at once, the newest first: those that are kept, and some that are none.
const LISTED_MAX: u32 = 64;
/// Bytes of their values: a number each.
pub(super) const VALUES_MAX: usize = 64 * LISTED_MAX as usize;
/// Policies that are tried at one look, so that an etcd which makes up one after another does not keep this host from all else.
const TRIES: u32 = 4;

impl Carrier<'_> {
    /// Takes what is newer there, and puts there what is newer here.
    pub(super) async fn look(&mut self, session: &mut Session) -> Result<(), EtcdError> {
        for _ in 0..TRIES {
            let listed = self.listed(&mut session.client).await?;
            self.rests.keep(&listed);
            let next = self.rests.next(&listed, |id| self.signed.takes(id), Instant::now());
            let Some((id, size)) = next else { return self.offer(session, &listed).await };
            self.take(&mut session.client, id, size).await?;
        }
        Ok(())
    }

    async fn listed(&self, client: &mut Client) -> Result<Vec<Listed>, EtcdError> {
        let listing = client.list(&self.keys.policies(), None, LISTED_MAX, VALUES_MAX).await?;
        let listed = listing.entries.iter();
        Ok(listed.filter_map(|entry| Some((self.keys.id(&entry.key)?, keys::size(&entry.value)?))).collect())
    }

    async fn take(&mut self, client: &mut Client, id: BundleId, size: usize) -> Result<(), EtcdError> {
        let mut parts = Parts { client, keys: self.keys };
        let came = match parts.whole(id, size).await {
            Ok(bytes) => behind::take(self.shared, &mut parts, bytes).await,
            Err(error) => Err(error),
        };
        // One that is not wanted any more has come, from here or from another host.
        let is_here = !self.signed.takes(id);
        let error = match came {
            Ok(taken) if is_here => {
                tracing::info!(policy = %taken, "the policy came by etcd");
                self.shared.carried.took();
                return Ok(());
            }
            Err(_) if is_here => return Ok(()),
            Ok(_) => FetchError::Parts("it is another policy than its key says"),
            Err(error) => error,
        };
        let is_news = self.rests.failed(id, Instant::now());
        match error {
            FetchError::Etcd(error) => Err(error),
            error @ (FetchError::Ask(_)
            | FetchError::Nothing
            | FetchError::Refused(_)
            | FetchError::Between
            | FetchError::BrokeOff
            | FetchError::Parts(_)) => {
                self.shared.carried.refused(id, &error.to_string());
                if is_news {
                    tracing::warn!(policy = %id, %error, "a policy in etcd is not taken; whoever put it there may write there");
                }
                Ok(())
            }
        }
    }

    /// Puts this host's policy there, unless it is, or a newer one, or another host is about to.
    async fn offer(&mut self, session: &mut Session, listed: &[Listed]) -> Result<(), EtcdError> {
        let Some(bundle) = self.signed.bundle() else { return Ok(()) };
        let (own, client) = (bundle.id(), &mut session.client);
        let has_newer = listed.iter().any(|(id, _)| *id > own && !self.rests.has(*id));
        if has_newer {
            return Ok(());
        }
        let is_listed = listed.iter().any(|(id, _)| *id == own);
        // Below ones that are made up it is not listed.
        if !is_listed && client.get(&self.keys.policy(own)).await?.is_none() {
            let (claim, host) = (self.keys.claim(own), self.shared.host().as_str().as_bytes());
            let mine = client.create(&claim, host, Some(&session.lease)).await?;
            // Claimed in a connection before this one, it is mine as well.
            if !mine && client.get(&claim).await?.as_deref() != Some(host) {
                return Ok(());
            }
            self.put(client, &bundle).await?;
            client.delete(&claim).await?;
            tracing::info!(policy = %own, "the policy is in etcd");
            self.trim(client, listed).await?;
        }
        self.shared.carried.has(own);
        Ok(())
    }

    /// The parts first: what is listed is whole.
    async fn put(&self, client: &mut Client, bundle: &Bundle) -> Result<(), EtcdError> {
        let (id, bytes) = (bundle.id(), bundle.bytes());
        for (number, part) in bytes.chunks(PART).enumerate() {
            client.put(&self.keys.part(id, number), part, None).await?;
        }
        client.put(&self.keys.policy(id), bytes.len().to_string().as_bytes(), None).await
    }

    /// Deletes those that no host would take any more, nor need to follow. `listed` is of before this host's was put there.
    async fn trim(&self, client: &mut Client, listed: &[Listed]) -> Result<(), EtcdError> {
        let mut kept: Vec<BundleId> = listed.iter().map(|(id, _)| *id).filter(|id| !self.rests.has(*id)).collect();
        kept.sort_unstable_by_key(|id| Reverse(*id));
        for id in kept.into_iter().skip(KEPT_MAX - 1) {
            client.delete(&self.keys.policy(id)).await?;
            client.delete(&self.keys.parts(id)).await?;
        }
        Ok(())
    }
}

/// The parts of policies in etcd.
struct Parts<'c> {
    client: &'c mut Client,
    keys: &'c Keys,
}

impl Parts<'_> {
    /// A policy of so many bytes, at most `BUNDLE_MAX`. As much memory as has arrived, not as was promised.
    async fn whole(&mut self, id: BundleId, size: usize) -> Result<Bytes, FetchError> {
        let mut bytes = Vec::new();
        for number in 0..size.div_ceil(PART) {
            let part = self.client.get(&self.keys.part(id, number)).await?;
            let part = part.ok_or(FetchError::Parts("a part is missing"))?;
            if part.len() != PART.min(size - bytes.len()) {
                return Err(FetchError::Parts("a part has another length"));
            }
            bytes.extend(part);
        }
        Ok(bytes.into())
    }
}

impl Source for Parts<'_> {
    async fn earlier(&mut self, id: BundleId) -> Result<Bytes, FetchError> {
        let size = self.client.get(&self.keys.policy(id)).await?;
        match size.as_deref().and_then(keys::size) {
            Some(size) => self.whole(id, size).await,
            None => Ok(Bytes::new()),
        }
    }
}
