//! The service graph, compiled: who may call what, at which addresses, and within which limits.
//!
//! [`compile`] turns a validated [`ripstop_config::Graph`] into an immutable [`Policy`]; [`Policy::decide`] is the one
//! function that allows or denies, for the calling host, for the serving host and for [`explain`]. Nothing here does
//! I/O, reads a clock, draws a random number or spawns: the same graph gives the same policy on every host.
//!
//! Invariants, each with a test:
//! 1. Default deny: [`Policy::decide`] allows nothing that no edge of the graph names.
//! 2. `decide` equals a scan of the graph's `never` rules, exports and edges in the order of the file, the first match
//!    deciding (`tests/model.rs`): a rule stands above every edge, and between tenants both sides must consent.
//! 3. The cost of `decide` does not grow with the number of rules.
//! 4. Every workload and service has one address per family, inside its range, and no two share one.
//! 5. Addresses and [`PolicyDigest`] depend on what the graph says, not on where in the file it says so.
//! 6. A bundle is what enough operators signed, byte for byte, or it is nothing.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod address;
mod apart;
mod assertions;
pub mod bundle;
mod compile;
mod consent;
mod dense;
mod diff;
mod digest;
mod explain;
mod index;
mod render;
mod snapshot;
mod verdict;

pub use address::{Addresses, Pair};
pub use assertions::Tested;
pub use bundle::{Bundle, BundleError, BundleId, Content, Envelope, Revoked, RevokedCertificate, StageId};
pub use compile::{CompileError, compile, compile_after};
pub use consent::{Consent, KeptApart, Side, lacking};
pub use diff::{Allowed, Call, Diff, Moved, Names, diff};
pub use digest::PolicyDigest;
pub use explain::{Change, Explanation, LimitChain, OfTenant, PortAnswer, Serves, allowing_edge, explain};
pub use index::{EdgeIx, ServiceIx, WorkloadIx};
pub use snapshot::{Policy, ServiceEntry, WorkloadEntry};
pub use verdict::{Permit, Verdict};
