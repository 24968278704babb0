//! One real agent: a process of the binary under test on its machine, and what it says of itself.

use super::{
    machine::Machine,
    place::{Place, Server},
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    cell::RefCell,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// The binary under test: cargo's, or the one that `RIPSTOP_LAB_BINARY` names, such as the release build.
pub fn ripstop() -> &'static str {
    static BINARY: LazyLock<String> = LazyLock::new(|| {
        let cargo = env!("CARGO_BIN_EXE_ripstop");
        std::env::var("RIPSTOP_LAB_BINARY").unwrap_or_else(|_| cargo.to_owned())
    });
    &BINARY
}

/// The longest that an agent may take to start, to stop, or to find its peers.
pub const AGENT_WAIT: Duration = Duration::from_secs(20);
/// The longest that a record may take to be written after its session has ended.
const RECORD_WAIT: Duration = Duration::from_secs(20);

/// A host's agent.
pub struct Agent {
    place: Place,
    directory: PathBuf,
    run: PathBuf,
    process: RefCell<Option<Server>>,
    starts: RefCell<u32>,
}

impl Agent {
    pub(super) fn new(machine: &Machine, directory: &Path) -> Self {
        let run = machine.path("/run/ripstop");
        Self {
            place: machine.place(),
            directory: directory.into(),
            run,
            process: RefCell::default(),
            starts: RefCell::default(),
        }
    }

