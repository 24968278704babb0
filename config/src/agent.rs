//! The agent's own settings, `agent.yaml`.

use crate::{Diagnostics, HostName, units::Share};
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

/// The UDP port on which agents take QUIC connections unless told otherwise.
pub const DEFAULT_PORT: u16 = 7477;
/// The TCP port of `/metrics`, `/livez` and `/readyz` unless told otherwise.
pub const DEFAULT_METRICS_PORT: u16 = 7478;
/// The TCP port of the page where no other is given.
pub const DEFAULT_PAGE_PORT: u16 = 7479;

/// For how long a host's certificate is good unless told otherwise: what is stolen is useless by tomorrow, and an authority
/// that is away for less than half of it is not missed.
pub const CERTIFICATES: Duration = Duration::from_secs(24 * 60 * 60);

/// What the keys of an etcd begin with unless told otherwise.
pub const ETCD_PREFIX: &str = "/ripstop";

/// How long a request to a collector may take unless told otherwise (OTLP exporter, `OTEL_EXPORTER_OTLP_TIMEOUT`).
pub const OTEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest configuration file that is read, in bytes: a full one has under a thousand.
pub const AGENT_MAX: usize = 64 << 10;

/// Data threads of one agent at most.
pub const DATA_THREADS_MAX: u8 = 16;

/// What one agent is told about its host. Unknown keys are errors.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// `host:` this host's name; its certificate must say the same. Required.
    pub host: HostName,
    /// Where the policy comes from: `graph:` or `trust:`, one of which is required.
    pub policy: PolicySource,
    /// `state:` the directory in which signed policies are kept. Default `/var/lib/ripstop`.
    pub state: PathBuf,
    /// `authority:` on the host that holds the fabric's authority; hosts join and renew there, by TCP at `listen`.
    pub authority: Option<Authority>,
    /// `carrier:` by what signed policies spread. Default: from host to host alone.
    pub carrier: Carrier,
    /// `renew:` on the others: where this host's certificate is renewed. Without either it is renewed by people.
    pub renew: Option<Renew>,
    /// `identity:` where this host's certificate, its key and the fabric's CA certificates come from.
    pub identity: IdentitySource,
    /// `listen:` where QUIC connections are taken. Default `[::]:7477`, both families.
    pub listen: SocketAddr,
    /// `busy-poll:` whether the data thread looks for what comes next for a moment before it sleeps. Default [`BusyPoll::Auto`].
    pub busy_poll: BusyPoll,
    /// `data-threads:` threads that carry sessions, 1 to [`DATA_THREADS_MAX`]. Each takes QUIC at a port of its own: the one of `listen`
    /// and those that follow it. Default 1.
    pub data_threads: u8,
    /// `metrics:` where Prometheus scrapes; `off` for nowhere. Default `127.0.0.1:7478`.
    pub metrics: Option<SocketAddr>,
    /// `page:` where browsers of this host see the page, an address of loopback; `off` for the admin socket alone. Default `off`.
    pub page: Option<SocketAddr>,
    /// `run:` directory of the admin socket `agent.sock` and of the journal. Default `/run/ripstop`.
    pub run: PathBuf,
    /// `admin:` who besides root and the agent's own user may ask the agent by its admin socket. Default: nobody.
    pub admin: Admin,
    /// `capture.allow:` the hosts whose operators may see the packets of this host's workloads, as far as sessions with those
    /// hosts are concerned; this host's own name stands for its own operators, and all of its sessions. Default: none.
    pub capture: BTreeSet<HostName>,
    /// `sessions:` where session records go: a file's path, `stdout` or `off`. Default `stdout`.
    pub sessions: SessionLog,
    /// `otel:` the collector of OpenTelemetry that gets spans and session records. Default: none. Only in a program that was
    /// built with the feature `otel`.
    pub otel: Option<Otel>,
    /// `dns.upstream:` servers for names outside the fabric. Default: the host's `/etc/resolv.conf`. `[]` for none.
    pub upstream: Option<Vec<SocketAddr>>,
    /// `dns.resolv-conf:` the host's `/etc/resolv.conf` names the fabric's resolver first while the agent runs, for workloads
    /// that share the host's files. Default: not.
    pub resolv_conf: bool,
    /// `dns.resolved:` systemd-resolved asks the fabric's resolver for the fabric's names while the agent runs, as the workload
    /// that is `run: host`, whoever asks it. Default: not.
    pub resolved: bool,
}

/// Where the policy comes from. Relative paths are from the configuration file's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// `graph:` the service graph's file, the same on every host.
    File(PathBuf),
    /// `trust:` the file of the operators whose signature makes a policy. It comes from other hosts, or by `ripstop apply`.
    Signed(PathBuf),
}

/// Where a host's identity comes from. Relative paths are from the configuration file's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// Files.
    Files(IdentityFiles),
    /// `identity.spire:` the socket of a Workload API of SPIFFE, `unix:///PATH`, as SPIRE's agent serves it. It renews the
    /// certificate, and its trust bundle says which CAs are the fabric's.
    Spire(PathBuf),
}

/// The files of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// `identity.certificate:` PEM chain, leaf first. Default `host.pem` beside the configuration file.
    pub certificate: PathBuf,
    /// `identity.key:` PEM key, readable by its owner alone. Default `host.key`.
    pub key: PathBuf,
    /// `identity.ca:` PEM of the fabric's CA certificates. Default `ca.pem`.
    pub ca: PathBuf,
}

/// By what signed policies spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carrier {
    /// `in-band:` from host to host. Default: yes.
    pub in_band: bool,
    /// `etcd:` by an etcd that all hosts of the fabric reach. Default: none.
    pub etcd: Option<Etcd>,
}

