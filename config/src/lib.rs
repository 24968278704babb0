//! Files to validated types: the service graph and the agent's own settings.
//!
//! Nothing here does I/O, reads a clock or spawns: callers hand in text and a file name, and get back either validated
//! types or every mistake at once, each with file, line, source line and hint ([`Diagnostics`]).
//!
//! The vocabulary that every other crate shares also lives here: names and identities ([`name`]), interfaces ([`InterfaceId`]), units ([`units`])
//! and the closed set of reasons for which something is denied, dropped or ended ([`Reason`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod agent;
pub mod diagnostic;
pub mod edit;
pub mod graph;
pub mod import;
mod interface;
pub mod name;
pub mod operators;
mod read;
pub mod reason;
pub mod suggest;
pub mod units;
mod version;
mod yaml;

pub use agent::AgentConfig;
pub use diagnostic::{Diagnostic, Diagnostics, Location};
pub use graph::Graph;
pub use interface::{InterfaceId, NoReplica, Replica};
pub use name::{
    FabricName, HostName, Identity, OperatorName, ServiceId, ServiceName, TenantName, WorkloadId, WorkloadName,
    ZoneName,
};
pub use operators::{OperatorKey, Operators};
pub use reason::Reason;
pub use units::{ByteRate, OpenRate, Port, Protocol, Span};
pub use version::PolicyVersion;
