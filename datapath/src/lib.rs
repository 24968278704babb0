//! The data path: from a workload's packets to authorised sessions between hosts, and back. One thread runs it all.
//!
//! - [`packet`] is what a packet is, and [`stack`] ends its TCP;
//! - [`interface`] is one workload's device: who asks, and where each packet goes;
//! - [`session`] decides, limits, balances, carries and records;
//! - [`handover`] is what two agents of one host tell each other while one takes over from the other;
//! - [`capture`] copies packets on request;
//! - [`thread`] is where all of it runs.
//!
//! It is a crate of its own because it is built for speed, and what stands around it for size.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod capture;
pub mod handover;
pub mod interface;
pub mod packet;
mod polling;
pub mod session;
pub mod stack;
pub mod thread;
