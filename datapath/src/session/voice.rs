//! The workload's own voice: what it says of itself on this host, and what becomes of it.
//!
//! 1. The graph lets a workload say so much ([`Change`]); everything else is refused.
//! 2. It speaks of itself alone, and of several replicas each of itself: of the endpoints that it serves here, and of its own calls. What is another's is answered
//!    like what does not exist.
//! 3. What it says holds until it says otherwise, loses its interface, or the graph does not let it any more. A drain and a
//!    share go to other hosts with this host's reports, and are believed there as far as the graph lets the workload say them.

use super::{
    context::Context,
    endpoints::{Said, State, Word, served},
    health,
};
use crate::interface::InterfaceId;
use ripstop_config::{
    HostName, Protocol, ServiceId, WorkloadId, ZoneName,
    graph::{Change, WEIGHT_MAX},
};
use ripstop_policy::{Policy, ServiceEntry};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Preferences of one workload at most: one for all services, and some for single ones.
const PATHS_MAX: usize = 64;

/// What a workload wants to be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Its endpoints take no new sessions, or take them again.
    Drain(bool),
    /// The share of its endpoints, as in the graph's `weights`; without one, the graph's.
    Weight(Option<u32>),
    /// Where its calls are led first; without one, to its host's zone.
    Path(Option<Prefer>),
    /// An instance of its endpoint listens at that port.
    Instance(u16),
    /// No instance listens at that port any more.
    NoInstance(u16),
}

/// One thing that a workload said, of a service or of all that it concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoken {
    /// The service; `None` for all others.
    pub service: Option<ServiceId>,
    /// What it wants to be so.
    pub wish: Wish,
}

/// Which endpoints are tried first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// Those in a zone.
    Zone(ZoneName),
    /// That of a host.
    Host(HostName),
}

/// What a workload is on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Standings {
    /// Its endpoints here.
    pub serves: Vec<OwnEndpoint>,
    /// Where its calls are led first, where it said so.
    pub paths: Vec<OwnPath>,
}

/// An endpoint, as its workload sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnEndpoint {
    /// The service.
    pub service: ServiceId,
    /// Whether it takes new sessions.
    pub state: State,
    /// Sessions that it has.
    pub sessions: u32,
    /// It takes none by its own word.
    pub drained: bool,
    /// Its share by its own word.
    pub weight: Option<u32>,
    /// The ports of its instances by its own word.
    pub instances: Vec<u16>,
}

/// Where calls are led first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnPath {
    /// Calls of this service; `None` for all others.
    pub service: Option<ServiceId>,
    /// Where to.
    #[serde(flatten)]
    pub prefer: Prefer,
}

/// Why something was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoiceError {
    /// The graph does not let it.
    #[error(
        "the graph does not let {workload} change that: under tenants.{tenant}.workloads.{name}, `{line}` would",
        tenant = workload.tenant, name = workload.name
    )]
    NotLet {
        /// Who asked.
        workload: WorkloadId,
        /// What would let it.
        line: String,
    },
    /// It is not of this workload here, if it is at all.
    #[error("this workload serves no `{0}` on this host")]
    NotServed(String),
    /// It has no endpoint here.
    #[error("this workload serves nothing on this host")]
    ServesNothing,
    /// It may not be called by this workload, if it is at all.
    #[error("this workload may call no `{0}`")]
    NotCalled(String),
    /// The graph does not have it.
    #[error("the graph has no {0}")]
    Unknown(String),
    /// It does not say of which service.
    #[error("this workload serves several services here: name one with `service`")]
    Which,
    /// Instances are of one port.
    #[error("{0} is not a service of one TCP port: its ports are the graph's to say")]
    NotOnePort(ServiceId),
    /// Out of range.
    #[error("a weight is a whole number from 0 to {WEIGHT_MAX}")]
    Weight,
    /// Port 0.
    #[error("a port is a whole number from 1 to 65535")]
    Port,
    /// More than are kept.
    #[error("there is no room for more of these; take others back first")]
    Full,
}

