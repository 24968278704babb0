//! The requests of the demo, each held against what it should do.

use super::{
    cast::{self, FILE_BYTES, FILE_RATE, Host},
    client::{self, Page},
    dns, probes,
    records::{Record, Records},
    screen::{Line, Screen},
    signals::Signals,
    world::World,
};
use anyhow::{Context, bail, ensure};
use ripstop_config::Reason;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

/// How soon after an edit what it denies is cut, and what it allows is let through.
const EDIT: Duration = Duration::from_secs(1);
/// How soon the death of a host is noticed, and a little for the request itself.
const FAILOVER: Duration = Duration::from_millis(3_500);
/// How far from its limit a session's rate may be, in percent.
const RATE_TOLERANCE: u64 = 10;
/// Requests made at once when a host dies: some of them would have gone to it.
const AFTER_DEATH: usize = 6;
const PAUSE: Duration = Duration::from_millis(10);

/// A request of the demo, and what it is called when it fails.
type Act = (&'static str, fn(&mut Stage<'_>) -> anyhow::Result<Vec<Line>>);

const ACTS: [Act; 9] = [
    ("web calls api", allowed),
    ("web calls api, which calls db", chained),
    ("web calls db without an edge", denied),
    ("web asks for a name it may not see", hidden),
    ("web downloads from files", limited),
    ("web sends a datagram to meter", probes::datagram),
    ("web pings api", probes::ping),
    ("the graph is edited", edited),
    ("a host of api is killed", failover),
];

pub(super) struct Stage<'a> {
    pub(super) world: &'a mut World,
    pub(super) alpha: Records,
}

/// Makes all requests, printing each as it happens; says how many did not go as they should.
///
/// # Errors
/// When a signal came.
pub(super) fn play(world: &mut World, screen: &Screen, signals: &Signals) -> anyhow::Result<usize> {
    let mut stage = Stage { world, alpha: Records::of(Host::Alpha) };
    let mut failed = 0;
    for (what, act) in ACTS {
        signals.check()?;
        match act(&mut stage) {
            Ok(lines) => lines.iter().for_each(|line| screen.line(line)),
            Err(error) => {
                failed += 1;
                screen.failed(what, &error);
            }
        }
    }
    signals.check()?;
    Ok(failed)
}

impl Stage<'_> {
    fn get_api(&self, path: &str) -> anyhow::Result<Page> {
        let page = client::get("web", self.world.resolver, "api", 8080, path)?;
        ensure!(page.status == "200 OK", "the answer is {}: {}", page.status, page.body);
        Ok(page)
    }

    /// The record of an allowed call by web to api.
    fn record_of_api(&mut self) -> anyhow::Result<Record> {
        let record = self.alpha.wait("web", "api")?;
        ensure!(record.verdict == "allow", "the record's verdict is {}", record.verdict);
        ensure!(record.rule.is_some() && record.cipher.is_some(), "the record lacks its rule or its cipher");
        Ok(record)
    }
}

fn allowed(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    stage.alpha.skip();
    let page = stage.get_api("/")?;
    let record = stage.record_of_api()?;
    let host = record.endpoint_host.as_deref().unwrap_or("no host");
    ensure!(page.body.ends_with(host), "the record says {host}, the answer says: {}", page.body);
    Ok(vec![answered("/", &page, &record)])
}

fn chained(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    stage.alpha.skip();
    let page =
        stage.get_api("/orders").map_err(|error| match Records::last_on(&[Host::Beta, Host::Gamma], "api", "db") {
            Some(record) => error.context(format!("the record of api → db says {}", record.reason)),
            None => error,
        })?;
    ensure!(page.body.contains("db on beta is ready"), "the answer is: {}", page.body);
    let record = stage.record_of_api()?;
    Ok(vec![answered("/orders", &page, &record)])
}

fn denied(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    stage.alpha.skip();
    let policy = &stage.world.policy;
    let (who, service) = (cast::workload("web")?, cast::service("db")?);
    let entry = policy.service(&service).map(|ix| policy.service_entry(ix)).context("db is not in the policy")?;
    let started = Instant::now();
    let refused = client::as_workload("web", || match client::connect_to((entry.v4, 5432).into()) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        other => other.map(|_| false),
    })?;
    let took = millis(started.elapsed());
    ensure!(refused, "it was let through");
    let record = stage.alpha.wait("web", "db")?;
    ensure!(record.verdict == "deny" && record.reason == Reason::NoEdge.as_str(), "its record says {}", record.reason);
    let line = ripstop_policy::allowing_edge(policy, &who, &service);
    let what = format!("web → db at {}:5432  connection refused in {took}: {}", entry.v4, Reason::NoEdge.describe());
    Ok(vec![Line { label: "denied", what, why: format!("under tenants.shop.allow, `{line}` would allow it") }])
}

fn hidden(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    let (resolver, name) = (stage.world.resolver, cast::dns_name("db"));
    let answer = client::as_workload("web", || dns::ask(resolver, &name))?;
    ensure!(answer.code == dns::NXDOMAIN, "the answer's code is {}", answer.code);
    let (code, text) = answer.why.context("the answer has no Extended DNS Error")?;
    ensure!(!text.is_empty(), "the Extended DNS Error {code} has no text");
    let what = format!("web asks for {name}  NXDOMAIN");
    Ok(vec![Line { label: "hidden", what, why: format!("Extended DNS Error {code}: {text}") }])
}

