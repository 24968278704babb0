//! The graph's own tests: calls that must be allowed, or denied.

use crate::{Policy, Verdict};
use ripstop_config::{Port, Reason, graph::Assertion};
use std::fmt;

/// What came of one test of the graph at one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// The test.
    pub assertion: Assertion,
    /// The port.
    pub port: Port,
    /// Why the call is denied; `None` when it is allowed.
    pub denied: Option<Reason>,
}

impl Tested {
    /// Whether it is as the test says.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.denied.is_none() == self.assertion.allowed
    }
}

impl Policy {
    /// Tries the graph's tests: each at the ports that it names, or at all of the service.
    pub fn tests(&self) -> impl Iterator<Item = Tested> + '_ {
        self.graph.tests.iter().flat_map(move |assertion| {
            let service = self.service(&assertion.to);
            let all = service.map(|service| self.service_entry(service).ports.as_slice()).unwrap_or_default();
            let ports = if assertion.ports.is_empty() { all } else { &assertion.ports };
            ports.iter().map(move |port| {
                let verdict = match (self.workload(&assertion.from), service) {
                    (Some(caller), Some(service)) => self.decide(caller, service, *port),
                    (None, _) => Verdict::Deny(Reason::UnknownCaller),
                    (_, None) => Verdict::Deny(Reason::NoService),
                };
                let denied = match verdict {
                    Verdict::Allow(_) => None,
                    Verdict::Deny(reason) => Some(reason),
                };
                Tested { assertion: assertion.clone(), port: *port, denied }
            })
        })
    }
}

/// `graph.yaml:30: shop/web -> shop/db:5432/tcp must be denied, and is allowed`.
impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { assertion: Assertion { from, to, allowed, at, .. }, port, denied } = self;
        let must = if *allowed { "allowed" } else { "denied" };
        write!(f, "{at}: {from} -> {to}:{port} must be {must}")?;
        match (self.holds(), denied) {
            (true, _) => f.write_str(", and is"),
            (false, None) => f.write_str(", and is allowed"),
            (false, Some(reason)) => write!(f, ", and is denied ({reason}): {}", reason.describe()),
        }
    }
}