impl Wish {
    /// What it changes.
    #[must_use]
    pub fn change(&self) -> Change {
        match self {
            Self::Drain(_) => Change::Drain,
            Self::Weight(_) => Change::Weight,
            Self::Path(_) => Change::Path,
            Self::Instance(_) | Self::NoInstance(_) => Change::Instances,
        }
    }
}

/// Where the calls of this host's workloads are led first, by their own word. All data threads of the host share it; a session asks once.
#[derive(Default)]
pub struct Paths(Mutex<ByCaller>);

type ByCaller = BTreeMap<InterfaceId, BTreeMap<Option<ServiceId>, Prefer>>;

impl Paths {
    fn by_caller(&self) -> MutexGuard<'_, ByCaller> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a caller said of a service, or else of all.
    #[must_use]
    pub fn of(&self, caller: &InterfaceId, service: &ServiceId) -> Option<Prefer> {
        let paths = self.by_caller();
        let said = paths.get(caller)?;
        said.get(&Some(service.clone())).or_else(|| said.get(&None)).cloned()
    }

    fn set(&self, caller: &InterfaceId, service: Option<ServiceId>, prefer: Option<Prefer>) -> Result<(), VoiceError> {
        let mut paths = self.by_caller();
        let said = paths.entry(caller.clone()).or_default();
        match prefer {
            None => drop(said.remove(&service)),
            Some(_) if said.len() >= PATHS_MAX && !said.contains_key(&service) => return Err(VoiceError::Full),
            Some(prefer) => drop(said.insert(service, prefer)),
        }
        if said.is_empty() {
            paths.remove(caller);
        }
        Ok(())
    }

    fn list(&self, caller: &InterfaceId) -> Vec<OwnPath> {
        let paths = self.by_caller();
        let said = paths.get(caller).into_iter().flatten();
        said.map(|(service, prefer)| OwnPath { service: service.clone(), prefer: prefer.clone() }).collect()
    }

    /// What a policy does not let workloads say is forgotten.
    fn obey(&self, policy: &Policy) {
        let visible = |workload: &WorkloadId, service: &ServiceId| {
            let (caller, service) = (policy.workload(workload), policy.service(service));
            caller.zip(service).is_some_and(|(caller, service)| policy.visible(caller, service))
        };
        self.by_caller().retain(|who, said| {
            said.retain(|service, _| service.as_ref().is_none_or(|service| visible(&who.workload, service)));
            policy.may_change(&who.workload, Change::Path) && !said.is_empty()
        });
    }

    fn forget(&self, caller: &InterfaceId) {
        self.by_caller().remove(caller);
    }
}

/// What a workload, or one replica of it, is here.
#[must_use]
pub fn standings(context: &Context, who: &InterfaceId) -> Standings {
    let policy = context.policy();
    let own = own(context, &policy, &who.workload).into_iter();
    let serves = own.filter_map(|service| endpoint(context, &service.id, who));
    Standings { serves: serves.collect(), paths: context.paths.list(who) }
}

fn endpoint(context: &Context, service: &ServiceId, who: &InterfaceId) -> Option<OwnEndpoint> {
    let (state, sessions) = context.endpoints.standing_by(service, who)?;
    let Said { draining, weight, instances } = context.endpoints.said(service, who)?;
    Some(OwnEndpoint { service: service.clone(), state, sessions, drained: draining, weight, instances })
}

/// The services that a workload serves on this host.
fn own<'p>(context: &Context, policy: &'p Policy, workload: &WorkloadId) -> Vec<&'p ServiceEntry> {
    served(policy, &context.host).filter(|service| policy.workload_entry(service.by).id == *workload).collect()
}

