//! Userspace TCP: the fabric's end of a workload's connection.
//!
//! One [`Endpoint`] per session holds one connection ([`tcp`]), so that no packet's cost depends on how many other sessions
//! there are. Its driver's contract:
//!
//! 1. Make it with [`Endpoint::accept`] from the SYN that was held, or with [`Endpoint::connect`] toward a workload.
//! 2. Hand every later packet of the flow to [`Endpoint::ingest`].
//! 3. Keep [`Endpoint::drive`] polled while the endpoint lives: it runs the retransmission timers. Keep [`TunPort::run`]
//!    polled while the interface does: it sends acknowledgements that nothing took along, those of handshakes among them.
//! 4. Read and write through [`Endpoint::read`] and [`Endpoint::write`], or [`Endpoint::give`] where something follows that sends what
//!    is held; end with [`Endpoint::finish`] or [`Endpoint::abort`], and then [`Endpoint::linger`] until both sides have let go.

mod device;
mod endpoint;
mod first_word;
mod silence;
mod soon;
mod tap;
mod tcp;
#[cfg(test)]
mod tests;
mod virtio;

pub use device::{MTU, PacketSink, TunPort};
pub use endpoint::{Broken, Endpoint};
pub use first_word::FirstWord;
pub(crate) use first_word::FirstWords;
pub use tap::{Copied, Copies, Flow, Outflow, Source, Tap};
pub use virtio::{Received, VNET_HEADER, apart};
