//! The agent: interfaces, userspace TCP, sessions, admin and the command line.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admin;
pub mod authority;
pub mod bundles;
pub mod check;
pub mod cli;
pub mod cni;
pub mod confine;
pub mod demo;
pub mod durable;
pub mod fabric;
pub mod files;
pub mod page;
pub mod pods;
mod shown;