    /// The directory of its configuration, as the test and the machine see it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn config(&self) -> String {
        self.directory.join("agent.yaml").display().to_string()
    }

    /// Its admin socket, as the test sees it.
    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    pub fn graph_file(&self) -> PathBuf {
        self.directory.join("graph.yaml")
    }

    /// Starts the agent without waiting for it.
    pub fn launch(&self) {
        self.launch_by(&[], &[]);
    }

    /// The same by way of another program, and with more arguments.
    pub fn launch_by(&self, by: &[&str], more: &[&str]) {
        *self.starts.borrow_mut() += 1;
        let level = std::env::var("RIPSTOP_LAB_LOG").unwrap_or_else(|_| "info".into());
        let log = self.directory.join(format!("agent-{}.log", self.starts.borrow()));
        let level = format!("RIPSTOP_LOG={level}");
        let config = self.config();
        let agent = [ripstop(), "agent", "--config", &config];
        let line = [&["env", &level, "RUST_BACKTRACE=1"], by, &agent, more].concat();
        *self.process.borrow_mut() = Some(self.place.spawn(&log, &line));
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(&self) {
        self.launch();
        self.wait_ready();
    }

    /// Waits until `/readyz` says so.
    pub fn wait_ready(&self) {
        let start = Instant::now();
        while self.http("/readyz").is_none_or(|(status, _)| status != 200) {
            assert!(self.is_running(), "the agent of {} ended:\n{}", self.place.name(), self.log());
            assert!(start.elapsed() < AGENT_WAIT, "the agent of {} is not ready:\n{}", self.place.name(), self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.borrow_mut().as_mut().is_some_and(Server::is_running)
    }

    /// The agent's process as the test sees it.
    pub fn pid(&self) -> u32 {
        self.process.borrow().as_ref().expect("the agent was started").pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.borrow().as_ref().expect("the agent was started").signal(signal);
    }

    /// Stops it as an operator would, with SIGTERM; returns the exit code.
    pub fn stop(&self) -> i32 {
        self.signal(Signal::SIGTERM);
        let code = self.process.borrow_mut().as_mut().and_then(|process| process.wait(AGENT_WAIT));
        code.unwrap_or_else(|| panic!("the agent of {} does not stop:\n{}", self.place.name(), self.log()))
    }

    /// Kills it as a crash would.
    pub fn kill(&self) {
        if let Some(process) = self.process.borrow_mut().as_mut() {
            process.kill();
        }
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        self.process.borrow().as_ref().map(Server::log).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
    }

    /// Processor time that it took so far, its children's not among it.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // proc_pid_stat(5): the name, which ends with the last parenthesis, is the second field; in hundredths of a second.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |field: usize| fields[field - 3].parse::<u64>().unwrap();
        Duration::from_millis(10 * (ticks(14) + ticks(15)))
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map(Iterator::count).unwrap_or(0)
    }

    /// GET from its metrics listener: status and body; `None` when nothing listens.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let to = SocketAddr::from(([127, 0, 0, 1], 7478));
        let stream = self.place.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).ok()?;
        http_get(stream, path)
    }

    /// GET from its admin socket.
    pub fn admin(&self, path: &str) -> Option<Value> {
        ask(&self.socket(), path)
    }

    pub fn status(&self) -> Value {
        self.admin("/v1/status").unwrap_or_else(|| panic!("no status from {}:\n{}", self.place.name(), self.log()))
    }

    /// The digest of the policy that it enforces.
    pub fn digest(&self) -> String {
        self.status()["policy"]["digest"].as_str().unwrap_or("").to_owned()
    }

    /// The signed policy that it enforces, or nothing.
    pub fn version(&self) -> String {
        let status = self.admin("/v1/status").unwrap_or_default();
        status["policy"]["signed"].as_str().unwrap_or("").to_owned()
    }

    /// PUT of a body to its admin socket: status and answer.
    pub fn put(&self, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(self.run.join("agent.sock")).expect("the agent runs");
        let length = body.len();
        let head =
            format!("PUT {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        read_answer(stream).expect("an answer")
    }

    pub fn metrics(&self) -> String {
        self.http("/metrics").map(|(_, body)| body).unwrap_or_default()
    }

    /// The sum of a metric's samples that have all these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics();
        let has = |line: &str| labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")));
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let samples = text.lines().filter(of).filter(|line| has(line));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until a metric reaches a value, and returns it.
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], at_least: f64) -> f64 {
        let start = Instant::now();
        loop {
            let value = self.metric(name, labels);
            if value >= at_least {
                return value;
            }
            let text = self.metrics();
            let near: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
            assert!(start.elapsed() < RECORD_WAIT, "{name}{labels:?} is {value}, not {at_least}:\n{}", near.join("\n"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Every session record so far.
    pub fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("sessions.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Waits for `count` records that fit, lets strays arrive, and returns all that fit: exactly `count` of them.
    pub fn wait_records(&self, count: usize, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let start = Instant::now();
        let found = || self.records().into_iter().filter(|record| fits(record)).collect::<Vec<_>>();
        while found().len() < count {
            let all = self.records();
            let last = all.iter().rev().take(5).map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(
                start.elapsed() < RECORD_WAIT,
                "{} of {count} records on {}; last:\n{last}",
                found().len(),
                self.place.name()
            );
            thread::sleep(Duration::from_millis(30));
        }
        thread::sleep(Duration::from_millis(100));
        let found = found();
        assert_eq!(found.len(), count, "too many records: {found:#?}");
        found
    }

    /// The one record that fits.
    pub fn record(&self, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_records(1, fits).remove(0)
    }

    /// Whether it is connected to all these hosts.
    pub fn is_up(&self, hosts: &[&str]) -> bool {
        let Some(status) = self.admin("/v1/status") else { return false };
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let up = |name: &str| peers.iter().any(|peer| peer["host"] == name && peer["state"] == "up");
        hosts.iter().all(|name| up(name))
    }

    /// The hosts that it wants to be connected to: those whose services its workloads may call.
    fn wanted(&self, running: &[&str]) -> Vec<String> {
        let peers = self.status()["peers"].as_array().cloned().unwrap_or_default();
        let names = peers.iter().filter_map(|peer| peer["host"].as_str());
        names.filter(|name| running.contains(name)).map(str::to_owned).collect()
    }

    /// Waits until it is connected to those of the running hosts that it calls.
    pub fn wait_connected(&self, running: &[&str]) {
        let wanted = self.wanted(running);
        self.wait_up(&wanted.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Waits until it is connected to all these hosts.
    pub fn wait_up(&self, hosts: &[&str]) {
        let start = Instant::now();
        while !self.is_up(hosts) {
            let status = self.admin("/v1/status").unwrap_or_default();
            assert!(
                start.elapsed() < AGENT_WAIT,
                "{} is not connected to {hosts:?}: {:#}\n{}",
                self.place.name(),
                status["peers"],
                self.log()
            );
            thread::sleep(Duration::from_millis(30));
        }
    }
}

pub fn http_get(mut stream: impl Read + Write, path: &str) -> Option<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    read_answer(stream)
}

/// GET from an agent's admin socket.
pub fn ask(socket: &Path, path: &str) -> Option<Value> {
    let (status, body) = http_get(UnixStream::connect(socket).ok()?, path)?;
    if status == 200 { serde_json::from_str(&body).ok() } else { None }
}

fn read_answer(mut stream: impl Read) -> Option<(u16, String)> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some((status, if chunked { dechunk(body) } else { body.to_owned() }))
}

fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
