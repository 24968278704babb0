//! What decisions read of workloads, services and edges, packed.
//!
//! Entries and edges are hundreds of bytes each: with many rules every look at one would be a miss of the processor's cache.
//! These tables take four to eight bytes for each.

use crate::{
    CompileError, EdgeIx, ServiceIx, WorkloadIx,
    apart::{Apart, Tenants},
    snapshot::Tables,
};
use ripstop_config::{Graph, Port, TenantName, graph::Limits};
use rustc_hash::FxHashMap;
use std::hash::Hash;

/// Positions in all tables are those of the handles.
#[derive(Debug, Default)]
pub(crate) struct Dense {
    /// The tenants of workloads, and of services, by number.
    callers: Vec<u32>,
    services: Vec<u32>,
    /// The ports of all services, one service after the other, each ascending; and where those of each end.
    ports: Vec<Port>,
    ends: Vec<u32>,
    /// Different limits, of which a graph has few; and which of them each edge has.
    limits: Vec<Limits>,
    edges: Vec<u32>,
    apart: Apart,
}

impl Dense {
    /// Packs the tables of workloads and services, and the graph's edges.
    ///
    /// # Errors
    /// [`CompileError::TooLarge`].
    pub(crate) fn of(graph: &Graph, tables: &Tables) -> Result<Self, CompileError> {
        let tenants = Tenants::of(graph)?;
        // All of them were numbered.
        let number = |tenant: &TenantName| tenants.number(tenant).ok_or(CompileError::TooLarge);
        let callers = tables.workloads.iter().map(|entry| number(&entry.id.tenant)).collect::<Result<_, _>>()?;
        let services = tables.services.iter().map(|entry| number(&entry.id.tenant)).collect::<Result<_, _>>()?;
        let (mut ports, mut ends) = (Vec::new(), Vec::with_capacity(tables.services.len()));
        for entry in &tables.services {
            ports.extend_from_slice(&entry.ports);
            ends.push(u32::try_from(ports.len()).map_err(|_| CompileError::TooLarge)?);
        }
        let mut limits = Numbers::default();
        let edges = graph.edges.iter().map(|edge| limits.number(edge.limits)).collect::<Result<_, _>>()?;
        Ok(Self {
            callers,
            services,
            ports,
            ends,
            limits: limits.values,
            edges,
            apart: Apart::of(&tenants, &graph.never),
        })
    }

    /// Whether a caller and a service are of one tenant; `None` when there is no such caller or no such service.
    pub(crate) fn one_tenant(&self, caller: WorkloadIx, service: ServiceIx) -> Option<bool> {
        Some(self.callers.get(caller.index())? == self.services.get(service.index())?)
    }

    /// Whether a rule keeps a caller and a service apart; of those that are not there, nothing is kept.
    pub(crate) fn apart(&self, caller: WorkloadIx, service: ServiceIx) -> bool {
        let tenants = self.callers.get(caller.index()).zip(self.services.get(service.index()));
        tenants.is_some_and(|(caller, service)| self.apart.holds(*caller, *service))
    }

    /// The ports of a service, ascending; none when there is no such service.
    pub(crate) fn ports(&self, service: ServiceIx) -> &[Port] {
        let end = |index: usize| self.ends.get(index).map(|end| *end as usize);
        let start = service.index().checked_sub(1).map_or(Some(0), end);
        start.zip(end(service.index())).and_then(|(start, end)| self.ports.get(start..end)).unwrap_or_default()
    }

    /// The limits of an edge of this policy.
    pub(crate) fn limits(&self, edge: EdgeIx) -> Limits {
        self.limits[self.edges[edge.index()] as usize]
    }
}

/// Numbers different values in the order in which they come.
struct Numbers<T> {
    known: FxHashMap<T, u32>,
    values: Vec<T>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { known: FxHashMap::default(), values: Vec::new() }
    }
}

impl<T: Copy + Eq + Hash> Numbers<T> {
    fn number(&mut self, value: T) -> Result<u32, CompileError> {
        if let Some(number) = self.known.get(&value) {
            return Ok(*number);
        }
        let number = u32::try_from(self.values.len()).map_err(|_| CompileError::TooLarge)?;
        self.known.insert(value, number);
        self.values.push(value);
        Ok(number)
    }
}
