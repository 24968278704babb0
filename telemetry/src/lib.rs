//! What the agent says of itself: metrics, session records, and the page that Prometheus scrapes.
//!
//! - [`instruments`] holds every metric of the agent, with its name, unit, help and labels;
//! - [`cardinality`] bounds their number;
//! - [`gathered`] counts what comes with each packet, and hands it on now and then;
//! - [`record`] takes exactly one [`SessionRecord`] per session and writes it as a JSON line;
//! - [`recent`] keeps the newest of them for `ripstop observe`, and [`edges`] what became of each caller's calls;
//! - [`otel`] sends them to an OpenTelemetry collector, as logs and as spans, in a program that is built with that;
//! - [`http`] serves `/metrics`, `/livez` and `/readyz`;
//! - [`web`] is the bounded HTTP server below that page and below the admin socket.

pub mod cardinality;
pub mod edges;
pub mod gathered;
pub mod http;
pub mod instruments;
#[cfg(feature = "otel")]
pub mod otel;
#[cfg(not(feature = "otel"))]
#[path = "otel/without.rs"]
pub mod otel;
mod process;
pub mod recent;
pub mod record;
pub mod web;

#[cfg(test)]
mod documented_tests;

pub use edges::{EdgeTally, Edges};
pub use http::{BindError, Readiness, Unready};
pub use instruments::{DnsCounters, DnsSource, DropCounters, EdgeInstruments, HandedOnCounter, Side};
pub use otel::{Export, Traced, Tracer};
pub use recent::{Filter, Page, Recent, Tally};
pub use record::{HandedOver, RecordLog, RecordSlot, SessionRecord};
