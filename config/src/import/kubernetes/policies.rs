//! NetworkPolicies: who may call whom, read as the edges that they mean (Kubernetes, "Network Policies").
//!
//! In Kubernetes a connection passes unless a policy that selects one of its two ends forbids it. Here it passes when an edge
//! says so. An edge is made where both ends' policies let the connection pass and at least one of them names the other end:
//! what passes because no policy speaks of it, or because a rule lets everybody in, is nobody's decision yet.

use super::{
    objects::Object,
    selector::{Labels, Selector},
    services::Served,
    workloads::{Workload, protocol_of},
};
use crate::{
    Location, Port,
    import::{
        ImportError,
        draft::Draft,
        report::Report,
        tree::{Branch, Tree},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Comparisons of a rule with a pair of ends: 1 000 policies over 200 workloads and services take a second.
const COMPARED_MAX: usize = 50_000_000;

/// Who is at the other end of a rule of what comes in, and of what goes out.
const CALLERS: &str = "from";
const CALLEES: &str = "to";

/// One direction of one policy.
#[derive(Debug)]
struct Side {
    /// The workloads that it selects.
    of: BTreeSet<usize>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// The workloads at the other end; `None` for everybody.
    peers: Option<BTreeSet<usize>>,
    /// `None` for all.
    ports: Option<Vec<PortRule>>,
    at: Location,
}

#[derive(Debug)]
struct PortRule {
    protocol: crate::Protocol,
    which: Which,
}

#[derive(Debug)]
enum Which {
    All,
    Range(u16, u16),
    Name(String),
}

/// What one end's policies say of a connection.
#[derive(Debug, Clone)]
enum Said {
    /// None of them lets it pass.
    No,
    /// It passes, but none of them names the other end.
    Unsaid,
    /// It passes, by this rule.
    Named(Location),
}

/// All policies, over the workloads of the manifests.
pub(super) struct Policies<'p> {
    workloads: &'p [Workload],
    namespaces: &'p BTreeMap<String, Labels>,
    ingress: Vec<Side>,
    egress: Vec<Side>,
}

impl<'p> Policies<'p> {
    pub(super) fn new(workloads: &'p [Workload], namespaces: &'p BTreeMap<String, Labels>) -> Self {
        Self { workloads, namespaces, ingress: Vec::new(), egress: Vec::new() }
    }

    /// Reads a NetworkPolicy. One that cannot be understood selects its whole namespace, and lets nothing pass.
    pub(super) fn add(&mut self, object: &Object<'_>, report: &mut Report) {
        let spec = object.tree.get("spec");
        let given = |name: &str| spec.and_then(|spec| spec.get(name));
        let Some(selector) = given("podSelector").map_or(Some(Selector::default()), Selector::read) else {
            let what = "an operator of its podSelector is not known: nothing passes in its namespace";
            report.not_carried(object.at, format!("{}: {what}", object.shown()));
            let of = self.select(None, object.namespace, &Selector::default());
            self.ingress.push(Side { of: of.clone(), rules: Vec::new() });
            self.egress.push(Side { of, rules: Vec::new() });
            return;
        };
        let of: BTreeSet<usize> = self.select(None, object.namespace, &selector);
        let types = given("policyTypes").map(Tree::items).unwrap_or_default();
        let typed = |name: &str| types.iter().any(|one| one.text() == Some(name));
        report.used(object.at, format!("{}: selects {} of the workloads", object.shown(), of.len()));
        // Without `policyTypes` it is of what comes in, and of what goes out where it says something of that.
        if typed("Ingress") || !typed("Egress") {
            let rules = self.rules(object, given("ingress"), CALLERS, report);
            self.ingress.push(Side { of: of.clone(), rules });
        }
        if typed("Egress") || (types.is_empty() && given("egress").is_some()) {
            let rules = self.rules(object, given("egress"), CALLEES, report);
            self.egress.push(Side { of, rules });
        }
    }

    fn rules(&self, object: &Object<'_>, rules: Option<&Tree>, peers: &str, report: &mut Report) -> Vec<Rule> {
        let rules = rules.map(Tree::items).unwrap_or_default();
        rules.iter().map(|rule| self.rule(object, rule, peers, report)).collect()
    }

    fn rule(&self, object: &Object<'_>, rule: &Tree, key: &str, report: &mut Report) -> Rule {
        let named = rule.get(key).filter(|peers| says_something(peers));
        let peers = named.map(|peers| {
            peers.items().iter().flat_map(|peer| self.peer(object, peer, report)).collect::<BTreeSet<usize>>()
        });
        let shown = object.shown();
        match (&peers, key) {
            (None, CALLEES) => report.used(&rule.at, format!("{shown}: may call whoever names it: no edge by itself")),
            (None, _) => {
                let what = "a rule for everybody names nobody, and is no edge: write the callers that are meant";
                report.not_carried(&rule.at, format!("{shown}: {what}"));
            }
            (Some(_), _) => {}
        }
        let ports = rule.get("ports").filter(|ports| says_something(ports));
        let ports =
            ports.map(|ports| ports.items().iter().filter_map(|port| port_rule(object, port, report)).collect());
        Rule { peers, ports, at: rule.at.clone() }
    }

    fn peer(&self, object: &Object<'_>, peer: &Tree, report: &mut Report) -> BTreeSet<usize> {
        if let Some(block) = peer.get("ipBlock") {
            let what = format!(
                "{}: ipBlock: callers are workloads here, and what is outside has no address in the fabric",
                object.shown()
            );
            report.not_carried(&block.at, what);
            return BTreeSet::new();
        }
        let read = |key: &str| peer.get(key).map_or(Some(None), |tree| Selector::read(tree).map(Some));
        let (Some(pods), Some(spaces)) = (read("podSelector"), read("namespaceSelector")) else {
            report.not_carried(&peer.at, format!("{}: an operator of its selector is not known", object.shown()));
            return BTreeSet::new();
        };
        if pods.is_none() && spaces.is_none() {
            report.not_carried(&peer.at, format!("{}: a peer that selects nothing", object.shown()));
            return BTreeSet::new();
        }
        let found = self.select(spaces.as_ref(), object.namespace, &pods.unwrap_or_default());
        report.used(&peer.at, format!("{}: names {} of the workloads", object.shown(), found.len()));
        found
    }

    /// Workloads by their labels, in the namespaces that are selected or in one.
    fn select(&self, spaces: Option<&Selector>, own: &str, pods: &Selector) -> BTreeSet<usize> {
        let in_space = |namespace: &str| match spaces {
            Some(spaces) => self.namespaces.get(namespace).is_some_and(|labels| spaces.matches(labels)),
            None => namespace == own,
        };
        let all = self.workloads.iter().enumerate();
        all.filter(|(_, one)| in_space(&one.namespace) && pods.matches(&one.labels)).map(|(at, _)| at).collect()
    }

    /// Makes the edges.
    pub(super) fn edges(&self, services: &[Served], draft: &mut Draft, report: &mut Report) -> Result<(), ImportError> {
        let mut compared = 0_usize;
        for service in services {
            let callee = &self.workloads[service.by];
            let incoming: Vec<&Side> = self.ingress.iter().filter(|side| side.of.contains(&service.by)).collect();
            for (at, caller) in self.workloads.iter().enumerate().filter(|(at, _)| *at != service.by) {
                let outgoing: Vec<&Side> = self.egress.iter().filter(|side| side.of.contains(&at)).collect();
                compared += self.egress.len() + (1 + incoming.len() + outgoing.len()) * service.targets.len();
                if compared > COMPARED_MAX {
                    let what = "there are too many policies and workloads to compare: import them in parts".to_owned();
                    return Err(ImportError::Refused { at: callee.at.clone(), what });
                }
                let (mut ports, mut rule) = (BTreeSet::new(), None);
                for (port, target) in &service.targets {
                    let said = [said(&incoming, at, callee, *target), said(&outgoing, service.by, callee, *target)];
                    if let Some(by) = both(said) {
                        ports.insert(*port);
                        rule = rule.or(Some(by));
                    }
                }
                if let Some(rule) = rule {
                    let to = format!("{}/{}", service.tenant, service.name);
                    draft.allow(&caller.id, (&service.tenant, &service.name), Some(ports), ("NetworkPolicy", &rule))?;
                    report.inferred(&rule, format!("edge {} -> {to}", caller.id));
                }
            }
        }
        Ok(())
    }
}

/// Nothing, or an empty list, means everybody or every port; what is no list means nobody and none.
fn says_something(tree: &Tree) -> bool {
    match &tree.value {
        Branch::Nothing => false,
        Branch::List(items) => !items.is_empty(),
        Branch::Text(_) | Branch::Map(_) => true,
    }
}

/// What the policies that select one end say of the other.
fn said(sides: &[&Side], other: usize, callee: &Workload, port: Port) -> Said {
    if sides.is_empty() {
        return Said::Unsaid;
    }
    let mut answer = Said::No;
    for rule in sides.iter().flat_map(|side| &side.rules) {
        if rule.ports.as_ref().is_some_and(|ports| !ports.iter().any(|one| one.fits(callee, port))) {
            continue;
        }
        match &rule.peers {
            None => answer = Said::Unsaid,
            Some(peers) if peers.contains(&other) => return Said::Named(rule.at.clone()),
            Some(_) => {}
        }
    }
    answer
}

/// The rule by which there is an edge: the callee's, as it is the stricter statement, or the caller's.
fn both(said: [Said; 2]) -> Option<Location> {
    match said {
        [Said::No, _] | [_, Said::No] | [Said::Unsaid, Said::Unsaid] => None,
        [Said::Named(at), _] | [Said::Unsaid, Said::Named(at)] => Some(at),
    }
}

fn port_rule(object: &Object<'_>, node: &Tree, report: &mut Report) -> Option<PortRule> {
    let Some(protocol) = protocol_of(node.text_at(&["protocol"])) else {
        report.not_carried(&node.at, format!("{}: the fabric carries TCP and UDP", object.shown()));
        return None;
    };
    let which = match node.get("port").map(|port| &port.value) {
        None | Some(Branch::Nothing) => Which::All,
        Some(Branch::Text(text)) => match text.parse::<u16>() {
            Ok(first) => {
                let end = node.text_at(&["endPort"]).and_then(|end| end.parse().ok());
                Which::Range(first, end.unwrap_or(first))
            }
            Err(_) => Which::Name(text.clone()),
        },
        Some(Branch::List(_) | Branch::Map(_)) => {
            report.not_carried(&node.at, format!("{}: no port", object.shown()));
            return None;
        }
    };
    Some(PortRule { protocol, which })
}

impl PortRule {
    fn fits(&self, callee: &Workload, port: Port) -> bool {
        self.protocol == port.protocol
            && match &self.which {
                Which::All => true,
                Which::Range(first, last) => (*first..=*last).contains(&port.number),
                Which::Name(name) => {
                    callee.ports.iter().any(|(named, one)| named.as_ref() == Some(name) && *one == port)
                }
            }
    }
}
