//! A host that is behind by several policies of operators who are limited to tenants.
//!
//! Each of those is held against the one that it replaces, so they are taken one after the other: what is newest is put
//! aside, and those before it are got from where it came from, back to one that can be taken.

use super::{FETCH_WAIT, FetchError, Kind};
use crate::{
    bundles::store::KEPT_MAX,
    fabric::{shared::Shared, signed::Refusal},
};
use bytes::Bytes;
use ripstop_config::HostName;
use ripstop_policy::{BundleId, bundle::BUNDLE_MAX};
use std::sync::Arc;

/// Who has policies that were in force before.
pub(super) trait Source: Send {
    /// The bytes of one; empty when it is not kept there.
    fn earlier(&mut self, id: BundleId) -> impl Future<Output = Result<Bytes, FetchError>> + Send;
}

/// Another host, by the connection to it.
pub(super) struct Other<'h> {
    pub(super) shared: &'h Shared,
    pub(super) host: &'h HostName,
}

impl Source for Other<'_> {
    async fn earlier(&mut self, id: BundleId) -> Result<Bytes, FetchError> {
        let transport = self.shared.data().transport();
        Ok(transport.ask(self.host, Kind::Kept as u8, &id.encode(), BUNDLE_MAX, FETCH_WAIT).await?)
    }
}

/// A kept policy's bytes; none when it is not kept.
pub(super) async fn kept(shared: &Arc<Shared>, id: BundleId) -> Bytes {
    let reading = Arc::clone(shared);
    let read = tokio::task::spawn_blocking(move || reading.signed().and_then(|signed| signed.kept(id)));
    let bundle = read.await.ok().flatten();
    bundle.map(|bundle| Bytes::from_owner(Arc::clone(bundle.bytes()))).unwrap_or_default()
}

/// Takes a policy that came from a source, with those before it that have to be taken first. Those are no more than a host
/// keeps.
pub(super) async fn take(
    shared: &Arc<Shared>,
    source: &mut impl Source,
    newest: Bytes,
) -> Result<BundleId, FetchError> {
    let mut aside = vec![newest];
    loop {
        let Some(bytes) = aside.pop() else { return Ok(shared.bundle_id()) };
        let (taken, bytes) = take_one(shared, bytes).await?;
        match taken {
            Ok(id) if aside.is_empty() => return Ok(id),
            Ok(_) => {}
            Err(Refusal::Needs(before)) if aside.len() + 1 < KEPT_MAX => {
                let earlier = source.earlier(before).await?;
                if earlier.is_empty() {
                    return Err(FetchError::Between);
                }
                aside.extend([bytes, earlier]);
            }
            Err(why) => return Err(why.into()),
        }
    }
}

type Taken = (Result<BundleId, Refusal>, Bytes);

async fn take_one(shared: &Arc<Shared>, bytes: Bytes) -> Result<Taken, FetchError> {
    let taking = Arc::clone(shared);
    let took = tokio::task::spawn_blocking(move || (taking.take(&bytes), bytes));
    took.await.map_err(|_| FetchError::BrokeOff)
}
