//! Active checks of this host's endpoints, as sessions would reach them.
//!
//! 1. [`follow`] starts a check for each endpoint that the policy wants checked, at each interface that its workload has, and
//!    ends those that are not wanted any more.
//! 2. Until the first result the endpoint is taken to be well. [`FAILURES`] bad results in a row make it unhealthy, one good
//!    result makes it healthy again.
//! 3. A connection is made in nobody's name; for HTTP, a path is asked for and the status read. Then it is closed.

use super::{
    context::{Context, random},
    endpoints::Said,
    pump::{Got, Sink, Source},
    reach::{self, Reached, Targets, proxy},
    sides::UserTcp,
};
use crate::interface::{Interface, InterfaceId};
use bytes::Bytes;
use ripstop_config::{
    Protocol, Reason, ServiceId,
    graph::{self, Check, Health},
};
use ripstop_policy::{Policy, ServiceEntry};
use ripstop_telemetry::instruments;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use tokio::task::JoinHandle;

/// Bad results in a row that make an endpoint unhealthy: one may be a moment's.
const FAILURES: u32 = 2;
/// Bytes read of an HTTP answer: its status is at the start, after interim answers at most.
const ANSWER_BYTES: usize = 1024;
/// Bytes that are thrown away while the endpoint closes its side, so that it can finish what it says.
const CLOSE_BYTES: usize = 64 * 1024;
/// How long an endpoint may take to close its side before the connection is reset.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// The checks that are running.
#[derive(Default)]
pub struct Checks(RefCell<BTreeMap<(ServiceId, InterfaceId), Running>>);

struct Running {
    plan: Plan,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    service: ServiceId,
    at: InterfaceId,
    health: Health,
    targets: Targets,
    /// What is sent first.
    request: Bytes,
}

impl Checks {
    /// Ends the checks at an interface that is gone or another one.
    pub fn stop(&self, interface: &InterfaceId) {
        self.0.borrow_mut().retain(|(_, at), _| at != interface);
    }

    fn services(&self) -> BTreeSet<ServiceId> {
        self.0.borrow().keys().map(|(service, _)| service.clone()).collect()
    }
}

/// Starts and ends checks, and says which endpoints this host has, as the policy and the interfaces want it. To be called
/// whenever either has changed.
pub fn follow(context: &Rc<Context>) {
    if context.only_drains.get() {
        return;
    }
    let policy = context.policy();
    let ids = |interfaces: Vec<Rc<Interface>>| interfaces.iter().map(|one| one.id().clone()).collect::<Vec<_>>();
    let served: Vec<_> = super::endpoints::served(&policy, &context.host)
        .map(|entry| (entry, ids(context.interfaces_of(&policy.workload_entry(entry.by).id))))
        .collect();
    context.endpoints.serve(served.iter().map(|(entry, interfaces)| (&entry.id, interfaces.clone())));
    context.balancer.retain(|service, host| {
        policy.service(service).is_some_and(|service| policy.service_entry(service).hosts.contains(host))
    });
    let interfaces = served.into_iter().flat_map(|(entry, ids)| ids.into_iter().map(move |id| (entry, id)));
    let plans =
        interfaces.filter_map(|(entry, id)| Plan::of(&policy, entry, context.endpoints.said(&entry.id, &id), id));
    let checked_before = context.checks.services();
    let mut before = std::mem::take(&mut *context.checks.0.borrow_mut());
    let mut checks = BTreeMap::new();
    for plan in plans {
        let key = (plan.service.clone(), plan.at.clone());
        let running = match before.remove(&key) {
            Some(running) if running.plan == plan => running,
            Some(_) | None => start(context, plan),
        };
        checks.insert(key, running);
    }
    // What is not checked, or checked in another way, is not known to be unhealthy.
    for (service, at) in before.into_keys() {
        context.endpoints.set_healthy(&service, &at, true);
    }
    *context.checks.0.borrow_mut() = checks;
    checked_before.difference(&context.checks.services()).for_each(|over| instruments::endpoint_healthy(over, None));
}

/// Ends all checks.
pub fn stop(context: &Context) {
    context.checks.services().iter().for_each(|over| instruments::endpoint_healthy(over, None));
    context.checks.0.borrow_mut().clear();
}

fn start(context: &Rc<Context>, plan: Plan) -> Running {
    context.endpoints.set_healthy(&plan.service, &plan.at, true);
    let task = tokio::task::spawn_local(watch(Rc::clone(context), plan.clone()));
    Running { plan, task }
}

