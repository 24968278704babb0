//! Whose packets are captured while they are: which interfaces have a tap, and which flows it wants.
//!
//! 1. A capture begins: each interface that the calls pass gets a [`Tap`], and the sessions that are open are looked through.
//! 2. Each session is looked at again when its flow is known, and when it is open. Where another host asks, the flow is wanted
//!    only once that host is the session's other end; what began it waits in the tap until then.
//! 3. A flow that is of no session of the capture is disclaimed, as it may be the second with its addresses and ports. So is one
//!    of UDP when its session ends; of TCP the last segments come after that, and the tap itself disclaims what begins anew.
//!
//! Without a capture a session costs two looks at an empty list, and its packets one at a flag.

use super::{context::Context, live::Live};
use crate::{
    capture::{Asked, Begun, Target},
    interface::{Interface, InterfaceId},
    stack::{Flow, Outflow, Tap},
};
use ripstop_config::{HostName, Protocol, WorkloadId, graph::Source};
use ripstop_policy::{Policy, ServiceEntry};
use ripstop_telemetry::Side;
use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Arc};

/// A capture on this host.
#[derive(Debug, Clone)]
pub struct Capture {
    /// By which number it is known.
    pub id: u64,
    /// What was asked for.
    pub asked: Asked,
    /// The host that asks, where that is another one: it is shown nothing but sessions with itself.
    pub peer: Option<HostName>,
    /// Where copies go.
    pub outflow: Arc<Outflow>,
}

/// The captures under way.
#[derive(Debug, Default)]
pub struct Captures {
    running: RefCell<Vec<Rc<Running>>>,
}

#[derive(Debug)]
struct Running {
    capture: Capture,
    /// Whose interfaces get a tap before any session of theirs.
    workloads: BTreeSet<WorkloadId>,
}

impl Captures {
    /// Begins a capture; says what is seen, what is not, and which other hosts the sessions concern.
    ///
    /// # Errors
    /// Why there is nothing to be seen here, for people.
    pub fn begin(&self, context: &Context, capture: Capture) -> Result<Begun, String> {
        let seen = match &capture.asked.target {
            Target::Service(_) => Seen::of_service(context, &capture)?,
            Target::Session(_) => Seen::of_session(context, &capture)?,
        };
        let Seen { workloads, interfaces, hosts, gaps } = seen;
        let begun = Begun {
            id: capture.id,
            workloads: workloads.iter().cloned().collect(),
            interfaces: Some(interfaces.into_iter().collect()),
            gaps,
            hosts: hosts.into_iter().collect(),
        };
        let running = Rc::new(Running { capture, workloads });
        running.workloads.iter().flat_map(|workload| context.interfaces_of(workload)).for_each(|one| running.tap(&one));
        self.running.borrow_mut().push(Rc::clone(&running));
        context.live.for_each(|live| running.follow(live));
        Ok(begun)
    }

    /// Ends a capture: nothing is copied for it any more.
    pub fn end(&self, context: &Context, id: u64) {
        self.running.borrow_mut().retain(|running| running.capture.id != id);
        context.interfaces().iter().for_each(|interface| interface.port().remove_tap(id));
    }

    /// A session's flow is known, or its other end.
    pub fn follow(&self, live: &Live) {
        for running in &*self.running.borrow() {
            running.follow(live);
        }
    }

    /// A session has ended.
    pub fn ended(&self, live: &Live) {
        let running = self.running.borrow();
        for running in running.iter().filter(|_| live.request.port.protocol == Protocol::Udp) {
            for (interface, flow) in flows(live) {
                interface.port().tap(running.capture.id).into_iter().for_each(|tap| tap.disclaim(flow));
            }
        }
    }

    /// A workload has another interface.
    pub fn attached(&self, interface: &Interface) {
        let running = self.running.borrow();
        let concerned = running.iter().filter(|running| running.workloads.contains(interface.workload()));
        concerned.for_each(|running| running.tap(interface));
    }
}

impl Running {
    fn tap(&self, interface: &Interface) {
        interface.port().put_tap(Tap::new(self.capture.id, interface.id(), &self.capture.outflow));
    }

    fn follow(&self, live: &Live) {
        let Some(is_wanted) = self.capture.wants(live) else { return };
        for (interface, flow) in flows(live) {
            let Capture { id, outflow, .. } = &self.capture;
            match (interface.port().tap(*id), is_wanted) {
                (Some(tap), true) => tap.claim(flow),
                (Some(tap), false) => tap.disclaim(flow),
                (None, true) => interface.port().put_tap(Tap::new(*id, interface.id(), outflow)).claim(flow),
                (None, false) => {}
            }
        }
    }
}

impl Capture {
    /// Whether a session is one that is asked for, by whoever asks; `None` as long as its other end is not known.
    fn wants(&self, live: &Live) -> Option<bool> {
        let request = &live.request;
        let is_target = match &self.asked.target {
            Target::Service(service) => request.service.as_ref() == Some(service),
            Target::Session(id) => live.id.0 == *id,
        };
        if !is_target || self.asked.from.as_ref().is_some_and(|from| *from != request.caller) {
            return Some(false);
        }
        match (&self.peer, request.side) {
            (None, _) => Some(true),
            (Some(peer), Side::Server) => Some(request.speaker == *peer),
            (Some(peer), Side::Caller) => live.endpoint_host.borrow().as_ref().map(|serving| serving == peer),
        }
    }
}

