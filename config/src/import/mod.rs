//! Graphs from manifests that are there already: Compose files and Kubernetes objects.
//!
//! What a manifest says of programs, their ports and who may call them becomes a graph; the rest is in the [`Report`], each
//! part with its file and line. A graph denies what it does not allow, so nothing becomes an edge but what a manifest says of one
//! program and another: what merely could reach each other is suggested, and an operator decides. What cannot be said in a
//! graph is left out and reported, never widened. The same manifests give the same bytes.
//!
//! Nothing here reads files: callers hand in text, and a function that reads what a file names.

mod compose;
mod draft;
mod kubernetes;
mod mentions;
mod report;
mod tree;

pub use compose::{Compose, Open, compose, variables};
pub use kubernetes::kubernetes;
pub use report::{Finding, Kind, Report};

use crate::{Diagnostics, FabricName, HostName, diagnostic::Location};

/// A manifest's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name, for the report.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// What a manifest does not say of the graph that is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The fabric.
    pub fabric: FabricName,
    /// The hosts on which the workloads are, in the order in which replicas fill them; not empty.
    pub hosts: Vec<HostName>,
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The graph, as YAML that [`crate::Graph::parse`] takes.
    pub graph: String,
    /// What became of the manifests.
    pub report: Report,
}

/// Why there is no graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A manifest cannot be read.
    #[error("{0}")]
    Manifest(Diagnostics),
    /// A manifest asks for what cannot be done.
    #[error("{at}: {what}")]
    Refused {
        /// Where.
        at: Location,
        /// What, and what to do about it.
        what: String,
    },
    /// The manifests have no program in them.
    #[error("there is no workload in {0}: is it the right kind of manifest?")]
    Empty(String),
    /// The graph would have mistakes, such as too few addresses for its services.
    #[error("what the manifests say makes no graph\n\n{0}")]
    Graph(Diagnostics),
}

/// The names of the manifests, for messages and the graph's first line.
fn names_of(manifests: &[Manifest]) -> String {
    /// Names that are said; of more, how many.
    const SAID_MAX: usize = 8;
    let mut said: Vec<String> = manifests.iter().take(SAID_MAX).map(|one| one.name.clone()).collect();
    if manifests.len() > SAID_MAX {
        said.push(format!("{} more", manifests.len() - SAID_MAX));
    }
    said.join(", ")
}
