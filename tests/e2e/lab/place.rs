//! Where programs run: a machine, a workload's namespace on it, or a user of it.

use super::machine::children;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The longest that a command of a test may take before it is ended, in seconds.
const COMMAND_SECONDS: &str = "60";
/// The longest that a server may take until it listens.
const LISTEN: Duration = Duration::from_secs(20);

/// A place to run programs in.
#[derive(Clone)]
pub struct Place {
    name: String,
    init: u32,
    net: PathBuf,
    uid: Option<u32>,
}

impl Place {
    pub(super) fn new(name: &str, init: u32, net: PathBuf, uid: Option<u32>) -> Self {
        Self { name: name.into(), init, net, uid }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to type to get there: printed when a test fails.
    pub fn enter_line(&self) -> String {
        self.enter().join(" ")
    }

    fn enter(&self) -> Vec<String> {
        let mut line: Vec<String> =
            vec!["nsenter".into(), "-t".into(), self.init.to_string(), "-m".into(), "-p".into()];
        line.push(format!("--net={}", self.net.display()));
        if let Some(uid) = self.uid {
            line.extend([
                "setpriv".into(),
                format!("--reuid={uid}"),
                format!("--regid={uid}"),
                "--clear-groups".into(),
            ]);
        }
        line
    }

    /// The command that runs `line` here.
    pub fn command(&self, line: &[&str]) -> Command {
        let enter = self.enter();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(enter).args(line);
        command.stdin(Stdio::null()).env("LC_ALL", "C").env("HOME", "/tmp");
        command
    }

    /// Runs a program to its end, at most a minute.
    pub fn run(&self, line: &[&str]) -> Output {
        let mut limited = vec!["timeout", "--signal=KILL", COMMAND_SECONDS];
        limited.extend(line);
        self.command(&limited).output().expect("nsenter runs")
    }

    /// Runs a program that must succeed, and returns its output.
    pub fn ok(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{}", describe(self, line, &output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a program that must fail, and returns its exit code and what it said.
    pub fn fails(&self, line: &[&str]) -> (i32, String) {
        let output = self.run(line);
        assert!(!output.status.success(), "should have failed: {}", describe(self, line, &output));
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    /// Runs a shell script that must succeed.
    pub fn sh(&self, script: &str) -> String {
        self.ok(&["sh", "-ec", script])
    }

    /// Starts a program that ends with the returned guard; what it says goes to `log`.
    pub fn spawn(&self, log: &Path, line: &[&str]) -> Server {
        let file = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = self.command(line).stdout(file.try_clone().unwrap()).stderr(file).spawn().expect("nsenter runs");
        Server { child, log: log.into(), line: line.join(" "), place: self.clone() }
    }

    /// Runs test code with the sockets of this place.
    pub fn inside<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let run = || {
                self.join_net();
                code()
            };
            scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs test code with the sockets of this place on a thread of its own.
    pub fn thread<T: Send + 'static>(&self, code: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let place = self.clone();
        thread::spawn(move || {
            place.join_net();
            code()
        })
    }

    fn join_net(&self) {
        assert!(self.uid.is_none(), "test code cannot be another user: use run()");
        let file = File::open(&self.net).unwrap_or_else(|error| panic!("{}: {error}", self.net.display()));
        setns(file, CloneFlags::CLONE_NEWNET).expect("entering a namespace needs root");
    }

    /// Opens a connection from here.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(15)))
    }

    /// Listens here and gives every connection to `handle` on a thread of its own, until the guard is dropped.
    #[must_use]
    pub fn serve(&self, port: u16, handle: impl Fn(TcpStream) + Send + Clone + 'static) -> Listening {
        self.serve_at((Ipv6Addr::UNSPECIFIED, port).into(), handle)
    }

    /// The same at one address.
    #[must_use]
    pub fn serve_at(&self, address: SocketAddr, handle: impl Fn(TcpStream) + Send + Clone + 'static) -> Listening {
        let listener = self.inside(|| TcpListener::bind(address)).expect("the port is free");
        let guard = Listening(listener.try_clone().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let handle = handle.clone();
                thread::spawn(move || handle(stream));
            }
        });
        guard
    }

    /// Waits until something listens on the TCP port here.
    pub fn wait_listening(&self, port: u16) {
        let listens =
            || self.ok(&["cat", "/proc/net/tcp", "/proc/net/tcp6"]).lines().any(|line| is_listener(line, port));
        let start = Instant::now();
        while !listens() {
            assert!(start.elapsed() < LISTEN, "nothing listens on port {port} in {}: {}", self.name, self.enter_line());
            thread::sleep(Duration::from_millis(30));
        }
    }
}

/// A line of `/proc/net/tcp` in state LISTEN (0A) on the port.
fn is_listener(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().unwrap_or("");
    let state = fields.nth(1).unwrap_or("");
    state == "0A" && local.ends_with(&format!(":{port:04X}"))
}

fn describe(place: &Place, line: &[&str], output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    format!("in {}: {}\n{}\n{out}{err}", place.name(), line.join(" "), output.status)
}

/// A listener of test code; closed when dropped, so that it does not keep its namespace alive.
pub struct Listening(TcpListener);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Both);
    }
}

/// A running program; killed when dropped.
pub struct Server {
    child: Child,
    log: PathBuf,
    line: String,
    place: Place,
}

impl Server {
    /// The program's process as the test sees it: nsenter's child, once it is there.
    pub fn pid(&self) -> u32 {
        let start = Instant::now();
        loop {
            if let Some(pid) = children(self.child.id()).first() {
                return *pid;
            }
            assert!(start.elapsed() < LISTEN, "did not start: {}\n{}", self.line, self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("the program runs");
        if signal == Signal::SIGCONT {
            // nsenter stopped with it.
            kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("nsenter runs");
        }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end and returns the exit code.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code().or(Some(-1));
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Waits until the port is open in its place, failing at once if the program ends.
    #[must_use]
    pub fn listening(mut self, port: u16) -> Self {
        thread::sleep(Duration::from_millis(20));
        assert!(self.is_running(), "ended: {}\n{}", self.line, self.log());
        self.place.wait_listening(port);
        self
    }

    pub fn kill(&mut self) {
        for pid in children(self.child.id()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        // nsenter stops when its child does, and would not see its end.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGCONT);
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
        }
    }
}
