//! The arguments of every command. Their doc comments are the help texts.

pub(super) mod cni;
pub(super) mod enrol;
pub(super) mod import;
pub(super) mod learn;
mod operate;
pub(super) mod policy;

pub(super) use operate::{
    Bugreport, Capture, Check, DnsCommand, DnsQuery, Man, Observe, Page, Peers, Ping, Services, Sort, Top,
};
pub(super) use policy::{Apply, History, Keygen, OperatorCommand, Rollback, Signing};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::{ffi::OsString, path::PathBuf};

/// A service fabric without sidecars: the network between services, derived from a declared service graph
#[derive(Debug, Parser)]
#[command(name = "ripstop", version, propagate_version = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    /// How to print what has columns
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub(super) output: Format,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the agent of this host
    Agent(Agent),
    /// Build three hosts in network namespaces and make real requests between them
    Demo(Demo),
    #[command(hide = true)]
    Door,
    #[command(hide = true)]
    DemoServe(crate::demo::ServeArgs),
    /// Run a command as a workload: its namespace or user, its resolver
    Exec(Exec),
    /// Make a fabric: its authority, and this host as its first
    Init(enrol::Init),
    /// Make this host one of a fabric, with a token
    Join(enrol::Join),
    /// Tokens, with which hosts join
    #[command(subcommand)]
    Token(enrol::TokenCommand),
    /// Shut a host out
    #[command(subcommand)]
    Host(enrol::HostCommand),
    /// Add a workload to the graph
    #[command(subcommand)]
    Workload(enrol::WorkloadCommand),
    /// Add a service to the graph, and who may call it; sign it and put it in force
    Expose(enrol::Expose),
    /// Make the fabric's certificates by hand, offline
    #[command(subcommand)]
    Ca(CaCommand),
    /// Look at a service graph's file
    #[command(subcommand)]
    Graph(GraphCommand),
    /// Sign a graph, hand it to the agent, and wait until every host runs it
    ///
    /// Exits with 1 when a host that can be reached does not run it in time.
    Apply(Apply),
    /// Sign an earlier policy's graph again, as the newest
    Rollback(Rollback),
    /// Look at a graph that `apply --stage` tries on live traffic, put it in force, or forget it
    #[command(subcommand)]
    Stage(learn::StageCommand),
    /// Propose edges for what workloads of this host asked for and were denied, as YAML with counts
    Learn(learn::Learn),
    /// Show the signed policies that the agent keeps
    History(History),
    /// Make the keys of those who sign policies
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Say whether a workload may call a service, by which rule, or what would allow it
    ///
    /// Asks the running agent, or reads a graph's file with --graph. Exits with 3 when it is denied.
    Explain(Explain),
    /// Look whether this host can run an agent, and whether the one that runs is well
    ///
    /// Before and after it is installed. Exits with 1 when something does not work; each such thing comes with what to do.
    Check(Check),
    /// Show how the agent is: policy, other hosts, workloads
    Status(Status),
    /// Show session records: what was allowed, denied and carried, and why
    ///
    /// The agent keeps its last 4 096 records. Those before are where `sessions:` in its settings says.
    Observe(Observe),
    /// Capture the packets of calls to a service, or of a session, as workloads see them, on both hosts, into one pcapng file
    ///
    /// Only hosts whose settings let operators of this one take part (`capture:` in agent.yaml). The packets are plaintext, and no
    /// secret in them is left out. Ctrl-C ends it.
    Capture(Capture),
    /// Print a link by which a browser sees what happens on this host: the service map, sessions and why, policy, hosts
    ///
    /// The link is good once, for five minutes. `page: 127.0.0.1:7479` in the agent's settings has the page served.
    Page(Page),
    /// Show who calls what and how much, live
    Top(Top),
    /// Show the services that this host serves or calls, with their endpoints and callers
    Services(Services),
    /// Show the other hosts: round trips, loss, packet sizes, paths
    Peers(Peers),
    /// Ask another host's agent for a sign of life, over the connection that sessions take
    Ping(Ping),
    /// Ask for names as a workload
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Show the workloads of this host: what is attached, how, since when, and why not
    Workloads(Workloads),
    /// Attach a workload of this host by hand, or as the graph says again
    ///
    /// Without --pid and --netns it ends what an earlier `attach` or `detach` has said. It lasts until then, or until the agent
    /// stops.
    Attach(Attach),
    /// Take a workload's interface away, until `attach`
    Detach(Detach),
    /// Tell the agent of pods, as a container runtime calls it by the name ripstop-cni (CNI 1.1)
    ///
    /// What to do is in the environment, the network's configuration on standard input.
    Cni(cni::Cni),
    /// Have endpoints of this host take no new sessions; open ones go on
    ///
    /// Callers go to the service's other endpoints. It lasts until --undo, or until the agent stops.
    Drain(Drain),
    /// Have another agent take over, of this binary and of the settings as they are; open sessions end with the one that runs
    ///
    /// When the new one does not start, the one that runs goes on as if nothing had happened. Where systemd runs the agent, this
    /// is `systemctl reload`.
    Upgrade(Upgrade),
    /// Remove what an agent that was killed left in the kernel
    Cleanup(Cleanup),
    /// Put what a developer needs to know into one archive; nothing secret is in it
    ///
    /// Settings, status, sessions, recent records, metrics, log, and what `check` finds. It names hosts, workloads, services and
    /// addresses.
    Bugreport(Bugreport),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Write the manual pages
    #[command(hide = true)]
    Man(Man),
}