impl Plan {
    /// None when the endpoint is not to be checked.
    fn of(policy: &Policy, service: &ServiceEntry, said: Option<Said>, at: InterfaceId) -> Option<Self> {
        let health = service.health.clone()?;
        let serving = service.ports.iter().find(|port| port.protocol == Protocol::Tcp);
        let number = health.port.or(serving.map(|port| port.number))?;
        let mut targets = Targets::of(policy, service, number, false);
        if let Some(port) = health.port.or(said.and_then(|said| said.instances.first().copied())) {
            targets = targets.with_port(port);
        }
        let local = service.source == graph::Source::ProxyV2 && health.port.is_none();
        let mut request = if local { proxy::LOCAL.to_vec() } else { Vec::new() };
        match &health.check {
            Check::Tcp => {}
            Check::Http(path) => {
                let name = service.id.dns_name(policy.fabric());
                request.extend(get(path, &name, targets.first.port()).into_bytes());
            }
        }
        Some(Self { service: service.id.clone(), at, health, targets, request: request.into() })
    }
}

/// RFC 9112 section 3; the Host field as in RFC 9110 section 7.2.
fn get(path: &str, name: &str, port: u16) -> String {
    let port = if port == 80 { String::new() } else { format!(":{port}") };
    let agent = concat!("ripstop/", env!("CARGO_PKG_VERSION"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {name}{port}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
}

/// Checks for ever.
async fn watch(context: Rc<Context>, plan: Plan) {
    let every = plan.health.every;
    // Checks that start together, as those of all services do, come apart from the second on.
    let mut pause = every.mul_f64(random() as f64 / u64::MAX as f64);
    let mut failures = 0_u32;
    loop {
        let result = check(&context, &plan).await;
        match result {
            Ok(()) => failures = 0,
            Err(_) => failures = failures.saturating_add(1),
        }
        judge(&context, &plan, failures, result);
        tokio::time::sleep(std::mem::replace(&mut pause, every)).await;
    }
}

fn judge(context: &Context, plan: &Plan, failures: u32, result: Result<(), String>) {
    let Plan { service, at, targets: Targets { first: target, .. }, .. } = plan;
    match result {
        Ok(()) => {
            if context.endpoints.set_healthy(service, at, true) {
                tracing::info!(%service, %at, %target, "the endpoint is healthy again");
            }
        }
        Err(why) if failures >= FAILURES => {
            if context.endpoints.set_healthy(service, at, false) {
                tracing::warn!(%service, %at, %target, why, "the endpoint is unhealthy: it gets no new sessions");
            }
        }
        Err(why) => return tracing::debug!(%service, %at, %target, why, "a failed health check"),
    }
    instruments::endpoint_healthy(service, Some(context.endpoints.is_healthy(service)));
}

/// One check; the error says what was found.
async fn check(context: &Context, plan: &Plan) -> Result<(), String> {
    let most = plan.health.every.min(Health::ANSWER_MAX);
    match tokio::time::timeout(most, ask(context, plan)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {most:?}")),
    }
}

async fn ask(context: &Context, plan: &Plan) -> Result<(), String> {
    let policy = context.policy();
    let service = policy.service(&plan.service).ok_or_else(|| Reason::NoService.describe().to_owned())?;
    let interface = context.interface(&plan.at).ok_or_else(|| Reason::NoInterface.describe().to_owned())?;
    let reached = reach::probe(context, &policy, policy.service_entry(service), &interface, plan.targets).await;
    let mut connection = Connection(Some(reached.map_err(|unreached| unreached.reason.describe().to_owned())?));
    let Some(reached) = &connection.0 else { return Ok(()) };
    let result = match reached {
        Reached::User(endpoint, _) => {
            let half = || UserTcp::new(endpoint, Reason::EndpointReset);
            tokio::select! {
                result = exchange(half(), half(), plan) => result,
                never = endpoint.drive() => match never {},
            }
        }
        Reached::Kernel(stream) => {
            let (source, sink) = Reached::kernel_halves(stream);
            exchange(source, sink, plan).await
        }
    };
    // The answer is there; the rest is courtesy, and must not count against the endpoint.
    if result.is_ok()
        && let Some(reached) = connection.0.take()
    {
        tokio::task::spawn_local(close(Connection(Some(reached))));
    }
    result
}

/// A connection that is reset unless it was closed.
struct Connection(Option<Reached>);

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(reached) = self.0.take() {
            reached.abort();
        }
    }
}

