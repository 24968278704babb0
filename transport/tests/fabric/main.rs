//! Whole transports on loopback: what the agent relies on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bulk;
mod hostile;
mod identities;
mod lab;
mod peers;
mod sessions;
