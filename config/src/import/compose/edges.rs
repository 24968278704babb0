//! Who calls whom.

use super::{Named, served};
use crate::{
    Location, ServiceName, TenantName, WorkloadId,
    import::{
        ImportError,
        draft::{Draft, edge_line, label},
        mentions,
        report::Report,
    },
};
use std::collections::BTreeMap;

/// Edges that are suggested for one network: with more, it says nothing of who calls whom.
const SUGGESTED_MAX: usize = 12;

/// Puts an edge into the draft for each `depends_on` and `links` between two that share a network; what else could be meant is
/// suggested.
pub(super) fn infer(
    all: &[Named<'_>],
    tenant: &TenantName,
    draft: &mut Draft,
    report: &mut Report,
) -> Result<(), ImportError> {
    let by_key: BTreeMap<&str, &Named<'_>> = all.iter().map(|one| (one.service.key.as_str(), one)).collect();
    let mut edges = Edges { tenant, by_key, draft, report };
    edges.aliases(all);
    for caller in all {
        edges.of(caller)?;
    }
    all.iter().for_each(|caller| edges.mentions(caller));
    edges.shared(all);
    Ok(())
}

struct Edges<'e, 's> {
    tenant: &'e TenantName,
    by_key: BTreeMap<&'e str, &'e Named<'s>>,
    draft: &'e mut Draft,
    report: &'e mut Report,
}

impl Edges<'_, '_> {
    /// Other names that services have in their networks are names of the graph as well.
    fn aliases(&mut self, all: &[Named<'_>]) {
        for named in all {
            for (alias, at) in named.service.networks.values().flatten() {
                self.alias(named, alias, at);
            }
        }
    }

    fn alias(&mut self, named: &Named<'_>, alias: &str, at: &Location) -> Option<ServiceName> {
        let key = &named.service.key;
        let name = label(alias).and_then(|label| ServiceName::new(&label).ok());
        let (Some(name), false) = (name, named.service.ports.is_empty()) else {
            self.report.not_carried(at, format!("service {key}: alias {alias}: no name of DNS, or no port is known"));
            return None;
        };
        let services = &mut self.draft.tenants.get_mut(self.tenant)?.services;
        let entry = services.entry(name.clone()).or_insert_with(|| served(named.service, &named.workload));
        if entry.by != named.workload {
            let what = format!("service {key}: alias {alias}: the name is that of `{}` as well", entry.by);
            self.report.not_carried(at, what);
            return None;
        }
        self.report.used(at, format!("service {key}: alias {alias}, a service of its own name"));
        Some(name)
    }

    fn of(&mut self, caller: &Named<'_>) -> Result<(), ImportError> {
        let from = WorkloadId::new(self.tenant.clone(), caller.workload.clone());
        for need in &caller.service.needs {
            let (key, why, at) = (&need.key, need.why, &need.at);
            let Some(callee) = self.by_key.get(key.as_str()).copied() else {
                self.report.not_carried(at, format!("{why}: there is no service {key} that is run"));
                continue;
            };
            let Some(name) = self.callable(caller, callee, why, at) else { continue };
            let mut names = vec![name];
            // The names of the networks that both are in.
            let shared = callee.service.networks.iter().filter(|(name, _)| caller.service.networks.contains_key(*name));
            let aliases = shared.flat_map(|(_, aliases)| aliases).filter_map(|(alias, _)| label(alias));
            names.extend(aliases.filter_map(|alias| ServiceName::new(&alias).ok()));
            names.extend(need.alias.as_ref().and_then(|alias| self.alias(callee, alias, at)));
            for name in names {
                // A name that two have is neither's.
                if self.draft.service(self.tenant, &name).is_some_and(|service| service.by == callee.workload) {
                    self.draft.allow(&from, (self.tenant, &name), None, (why, at))?;
                    self.report.inferred(at, format!("edge {} -> {name}, from {why}", from.name));
                }
            }
        }
        Ok(())
    }

    /// The callee's name, when there can be an edge to it.
    fn callable(&mut self, caller: &Named<'_>, callee: &Named<'_>, why: &str, at: &Location) -> Option<ServiceName> {
        let (from, to) = (&caller.service.key, &callee.service.key);
        if !share(caller, callee) {
            let what = format!("edge {from} -> {to}, from {why}: they are in no network together");
            self.report.not_carried(at, what);
            return None;
        }
        if callee.name.is_none() {
            let what = format!("edge {from} -> {to}, from {why}: no port of {to} is known; give it `expose:`");
            self.report.not_carried(at, what);
        }
        callee.name.clone()
    }

    /// Services that a program's environment names.
    fn mentions(&mut self, caller: &Named<'_>) {
        let from = WorkloadId::new(self.tenant.clone(), caller.workload.clone());
        for (variable, value, at) in &caller.service.environment {
            for host in mentions::hosts(variable, value) {
                let Some(callee) = self.by_key.get(host).filter(|callee| share(caller, callee)) else { continue };
                let Some(name) = &callee.name else { continue };
                if callee.workload != caller.workload && !self.draft.has_edge(&from, self.tenant, name) {
                    let line = edge_line(&from, self.tenant, name);
                    let what = format!(
                        "variable {variable} names {host}: to allow it, `{line}` under tenants.{}.allow",
                        self.tenant
                    );
                    self.report.suggested(at, what);
                }
            }
        }
    }

    /// A network that two share lets them reach each other, but says not that they do.
    fn shared(&mut self, all: &[Named<'_>]) {
        let mut networks: BTreeMap<&str, Vec<&Named<'_>>> = BTreeMap::new();
        for named in all {
            for network in named.service.networks.keys() {
                networks.entry(network).or_default().push(named);
            }
        }
        for (network, members) in networks {
            // Programs that nobody calls are there to call; databases and the like are there to be called.
            let mut callers: Vec<&Named<'_>> = members.clone();
            callers.sort_by_key(|one| (one.service.is_known_server, one.name.is_some()));
            let callees: Vec<_> = members.iter().filter_map(|one| Some((&one.workload, one.name.as_ref()?))).collect();
            let pairs = callers.iter().flat_map(|caller| callees.iter().map(move |callee| (&caller.workload, *callee)));
            let new = pairs.filter(|(from, (by, _))| from != by).filter_map(|(from, (_, name))| {
                let from = WorkloadId::new(self.tenant.clone(), from.clone());
                let has = self.draft.has_edge(&from, self.tenant, name);
                (!has).then(|| format!("`{}`", edge_line(&from, self.tenant, name)))
            });
            let mut lines: Vec<String> = new.take(SUGGESTED_MAX + 1).collect();
            if lines.len() > SUGGESTED_MAX {
                lines.truncate(SUGGESTED_MAX);
                lines.push("…".to_owned());
            }
            if let (Some(first), false) = (members.first(), lines.is_empty()) {
                let what = format!(
                    "network {network}: being in it allows no call; what could be written under tenants.{}.allow: {}",
                    self.tenant,
                    lines.join(", ")
                );
                self.report.suggested(&first.service.at, what);
            }
        }
    }
}

fn share(one: &Named<'_>, other: &Named<'_>) -> bool {
    one.service.networks.keys().any(|network| other.service.networks.contains_key(network))
}
