//! Whole transports on loopback: what the agent relies on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bulk;
mod datagrams;
mod handed;
mod hostile;
mod identities;
mod lab;
mod named;
mod paths;
mod peers;
mod relay;
mod renewals;
mod reports;
mod requests;
mod sessions;
mod shares;
mod stalled;