/// Sends what is to be sent, and reads an HTTP status where one is to come.
async fn exchange(mut source: impl Source, mut sink: impl Sink, plan: &Plan) -> Result<(), String> {
    let broken = |broken: super::pump::Broken| broken.0.describe().to_owned();
    if !plan.request.is_empty() {
        sink.write(&mut vec![plan.request.clone()]).await.map_err(broken)?;
        sink.flush();
    }
    match plan.health.check {
        Check::Tcp => return Ok(()),
        Check::Http(_) => {}
    }
    let (mut answer, mut pieces) = (Vec::new(), Vec::new());
    loop {
        let got = source.read(ANSWER_BYTES - answer.len(), &mut pieces).await.map_err(broken)?;
        pieces.drain(..).for_each(|piece| answer.extend_from_slice(&piece));
        match status(&answer) {
            Answer::Status(200..=399) => return Ok(()),
            Answer::Status(status) => return Err(format!("HTTP status {status}")),
            Answer::NotHttp => return Err("an answer that is not HTTP".into()),
            Answer::More if got == Got::End => return Err("no HTTP answer".into()),
            Answer::More if answer.len() >= ANSWER_BYTES => return Err("no HTTP status in the first bytes".into()),
            Answer::More => {}
        }
    }
}

/// Closes this side, and lets the endpoint close its own.
async fn close(mut connection: Connection) {
    let Some(reached) = &connection.0 else { return };
    let closed = match reached {
        Reached::User(endpoint, _) => {
            let half = || UserTcp::new(endpoint, Reason::EndpointReset);
            tokio::select! {
                closed = finish(half(), half()) => closed,
                never = endpoint.drive() => match never {},
            }
        }
        Reached::Kernel(stream) => {
            let (source, sink) = Reached::kernel_halves(stream);
            finish(source, sink).await
        }
    };
    if closed {
        connection.0.take();
    }
}

/// Whether both sides are closed.
async fn finish(mut source: impl Source, mut sink: impl Sink) -> bool {
    sink.finish();
    let emptying = async {
        let (mut left, mut pieces) = (CLOSE_BYTES, Vec::new());
        while left > 0 {
            match source.read(left, &mut pieces).await {
                Ok(Got::Bytes(length)) => left = left.saturating_sub(length),
                Ok(Got::End) => return true,
                Err(_) => return false,
            }
            pieces.clear();
        }
        false
    };
    tokio::time::timeout(CLOSE_MAX, emptying).await.unwrap_or(false)
}

/// What the first bytes of an HTTP answer say.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Status(u16),
    NotHttp,
    More,
}

/// Reads the status line (RFC 9112 section 4), after interim answers if there are any (RFC 9110 section 15.2).
fn status(mut answer: &[u8]) -> Answer {
    const START: &[u8] = b"HTTP/1.";
    loop {
        let known = answer.len().min(START.len());
        if answer[..known] != START[..known] {
            return Answer::NotHttp;
        }
        // The version's last digit, a blank, three digits.
        let Some((rest, _)) = answer.get(START.len()..).and_then(|rest| rest.split_first_chunk::<5>()) else {
            return Answer::More;
        };
        let digit = |byte: u8| char::from(byte).to_digit(10);
        let [version, b' ', hundreds, tens, ones] = *rest else { return Answer::NotHttp };
        let (Some(_), Some(hundreds), Some(tens), Some(ones)) =
            (digit(version), digit(hundreds), digit(tens), digit(ones))
        else {
            return Answer::NotHttp;
        };
        if hundreds != 1 {
            // Three digits fit.
            return Answer::Status(u16::try_from(hundreds * 100 + tens * 10 + ones).unwrap_or(u16::MAX));
        }
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Answer::More };
        answer = &answer[end + 4..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_however_it_comes() {
        for (answer, expected) in [
            (&b""[..], Answer::More),
            (b"HTT", Answer::More),
            (b"HTTP/1.1 20", Answer::More),
            (b"HTTP/1.1 200", Answer::Status(200)),
            (b"HTTP/1.0 503 Service Unavailable\r\n", Answer::Status(503)),
            (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n", Answer::Status(204)),
            (b"HTTP/1.1 100 Continue\r\n\r\n", Answer::More),
            (b"HTTP/1.1 100 Continue\r\n", Answer::More),
            (b"HTTP/1.1 abc", Answer::NotHttp),
            (b"HTTP/1.1200 x", Answer::NotHttp),
            (b"HTTP/2.0 200", Answer::NotHttp),
            (b"SSH-2.0-OpenSSH", Answer::NotHttp),
        ] {
            assert_eq!(status(answer), expected, "{}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn the_request_names_the_service() {
        let text = get("/live?x=1", "api.shop.lab.test", 8080);
        assert!(text.starts_with("GET /live?x=1 HTTP/1.1\r\nHost: api.shop.lab.test:8080\r\n"), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
        assert!(get("/", "api.shop.lab.test", 80).contains("Host: api.shop.lab.test\r\n"));
    }
}
