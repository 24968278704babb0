//! TCP itself (RFC 9293), for a path that loses little, delays nothing and has a kernel at its other end.
//!
//! Nothing here waits or keeps a clock. What drives a [`Connection`]:
//!
//! 1. Make it with [`Connection::accept`] from a SYN, or with [`Connection::connect`].
//! 2. Hand it every later packet of its flow by [`Connection::ingress`], and then have sent what is due by
//!    [`Connection::egress`]; that as well after bytes were taken, given or ended.
//! 3. Call [`Connection::egress`] again at [`Connection::deadline`].
//!
//! What it leaves out, since its other end is on the same machine: congestion control, selective acknowledgements,
//! timestamps, urgent data and TIME-WAIT. Bytes are handed on in the pieces that they come in, without a copy.

mod connection;
mod egress;
mod incoming;
mod outgoing;
mod segment;
mod seq;
#[cfg(test)]
mod tests;

pub(super) use connection::{Connection, Ended};

/// Bytes that may wait in each direction of one connection. Between the agent and the kernel of the same machine a round trip
/// takes microseconds, so this carries tens of gigabits a second; a slow reader closes the window at this many.
const BUFFER: usize = 256 << 10;
/// A list that has room for more pieces than this is given back once it is empty: many sessions are idle.
const KEPT: usize = 16;