#[derive(Debug, Args)]
pub(super) struct Agent {
    #[command(flatten)]
    pub(super) how: How,
    /// Take over from the agent that runs, and have its open sessions end within so long
    #[arg(long, value_name = "DURATION")]
    pub(super) take_over: Option<ripstop_config::Span>,
    /// Start it and end, so that it is nobody's child
    #[arg(long, hide = true)]
    pub(super) detach: bool,
}

/// How an agent runs.
#[derive(Debug, Args)]
pub(super) struct How {
    /// The agent's settings
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "/etc/ripstop/agent.yaml")]
    pub(super) config: PathBuf,
    /// What to log, such as `info` or `ripstop=debug`
    #[arg(long, env = "RIPSTOP_LOG", value_name = "FILTER", default_value = "info")]
    pub(super) log: String,
    /// How to write the log
    #[arg(long, value_enum, default_value_t)]
    pub(super) log_format: LogFormat,
    /// The socket of a door, which enters namespaces for the agent; else the agent starts its own
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(super) door: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Stop after the requests; exit with 1 if any did not go as it should
    #[arg(long)]
    pub(super) once: bool,
}

/// The agent to ask.
#[derive(Debug, Args)]
pub(super) struct Socket {
    /// The agent's admin socket [default: /run/ripstop/agent.sock, or those of /run/ripstop/*/agent.sock]
    #[arg(long, env = "RIPSTOP_SOCKET", value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// The workload: TENANT/NAME, or NAME where only one tenant has it
    pub(super) workload: String,
    /// The pod or container, by its id or the first characters of that, where several are the workload; else the first that is found
    #[arg(long, value_name = "ID")]
    pub(super) replica: Option<String>,
    #[command(flatten)]
    pub(super) socket: Socket,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::CommandWithArguments)]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make the fabric's certificate authority: ca.pem and ca.key
    Init(CaInit),
    /// Issue a certificate
    #[command(subcommand)]
    Issue(Issue),
}

#[derive(Debug, Args)]
pub(super) struct CaInit {
    /// The fabric's name, as in the graph
    #[arg(long, value_name = "NAME")]
    pub(super) fabric: ripstop_config::FabricName,
    /// Where to keep the authority
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "ca")]
    pub(super) dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Issue {
    /// For a host: host.pem, host.key and ca.pem, to be put beside its agent.yaml
    Host(IssueHost),
}

#[derive(Debug, Args)]
pub(super) struct IssueHost {
    /// The host's name, as in the graph
    pub(super) name: ripstop_config::HostName,
    /// Where the authority is kept
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "ca")]
    pub(super) dir: PathBuf,
    /// Where to put the three files [default: a directory with the host's name]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) out: Option<PathBuf>,
    /// How many days the certificate is good for
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=825))]
    pub(super) days: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum GraphCommand {
    /// Say every mistake in a graph, or what is in it
    Check(GraphFile),
    /// Show the services, workloads and edges of a graph with their addresses
    Show(GraphFile),
    /// Try a graph's own tests; exits with 1 when one does not hold
    Test(GraphFile),
    /// Print the JSON schema of a graph, by which editors complete and check one
    Schema,
    /// Say what a graph would change: calls allowed and denied, names that come and go, open sessions that would be cut
    ///
    /// Compares with the signed policy that the agent runs, and its sessions, or with --against.
    Diff(GraphDiff),
    /// Make a graph of the manifests that are there already; a report says what was used, inferred and left out
    ///
    /// Nothing is allowed but what a manifest says of one program and another. The same manifests give the same graph.
    #[command(subcommand)]
    Import(import::ImportCommand),
}

#[derive(Debug, Args)]
pub(super) struct GraphFile {
    /// The graph
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct GraphDiff {
    /// The new graph
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
    /// The graph to compare with; no agent is asked
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) against: Option<PathBuf>,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The calling workload: TENANT/NAME, or NAME where only one tenant has it
    pub(super) who: String,
    /// The service: TENANT/NAME, NAME, its DNS name or its address, and a port such as 8080/tcp
    #[arg(value_name = "SERVICE[:PORT]")]
    pub(super) service: String,
    /// Read this graph and ask no agent
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) graph: Option<PathBuf>,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Only say whether the agent is ready, as `/readyz` does; exits with 1 when it is not: for health checks
    #[arg(long)]
    pub(super) ready: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// The service whose endpoint on this host is meant, such as TENANT/NAME [default: all services of this host]
    pub(super) service: Option<String>,
    /// Take new sessions again
    #[arg(long, conflicts_with = "wait")]
    pub(super) undo: bool,
    /// Wait until no session is open any more, at most so long if given, such as `30s`; exits with 1 if some are left
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "how clap tells `--wait` from `--wait=DURATION`")]
    pub(super) wait: Option<Option<ripstop_config::Span>>,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// How long sessions that are open may take to end
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(super) drain: ripstop_config::Span,
    #[command(flatten)]
    pub(super) how: How,
}

#[derive(Debug, Args)]
pub(super) struct Workloads {
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Attach {
    /// The workload, which the graph places on this host: TENANT/NAME, or NAME where only one tenant has it
    pub(super) workload: String,
    /// The network namespace of this process, while it lives
    #[arg(long, value_name = "PID", conflicts_with = "netns")]
    pub(super) pid: Option<u32>,
    /// This network namespace: a name under /run/netns, or a path
    #[arg(long, value_name = "NAME")]
    pub(super) netns: Option<String>,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// The workload: TENANT/NAME, or NAME where only one tenant has it
    pub(super) workload: String,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// Only tell programs that wait for its sessions that they are over; what keeps traffic in stays
    #[arg(long)]
    pub(super) sessions_only: bool,
    /// The agent's run directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "/run/ripstop")]
    pub(super) run: PathBuf,
    /// The socket of a door, for who may not enter namespaces
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(super) door: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}