impl Default for Carrier {
    fn default() -> Self {
        Self { in_band: true, etcd: None }
    }
}

/// An etcd that carries policies. It is believed no more than another host: what is in it has to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// `endpoints:` its members, `https://IP:PORT`; `http://` only on loopback. Names are not looked up, so that no policy
    /// depends on DNS. Required.
    pub endpoints: Vec<SocketAddr>,
    /// `prefix:` what its keys begin with; the fabric's name follows. Default [`ETCD_PREFIX`].
    pub prefix: String,
    /// How its members are known; none where they are on loopback and speak plain HTTP.
    pub tls: Option<EtcdTls>,
    /// `user:` and `password-file:` with which it lets this host in, where it asks for that.
    pub login: Option<EtcdLogin>,
}

/// How the members of an etcd are known, and this host to them. Relative paths are from the configuration file's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// `ca:` PEM of the CA certificates that vouch for its members. Required with `https://`.
    pub ca: PathBuf,
    /// `name:` the name that the certificate of each member has. Default: its address.
    pub name: Option<String>,
    /// `certificate:` and `key:` that this host shows, where it is asked for them; the key readable by its owner alone.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of an etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdLogin {
    /// Its name.
    pub user: String,
    /// The file with its password, readable by its owner alone.
    pub password: PathBuf,
}

/// A collector of OpenTelemetry, which takes OTLP over HTTP with Protocol Buffers. Relative paths are from the configuration
/// file's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otel {
    /// `endpoint:` where it listens, `https://IP:PORT` or, on loopback, `http://IP:PORT`; the port is 4318 unless given. Names are
    /// not looked up. Required.
    pub endpoint: SocketAddr,
    /// The path of `endpoint`, without a slash at its end, to which `/v1/traces` and `/v1/logs` are added.
    pub path: String,
    /// How it is known; none with plain HTTP.
    pub tls: Option<OtelTls>,
    /// `headers-file:` a file with a `Name: value` on each line that every request has, readable by its owner alone.
    pub headers: Option<PathBuf>,
    /// `sample:` the share of the sessions called from this host that have spans, on both hosts. Default: all.
    pub sample: Share,
    /// `records:` session records are sent as logs, too, of all sessions. Default: yes.
    pub records: bool,
    /// `timeout:` for one request, with the connection that it may need. Default [`OTEL_TIMEOUT`].
    pub timeout: Duration,
}

/// How a collector is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtelTls {
    /// `ca:` PEM of the CA certificates that vouch for it. Required with `https://`.
    pub ca: PathBuf,
    /// `name:` the name that its certificate has. Default: its address.
    pub name: Option<String>,
}

/// The authority that a host holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// `directory:` with the CA, the tokens and the list of what was issued. Required.
    pub directory: PathBuf,
    /// `operator:` an operator's key with which hosts that join are put into the signed graph. Default: none, and an operator
    /// does that.
    pub operator: Option<PathBuf>,
    /// `certificates:` for how long a host's certificate is good. Default [`CERTIFICATES`].
    pub certificates: Duration,
}

/// Where a certificate is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renew {
    /// `host:` the host that holds the authority. Required.
    pub host: HostName,
    /// `address:` where it was when this host joined; where the graph says comes first. Required.
    pub address: SocketAddr,
}

/// Who besides root and the agent's own user may ask the agent by its admin socket. Who may change may read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admin {
    /// `read:` what it shows: status, sessions, decisions, policies.
    pub read: Vec<Principal>,
    /// `change:` what it does: apply, drain, attach and detach, tokens, reload.
    pub change: Vec<Principal>,
}

/// Users of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// The user of this number.
    Uid(u32),
    /// The user of this name.
    User(String),
    /// The members of the group of this number, written `%27`.
    Gid(u32),
    /// The members of the group of this name, written `%adm`.
    Group(String),
}

impl Principal {
    /// Reads `alice`, `1001`, `%adm` or `%27`; none for what cannot be in passwd(5) or group(5).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, is_group) = text.strip_prefix('%').map_or((text, false), |name| (name, true));
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.$@".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            return None;
        }
        Some(match (name.parse(), is_group) {
            (Ok(id), false) => Self::Uid(id),
            (Ok(id), true) => Self::Gid(id),
            (Err(_), false) => Self::User(name.to_owned()),
            (Err(_), true) => Self::Group(name.to_owned()),
        })
    }
}

/// Whether the data thread looks for what comes next for a moment before it sleeps, where that has come soon lately: answers
/// are there sooner, and while packets come every few microseconds the agent takes a processor that nobody else wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BusyPoll {
    /// Where the agent may use more processors than it has data threads, by its affinity and the quota of its control group.
    #[default]
    Auto,
    /// Also with one.
    On,
    /// Never.
    Off,
}

/// Where session records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionLog {
    /// JSON lines appended to a file.
    File(PathBuf),
    /// JSON lines on standard output.
    Stdout,
    /// Nowhere; metrics are still kept.
    Off,
}

impl AgentConfig {
    /// The files of the identity, where it comes from files.
    #[must_use]
    pub fn identity_files(&self) -> Option<&IdentityFiles> {
        match &self.identity {
            IdentitySource::Files(files) => Some(files),
            IdentitySource::Spire(_) => None,
        }
    }

    /// Reads the settings from YAML; `file` is for showing, its directory for relative paths.
    ///
    /// # Errors
    /// Every mistake in the text at once; mistakes of syntax, and a text larger than [`AGENT_MAX`], by themselves.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        crate::read::agent(file, text)
    }
}
