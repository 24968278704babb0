//! What the benchmarks share: two hosts on one link, the ways between them, the loads, and how figures are taken.

pub mod bed;
pub mod conditions;
pub mod datagrams;
pub mod idle;
#[allow(dead_code, unused_imports, reason = "the end-to-end tests use all of it")]
#[path = "../../tests/e2e/lab/mod.rs"]
pub mod lab;
pub mod limit;
pub mod link;
pub mod load;
pub mod process;
pub mod search;
pub mod serve;
pub mod stats;
pub mod tunnel;
pub mod way;
