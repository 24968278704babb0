//! Where a host's files are, and putting them there: all of them, or none.

use super::args::enrol::Place;
use crate::durable;
use anyhow::{Context, anyhow, bail};
use ripstop_config::{HostName, agent::DEFAULT_PORT};
use std::{
    fs::{self, DirBuilder},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// The agent's settings in their directory.
const SETTINGS: &str = "agent.yaml";
/// What the machine is called (proc(5)).
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
/// Addresses of documentation (RFC 5737, RFC 3849), by whose routes this machine's own address is found. Nothing is sent.
const ELSEWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// The files of a host of a fabric with signed policies.
pub(super) struct Files {
    pub(super) settings: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) operators: PathBuf,
    pub(super) operator: PathBuf,
    /// Certificate and key in one, as it is replaced by itself.
    pub(super) identity: PathBuf,
    pub(super) authority: PathBuf,
    pub(super) state: PathBuf,
}

impl Files {
    /// Makes the directories. A host that has settings already is left as it is.
    pub(super) fn prepare(place: &Place) -> anyhow::Result<Self> {
        let settings = place.dir.join(SETTINGS);
        if settings.symlink_metadata().is_ok() {
            bail!(
                "{} exists: this host is one of a fabric already; move the file and {} away to begin anew",
                settings.display(),
                place.state.display()
            );
        }
        let [dir, state] = [&place.dir, &place.state].map(|path| directory(path));
        let (dir, state) = (dir?, state?);
        let files = Self {
            settings: dir.join(SETTINGS),
            ca: dir.join("ca.pem"),
            operators: dir.join("operators.yaml"),
            operator: dir.join("operator.key"),
            identity: state.join("host.pem"),
            authority: state.join("authority"),
            state,
        };
        let left: Vec<_> = [&files.identity, &files.authority, &files.state.join("policy")]
            .into_iter()
            .filter(|path| path.symlink_metadata().is_ok())
            .map(|path| path.display().to_string())
            .collect();
        if !left.is_empty() {
            bail!("{} is left of another fabric; move it away to begin anew", left.join(" and "));
        }
        Ok(files)
    }
}

/// Whether this host is one of a fabric already: settings are written last.
pub(super) fn is_host(place: &Place) -> bool {
    place.dir.join(SETTINGS).exists()
}

/// A directory for files of root alone, with its whole path.
fn directory(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = path.display();
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("cannot make {shown}"))?;
    let mode = fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?.mode();
    if mode & 0o022 != 0 {
        bail!("{shown} can be written by other users: `chmod go-w` it, or choose another directory");
    }
    path.canonicalize().with_context(|| format!("cannot find {shown}"))
}

/// Files and directories that were made, removed again unless all went well.
#[derive(Default)]
pub(super) struct Made {
    paths: Vec<PathBuf>,
    done: bool,
}

impl Made {
    pub(super) fn directory(&mut self, path: &Path) -> anyhow::Result<()> {
        let made = DirBuilder::new().mode(0o700).create(path);
        made.with_context(|| format!("cannot make the directory {}", path.display()))?;
        self.paths.push(path.into());
        Ok(())
    }

    pub(super) fn file(&mut self, path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
        if path.symlink_metadata().is_ok() {
            bail!("{} exists already and is left as it is; move it away", path.display());
        }
        durable::replace(path, text.as_bytes(), mode).with_context(|| format!("cannot write {}", path.display()))?;
        self.paths.push(path.into());
        Ok(())
    }

    /// What others make in a directory of ours.
    pub(super) fn and(&mut self, path: &Path) {
        self.paths.push(path.into());
    }

    pub(super) fn keep(mut self) {
        self.done = true;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // What fails here is said by the error that made it necessary.
        for path in self.paths.iter().rev() {
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// What the machine is called, as a host's name.
pub(super) fn hostname() -> anyhow::Result<HostName> {
    let text = fs::read_to_string(HOSTNAME).with_context(|| format!("cannot read {HOSTNAME}"))?;
    let first = text.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    first
        .parse()
        .map_err(|_| anyhow!("this machine is called `{}`, which is no host's name; give one with --host", text.trim()))
}

/// The address from which this machine reaches others.
pub(super) fn own_address(given: Option<IpAddr>) -> anyhow::Result<SocketAddr> {
    let found = || ELSEWHERE.iter().find_map(|elsewhere| route_to(elsewhere));
    let address =
        given.or_else(found).context("this host has no route to others; say where they reach it with --address")?;
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        bail!("other hosts do not reach this one at {address}; say where they do with --address");
    }
    Ok(SocketAddr::new(address, DEFAULT_PORT))
}

fn route_to(elsewhere: &str) -> Option<IpAddr> {
    let any = if elsewhere.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(elsewhere).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_unspecified())
}

/// A path in YAML, in double quotes (YAML 1.2.2 section 7.3.1): its characters are JSON's.
pub(super) fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(serde_json::to_string(text)?)
}
