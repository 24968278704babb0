//! podman with runc on a host of the lab, with nothing of the machine's own containers.

use crate::lab::{Lab, Place, Server};
use std::process::Output;

/// Where podman keeps its own, with what a machine in namespaces can do.
const PODMAN: [&str; 11] = [
    "podman",
    "--root",
    "/run/pods/storage",
    "--runroot",
    "/run/pods/state",
    "--storage-driver",
    "vfs",
    "--cgroup-manager",
    "cgroupfs",
    "--runtime",
    "runc",
];
/// A place for containers' files on the host's own /run; one root directory, with busybox in it, serves all of them.
const ROOT: &str = "mkdir -p /run/pods/root /run/podman; cd /run/pods/root; mkdir -p bin proc sys dev etc run tmp
    cp \"$(command -v busybox)\" bin/busybox; for name in sleep sh wget nc httpd cat; do ln -sf busybox bin/$name; done";
/// What a container here may have of what the machine has, as runc would give it more.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=10000:10000"];

/// A host's podman. All of it goes when it is dropped.
pub struct Podman<'l> {
    lab: &'l Lab,
    host: &'static str,
    /// In front of each line, such as variables of podman.
    before: Vec<String>,
    serving: Option<Server>,
}

impl<'l> Podman<'l> {
    pub fn on(lab: &'l Lab, host: &'static str) -> Self {
        Self::with(lab, host, &[])
    }

    /// With variables in its environment.
    pub fn with(lab: &'l Lab, host: &'static str, environment: &[&str]) -> Self {
        lab.host(host).sh(ROOT);
        let before = if environment.is_empty() { Vec::new() } else { [&["env"], environment].concat() };
        Self { lab, host, before: before.into_iter().map(str::to_owned).collect(), serving: None }
    }

    pub fn place(&self) -> Place {
        self.lab.host(self.host)
    }

    fn line<'a>(&'a self, line: &[&'a str]) -> Vec<&'a str> {
        self.before.iter().map(String::as_str).chain(PODMAN).chain(line.iter().copied()).collect()
    }

    pub fn run(&self, line: &[&str]) -> String {
        self.place().ok(&self.line(line))
    }

    pub fn try_run(&self, line: &[&str]) -> Output {
        self.place().run(&self.line(line))
    }

    /// Starts the API service.
    pub fn serve(&mut self) {
        self.place().sh("rm -f /run/podman/podman.sock");
        let line = self.line(&["system", "service", "--time=0", "unix:///run/podman/podman.sock"]);
        self.serving = Some(self.place().spawn(&self.lab.file("podman.log"), &line));
    }

    /// Ends it.
    pub fn stop_serving(&mut self) {
        self.serving.take();
    }

    /// Starts a container without a network that does nothing; returns its first process, as the host sees it.
    pub fn start(&self, name: &str, more: &[&str]) -> String {
        self.start_program(name, &[&["--network", "none"], more].concat(), &["sleep", "600"])
    }

    /// Starts a container with a program of busybox; returns its first process, as the host sees it.
    pub fn start_program(&self, name: &str, more: &[&str], program: &[&str]) -> String {
        let named = ["run", "--detach", "--replace", "--name", name];
        self.run(&[&named[..], &LIMITS, more, &["--rootfs", "/run/pods/root"], program].concat());
        self.run(&["inspect", "--format", "{{.State.Pid}}", name]).trim().to_owned()
    }

    /// `podman run` with these words, and with what this machine needs; returns what it says.
    pub fn run_line(&self, line: &[&str]) -> String {
        self.run(&[&["run"], &LIMITS[..], line].concat())
    }

    pub fn stop(&self, name: &str) {
        self.run(&["rm", "--force", "--time", "0", name]);
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        self.serving.take();
        let _ = self.try_run(&["rm", "--force", "--all", "--time", "0"]);
        // What its control groups were in, if nobody else has any there.
        let _ = self.place().run(&["sh", "-c", "rmdir /sys/fs/cgroup/libpod_parent /sys/fs/cgroup/*/libpod_parent"]);
    }
}
