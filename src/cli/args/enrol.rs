//! Arguments of the commands that make a fabric and change who is in it.

use super::{Signing, Socket};
use crate::authority::HostPattern;
use clap::{Args, Subcommand, ValueHint};
use ripstop_config::{HostName, Port, Span};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Where a host's files are.
#[derive(Debug, Args)]
pub(in crate::cli) struct Place {
    /// Where to put the agent's settings
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "/etc/ripstop")]
    pub(in crate::cli) dir: PathBuf,
    /// Where to keep what the agent changes: its certificate, policies and, on the first host, the authority
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "/var/lib/ripstop")]
    pub(in crate::cli) state: PathBuf,
    /// Start the agent also where there is no systemd
    #[arg(long)]
    pub(in crate::cli) start: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Init {
    /// The fabric's name: the suffix of its services' names, such as `shop.example`
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) fabric: ripstop_config::FabricName,
    /// This host's name in the fabric [default: what the machine is called]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) host: Option<HostName>,
    /// Where other hosts reach this one [default: the address from which it reaches others]
    #[arg(long, value_name = "IP")]
    pub(in crate::cli) address: Option<IpAddr>,
    /// For how long a host's certificate is good; hosts renew at half of it
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(in crate::cli) certificates: Span,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Join {
    /// The host that holds the authority, as `ripstop init` or `ripstop token create` showed it
    #[arg(value_name = "HOST:PORT")]
    pub(in crate::cli) authority: String,
    /// The token; better from the environment where other users can list processes
    #[arg(long, env = "RIPSTOP_TOKEN", hide_env_values = true, required_unless_present = "token_file")]
    pub(in crate::cli) token: Option<String>,
    /// A file with the token in it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "token")]
    pub(in crate::cli) token_file: Option<PathBuf>,
    /// Do nothing where this host is one of a fabric already
    #[arg(long)]
    pub(in crate::cli) once: bool,
    /// This host's name in the fabric [default: what the token says, or what the machine is called]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) host: Option<HostName>,
    /// Where other hosts reach this one [default: the address from which it reaches the authority]
    #[arg(long, value_name = "IP")]
    pub(in crate::cli) address: Option<IpAddr>,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TokenCommand {
    /// Make a token, with which one host can join
    Create(TokenCreate),
    /// List the tokens: whom they are for, whether they are used
    List(TokenList),
    /// Make a token good for nothing
    Revoke(TokenRevoke),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TokenCreate {
    /// The host's name, or a pattern such as `web-*`; a name that was given to a host before must be named
    #[arg(value_name = "HOST", default_value = "*")]
    pub(in crate::cli) hosts: HostPattern,
    /// For how long it is good
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(in crate::cli) expires: Span,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TokenList {
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TokenRevoke {
    /// Which, as `ripstop token list` shows it
    pub(in crate::cli) id: String,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum HostCommand {
    /// Shut a host out, with every certificate that it has; it can come back only with a new token that names it
    Revoke(HostRevoke),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HostRevoke {
    /// The host
    pub(in crate::cli) name: HostName,
    /// Take it back: certificates that it got since then are good, those that were revoked with it are not
    #[arg(long)]
    pub(in crate::cli) undo: bool,
    #[command(flatten)]
    pub(in crate::cli) signing: Signing,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WorkloadCommand {
    /// Add a workload to the graph, sign it and put it in force
    Add(WorkloadAdd),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WorkloadAdd {
    /// TENANT/NAME, or NAME in the only tenant; without any tenant, one called `main` is made
    pub(in crate::cli) name: String,
    /// The host it runs on; several with several --on
    #[arg(long, value_name = "HOST", required = true)]
    pub(in crate::cli) on: Vec<HostName>,
    /// What it is there: `netns:NAME`, `user:NAME`, `cgroup:/PATH`, `container:NAME`, `pod:NAMESPACE/NAME` or `host`
    #[arg(long, value_name = "KIND:NAME")]
    pub(in crate::cli) run: String,
    /// Make the fabric its only network
    #[arg(long)]
    pub(in crate::cli) isolated: bool,
    #[command(flatten)]
    pub(in crate::cli) signing: Signing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Expose {
    /// The service: TENANT/NAME, or NAME in the only tenant
    pub(in crate::cli) name: String,
    /// A port of it, such as `8080` or `53/udp`; several with several --port. Not needed for a service that is there
    #[arg(long, value_name = "PORT")]
    pub(in crate::cli) port: Vec<Port>,
    /// A workload that may call it: NAME, or TENANT/NAME; several with several --allow
    #[arg(long, value_name = "WORKLOAD")]
    pub(in crate::cli) allow: Vec<String>,
    /// The workload that serves it [default: the one of the same name]
    #[arg(long, value_name = "WORKLOAD")]
    pub(in crate::cli) by: Option<ripstop_config::WorkloadName>,
    /// Where the endpoint listens, if not where it usually does
    #[arg(long, value_name = "IP:PORT")]
    pub(in crate::cli) to: Option<SocketAddr>,
    /// Add the workload that serves it too, on this host; several with several --on
    #[arg(long, value_name = "HOST", requires = "run")]
    pub(in crate::cli) on: Vec<HostName>,
    /// What that workload is there: `netns:NAME`, `user:NAME`, `cgroup:/PATH`, `container:NAME`, `pod:NAMESPACE/NAME` or `host`
    #[arg(long, value_name = "KIND:NAME", requires = "on")]
    pub(in crate::cli) run: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) signing: Signing,
}