/// The host at the other end of a session, if it is another one and known.
fn other_end(live: &Live, host: &HostName) -> Option<HostName> {
    let other = match live.request.side {
        Side::Caller => live.endpoint_host.borrow().clone(),
        Side::Server => Some(live.request.speaker.clone()),
    };
    other.filter(|other| other != host)
}

/// The flows of a session at this host, and past whose interfaces they go.
fn flows(live: &Live) -> impl Iterator<Item = (Rc<Interface>, Flow)> {
    let protocol = live.request.port.protocol;
    let of = |interface: Option<Rc<Interface>>, key| Some((interface?, (protocol, key?)));
    let caller = of(live.called_by(), live.caller_flow.get());
    caller.into_iter().chain(of(live.served_by(), live.endpoint_flow.get()))
}

/// What a capture sees at this host.
#[derive(Default)]
struct Seen {
    workloads: BTreeSet<WorkloadId>,
    /// Those that there are of these, and that concern it.
    interfaces: BTreeSet<InterfaceId>,
    hosts: BTreeSet<HostName>,
    gaps: Vec<String>,
}

impl Seen {
    /// The interfaces of the service's callers and of its endpoint here, as far as calls between here and whoever asks pass them.
    fn of_service(context: &Context, Capture { asked, peer, .. }: &Capture) -> Result<Self, String> {
        let (policy, host) = (context.policy(), &context.host);
        let Target::Service(service) = &asked.target else { return Ok(Self::default()) };
        let found = policy.service(service).ok_or_else(|| format!("the policy of {host} has no service {service}"))?;
        let entry = policy.service_entry(found);
        let callers = callers(&policy, entry, asked.from.as_ref());
        let is_served = |by: &HostName| entry.hosts.contains(by);
        let mut seen = Self::default();
        if peer.as_ref().is_none_or(is_served) {
            for (caller, _) in callers.iter().filter(|(_, on)| on.contains(host)) {
                seen.see(context, caller);
                seen.hosts.extend(entry.hosts.iter().cloned());
            }
        }
        let is_called = |by: &HostName| callers.iter().any(|(_, on)| on.contains(by));
        if is_served(host) && !callers.is_empty() && peer.as_ref().is_none_or(is_called) {
            seen.see_endpoint(context, &policy, entry);
            seen.hosts.extend(callers.into_iter().flat_map(|(_, on)| on));
        }
        if seen.workloads.is_empty() && seen.gaps.is_empty() {
            return Err(match peer {
                Some(peer) => format!("by the policy of {host}, no {} go between it and {peer}", asked.target),
                None => format!("by the policy of {host}, no {} begin or end on it", asked.target),
            });
        }
        seen.hosts.remove(host);
        Ok(seen)
    }

    /// The interfaces of an open session.
    fn of_session(context: &Context, capture: &Capture) -> Result<Self, String> {
        let (policy, mut seen, mut is_open) = (context.policy(), Self::default(), false);
        context.live.for_each(|live| {
            if capture.wants(live) != Some(true) {
                return;
            }
            is_open = true;
            seen.hosts.extend(other_end(live, &context.host));
            for (interface, _) in flows(live) {
                seen.workloads.insert(interface.workload().clone());
                seen.interfaces.insert(interface.id().clone());
            }
            let service = live.request.service.as_ref().and_then(|service| policy.service(service));
            if let (Some(service), None, true) = (service, live.endpoint_flow.get(), live.serving.borrow().is_some()) {
                seen.gaps.push(no_interface(context, &policy, policy.service_entry(service)));
            }
        });
        if is_open { Ok(seen) } else { Err(format!("{} is not open on {}", capture.asked.target, context.host)) }
    }

    fn see(&mut self, context: &Context, workload: &WorkloadId) {
        self.workloads.insert(workload.clone());
        let there = context.interfaces_of(workload);
        self.interfaces.extend(there.iter().map(|interface| interface.id().clone()));
        if there.is_empty() {
            self.gaps.push(format!("{workload} has no interface on {} so far", context.host));
        }
    }

    fn see_endpoint(&mut self, context: &Context, policy: &Policy, entry: &ServiceEntry) {
        let by = policy.workload_entry(entry.by);
        match entry.source {
            Source::Usual | Source::ProxyV2 if !by.run.has_namespace() => {
                self.gaps.push(no_interface(context, policy, entry));
            }
            Source::Usual | Source::ProxyV2 | Source::Preserve => self.see(context, &by.id),
        }
    }
}

/// The endpoint is reached by a socket of the host.
fn no_interface(context: &Context, policy: &Policy, entry: &ServiceEntry) -> String {
    let (by, host) = (policy.workload_entry(entry.by), &context.host);
    format!(
        "the endpoint of {} on {host} is called by a socket of the host (`run: {}`): its packets pass no interface of the fabric; \
         `tcpdump -i lo` on {host} shows them",
        entry.id, by.run
    )
}

/// Who may call a service, and on which hosts they run.
fn callers(policy: &Policy, entry: &ServiceEntry, only: Option<&WorkloadId>) -> Vec<(WorkloadId, Vec<HostName>)> {
    let edges = policy.graph().edges.iter().filter(|edge| edge.to == entry.id);
    let callers: BTreeSet<_> =
        edges.map(|edge| &edge.from).filter(|from| only.is_none_or(|only| only == *from)).collect();
    let known = callers.into_iter().filter_map(|id| {
        let entry = policy.workload_entry(policy.workload(id)?);
        Some((id.clone(), entry.on.clone()))
    });
    known.collect()
}