fn limited(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    stage.alpha.skip();
    let (resolver, name) = (stage.world.resolver, cast::dns_name("files"));
    let started = Instant::now();
    let received = client::as_workload("web", || {
        let mut stream = client::connect(resolver, &name, 9000)?;
        writeln!(stream, "{FILE_BYTES}")?;
        io::copy(&mut stream, &mut io::sink())
    })?;
    let took = started.elapsed();
    ensure!(received == FILE_BYTES, "{received} of {FILE_BYTES} bytes arrived");
    let rate = (received as f64 / took.as_secs_f64()) as u64;
    let off = rate.abs_diff(FILE_RATE) * 100 / FILE_RATE;
    ensure!(off <= RATE_TOLERANCE, "the rate is {rate} bytes/s, {off} % off {FILE_RATE}");
    let record = stage.alpha.wait("web", "files")?;
    // What files sends is held back where it is sent.
    let held = Records::of(Host::Gamma).wait_for_side("server", "web", "files")?.waited_s;
    ensure!(held > 0.0, "the record of gamma says that it was not held back");
    let what = format!(
        "web → {name}:9000  asked for {} MB at once, got {:.1} mbit/s in {:.1} s",
        FILE_BYTES / 1_000_000,
        rate as f64 * 8.0 / 1e6,
        took.as_secs_f64()
    );
    let why = format!("limit session: 8 mbit/s, held back for {held:.1} s; {}", record.describe());
    Ok(vec![Line { label: "rate-limited", what, why }])
}

fn edited(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    stage.alpha.skip();
    let (resolver, name) = (stage.world.resolver, cast::dns_name("db"));
    let held = client::as_workload("batch", || {
        let mut stream = client::connect(resolver, &name, 5432)?;
        client::read_line(&mut stream).map(|_| stream)
    });
    let held = held.context("batch, whose edge is there, cannot call db")?;
    let at = Instant::now();
    stage.world.edit_graph()?;
    let (cut, opened) = thread::scope(|scope| {
        let cut = scope.spawn(|| wait_for_cut(held, at));
        let opened = client::as_workload("web", || {
            let mut stream = until_open(at, || client::connect(resolver, &name, 5432))?;
            client::read_line(&mut stream).map(|greeting| (at.elapsed(), greeting))
        });
        (cut.join(), opened)
    });
    let (opened, greeting) = opened.context("web cannot call db after the edit")?;
    let Ok(cut) = cut else { bail!("the thread that watches the open session panicked") };
    let cut = cut.context("the open session of batch was not cut")?;
    ensure!(cut <= EDIT && opened <= EDIT, "cut after {}, let through after {}", millis(cut), millis(opened));
    let record = stage.alpha.wait("batch", "db")?;
    ensure!(record.reason == Reason::PolicyChanged.as_str(), "the cut session's record says {}", record.reason);
    let allowed =
        format!("web → {name}:5432  denied before, now \"{greeting}\", {} after the file was saved", millis(opened));
    let ended =
        format!("batch → db, open since before, cut after {}: {}", millis(cut), Reason::PolicyChanged.describe());
    Ok(vec![
        Line { label: "edit: allowed", what: allowed, why: format!("graph.yaml gained `{}`", cast::ADDED) },
        Line { label: "edit: cut", what: ended, why: format!("graph.yaml lost `{}`", cast::REMOVED) },
    ])
}

fn failover(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    // The host that the balancer likes best is the one whose death web would notice.
    stage.alpha.skip();
    let victim = answering_host(&stage.get_api("/")?)?;
    stage.record_of_api()?;
    stage.world.kill(victim)?;
    let pages = thread::scope(|scope| {
        let stage = &*stage;
        let asking: Vec<_> = (0..AFTER_DEATH).map(|_| scope.spawn(|| stage.get_api("/"))).collect();
        asking.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut slowest = (Duration::ZERO, victim);
    for page in pages {
        let Ok(page) = page else { bail!("a thread that asks panicked") };
        let page = page?;
        let host = answering_host(&page)?;
        ensure!(host != victim, "the dead host answered: {}", page.body);
        slowest = slowest.max((page.took, host));
    }
    let (took, survivor) = slowest;
    ensure!(took <= FAILOVER, "the slowest request took {}", millis(took));
    let record = stage.record_of_api()?;
    let recorded = record.endpoint_host.as_deref().unwrap_or("no host");
    ensure!(recorded == survivor.name(), "{} answered, the record says {recorded}", survivor.name());
    let what = format!(
        "kill -9 of all on {}, which answered web last; at once {AFTER_DEATH} × web → {}:8080  all answered by {}, the \
         slowest in {}",
        victim.name(),
        cast::dns_name("api"),
        survivor.name(),
        millis(took)
    );
    Ok(vec![Line { label: "failover", what, why: record.describe() }])
}

fn answered(path: &str, page: &Page, record: &Record) -> Line {
    let url = format!("http://{}:8080{path}", cast::dns_name("api"));
    let what = format!("web → {url}  {} \"{}\" in {}", page.status, page.body, millis(page.took));
    Line { label: "allowed", what, why: record.describe() }
}

fn answering_host(page: &Page) -> anyhow::Result<Host> {
    let name = page.body.rsplit(' ').next().unwrap_or_default();
    Host::called(name).with_context(|| format!("the answer names no host: {}", page.body))
}

/// When a session that is open ends, counted from the edit.
fn wait_for_cut(mut stream: TcpStream, at: Instant) -> io::Result<Duration> {
    match stream.read(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(at.elapsed()),
        Ok(0) => Ok(at.elapsed()),
        Ok(_) => Err(io::Error::other("it went on")),
        Err(error) => Err(error),
    }
}

/// Tries until it works, for as long as an edit may take.
fn until_open<T>(at: Instant, connect: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match connect() {
            Err(_) if at.elapsed() < EDIT => thread::sleep(PAUSE),
            done => return done,
        }
    }
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