/// A workload wants something to be so, of one service or of all that it concerns; returns what it is then.
///
/// # Errors
/// [`VoiceError`]; nothing has changed.
pub fn hear(
    context: &Rc<Context>,
    who: &InterfaceId,
    service: Option<&str>,
    wish: &Wish,
) -> Result<Standings, VoiceError> {
    let (policy, workload) = (context.policy(), &who.workload);
    if !policy.may_change(workload, wish.change()) {
        return Err(not_let(&policy, workload, wish.change()));
    }
    match wish {
        Wish::Path(prefer) => prefer_path(context, &policy, who, service, prefer.clone())?,
        Wish::Weight(Some(weight)) if *weight > WEIGHT_MAX => return Err(VoiceError::Weight),
        Wish::Weight(weight) => say(context, &policy, who, service, Word::Weight(*weight))?,
        Wish::Drain(draining) => say(context, &policy, who, service, Word::Draining(*draining))?,
        Wish::Instance(0) | Wish::NoInstance(0) => return Err(VoiceError::Port),
        Wish::Instance(port) => say_instance(context, &policy, who, service, Word::Instance(*port))?,
        Wish::NoInstance(port) => say_instance(context, &policy, who, service, Word::NoInstance(*port))?,
    }
    Ok(standings(context, who))
}

fn not_let(policy: &Policy, workload: &WorkloadId, change: Change) -> VoiceError {
    let has = policy.graph().workloads.get(workload).map(|workload| workload.may.clone()).unwrap_or_default();
    let would: BTreeSet<_> = has.into_iter().chain([change]).collect();
    VoiceError::NotLet { workload: workload.clone(), line: Change::line(&would) }
}

fn say(
    context: &Context,
    policy: &Policy,
    who: &InterfaceId,
    service: Option<&str>,
    word: Word,
) -> Result<(), VoiceError> {
    let meant = meant(own(context, policy, &who.workload), &who.workload, service)?;
    let all = meant.iter().map(|service| context.endpoints.say(&service.id, who, word));
    // No `all`: what fits of one is no reason to leave another out.
    if all.fold(true, |said, one| said & one) { Ok(()) } else { Err(VoiceError::Full) }
}

/// Those that a text means, of the services that a workload serves here.
fn meant<'p>(
    own: Vec<&'p ServiceEntry>,
    workload: &WorkloadId,
    text: Option<&str>,
) -> Result<Vec<&'p ServiceEntry>, VoiceError> {
    match text {
        _ if own.is_empty() => Err(VoiceError::ServesNothing),
        None => Ok(own),
        Some(text) => {
            let found = own.into_iter().find(|service| is_named(&service.id, workload, text));
            Ok(vec![found.ok_or_else(|| VoiceError::NotServed(text.into()))?])
        }
    }
}

/// `shop/api`, or `api` in the workload's own tenant.
fn is_named(service: &ServiceId, workload: &WorkloadId, text: &str) -> bool {
    service.to_string() == text || (service.tenant == workload.tenant && service.name.as_str() == text)
}

fn say_instance(
    context: &Rc<Context>,
    policy: &Policy,
    who: &InterfaceId,
    service: Option<&str>,
    word: Word,
) -> Result<(), VoiceError> {
    let meant = meant(own(context, policy, &who.workload), &who.workload, service)?;
    let [service] = meant.as_slice() else { return Err(VoiceError::Which) };
    if !matches!(service.ports.as_slice(), [port] if port.protocol == Protocol::Tcp) {
        return Err(VoiceError::NotOnePort(service.id.clone()));
    }
    if !context.endpoints.say(&service.id, who, word) {
        return Err(VoiceError::Full);
    }
    // Its check asks the first instance.
    health::follow(context);
    Ok(())
}

