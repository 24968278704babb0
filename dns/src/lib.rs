//! DNS for workloads: what one workload is answered, and the forwarding of every other name.
//!
//! 1. A query arrives from a workload's interface, so who asks is known. [`answer`] takes the bytes and the policy and
//!    decides, without I/O and without a clock: a reply, a drop with its reason, or "not ours". [`Answers`] is the same for one
//!    workload, and keeps what it said for when it is asked again.
//! 2. Names under the fabric's suffix and addresses of the fabric's ranges are answered from the policy alone, and only
//!    as far as the asking workload may see; nothing of them ever leaves the host.
//! 3. [`Forwarder::resolve`] takes what is "not ours" to an upstream resolver, through a bounded cache.
//!
//! No reply is ever REFUSED: stub resolvers then ask the next server of their list, and the name leaks.
//!
//! What a reply tells about names that the caller may not see: a hidden service and one that does not exist are both
//! NXDOMAIN. Within the caller's own tenant the Extended DNS Error (RFC 8914) names the missing edge; of other tenants
//! it says the same for what is hidden and for what does not exist.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod answer;
mod forward;
mod kept;
mod lookup;
mod query;
mod records;
mod reply;
mod view;
mod zone;

#[cfg(test)]
mod tests;

pub use answer::{Answer, answer};
pub use forward::{FabricRanges, Forwarder, UpstreamError, Upstreams};
pub use kept::Answers;
pub use lookup::{Looked, LookedError, LookedRecord, LookupError, question};
pub use query::{Via, peek_name};
pub use reply::{Rcode, Reply};