fn prefer_path(
    context: &Context,
    policy: &Policy,
    who: &InterfaceId,
    service: Option<&str>,
    prefer: Option<Prefer>,
) -> Result<(), VoiceError> {
    let service = service.map(|text| called(policy, &who.workload, text)).transpose()?;
    let hosts = &policy.graph().hosts;
    match &prefer {
        Some(Prefer::Host(host)) if !hosts.contains_key(host) => Err(VoiceError::Unknown(format!("host `{host}`"))),
        Some(Prefer::Zone(zone)) if !hosts.values().any(|host| host.zone.as_ref() == Some(zone)) => {
            Err(VoiceError::Unknown(format!("zone `{zone}`")))
        }
        Some(_) | None => context.paths.set(who, service, prefer),
    }
}

fn called(policy: &Policy, workload: &WorkloadId, text: &str) -> Result<ServiceId, VoiceError> {
    let caller = policy.workload(workload).into_iter();
    let mut visible = caller.flat_map(|caller| policy.visible_services(caller)).map(|ix| &policy.service_entry(ix).id);
    let found = visible.find(|service| is_named(service, workload, text));
    found.cloned().ok_or_else(|| VoiceError::NotCalled(text.into()))
}

/// After another policy is in force: what it does not let workloads say is forgotten.
pub fn obey(context: &Context) {
    let policy = context.policy();
    for service in served(&policy, &context.host) {
        let by = &policy.workload_entry(service.by).id;
        for interface in context.interfaces_of(by) {
            context.endpoints.unsay(&service.id, interface.id(), |change| policy.may_change(by, change));
        }
    }
    context.paths.obey(&policy);
}

/// Forgets what was said by an interface that is gone, or another one, as who spoke may be.
pub fn forget(context: &Context, who: &InterfaceId) {
    let policy = context.policy();
    for service in own(context, &policy, &who.workload) {
        context.endpoints.unsay(&service.id, who, |_| false);
    }
    context.paths.forget(who);
}

/// All that was said by an interface, to be said again to the next agent of this host.
#[must_use]
pub fn spoken(context: &Context, who: &InterfaceId) -> Vec<Spoken> {
    let Standings { serves, paths } = standings(context, who);
    let of_endpoint = |OwnEndpoint { service, drained, weight, instances, .. }| {
        let drain = drained.then_some(Wish::Drain(true));
        let weight = weight.map(|weight| Wish::Weight(Some(weight)));
        let wishes = drain.into_iter().chain(weight).chain(instances.into_iter().map(Wish::Instance));
        wishes.map(move |wish| Spoken { service: Some(service.clone()), wish })
    };
    let paths = paths.into_iter().map(|OwnPath { service, prefer }| Spoken { service, wish: Wish::Path(Some(prefer)) });
    serves.into_iter().flat_map(of_endpoint).chain(paths).collect()
}

/// Hears what was said to the agent before. What may not be said any more is left out.
pub fn hear_again(context: &Rc<Context>, who: &InterfaceId, said: Vec<Spoken>) {
    for Spoken { service, wish } in said {
        let service = service.map(|service| service.to_string());
        if let Err(error) = hear(context, who, service.as_deref(), &wish) {
            tracing::warn!(%who, %error, "what it said before is not so any more");
        }
    }
}

/// What was said by an interface, for people: `drains shop/api`, `prefers zone eu-2`.
#[must_use]
pub fn described(context: &Context, who: &InterfaceId) -> Vec<String> {
    let Standings { serves, paths } = standings(context, who);
    let mut said = Vec::new();
    for OwnEndpoint { service, drained, weight, instances, .. } in serves {
        said.extend(drained.then(|| format!("drains {service}")));
        said.extend(weight.map(|weight| format!("weight {weight} for {service}")));
        let ports: Vec<_> = instances.iter().map(u16::to_string).collect();
        said.extend((!ports.is_empty()).then(|| format!("{service} at port {}", ports.join(", "))));
    }
    for OwnPath { service, prefer } in paths {
        let place = match prefer {
            Prefer::Zone(zone) => format!("zone {zone}"),
            Prefer::Host(host) => format!("host {host}"),
        };
        said.push(service.map_or(format!("prefers {place}"), |service| format!("prefers {place} for {service}")));
    }
    said
}
