//! The arguments of commands on signed policies.

use super::Socket;
use clap::{Args, Subcommand, ValueHint};
use ripstop_config::{OperatorName, PolicyVersion, Span, TenantName};
use std::path::PathBuf;

/// Where `ripstop init` leaves the first operator's key.
pub(in super::super) const DEFAULT_KEY: &str = "/etc/ripstop/operator.key";

/// Who signs.
#[derive(Debug, Args)]
pub(in super::super) struct Signing {
    /// An operator's key; give it again for each of several
    #[arg(long = "key", value_name = "FILE", value_hint = ValueHint::FilePath, default_value = DEFAULT_KEY)]
    pub(in super::super) keys: Vec<PathBuf>,
    /// A word on what it is for, for `ripstop history`
    #[arg(long, value_name = "TEXT")]
    pub(in super::super) note: Option<String>,
    /// How long to wait until every host runs it
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(in super::super) wait: Span,
    #[command(flatten)]
    pub(in super::super) socket: Socket,
}

#[derive(Debug, Args)]
pub(in super::super) struct Apply {
    /// The graph; or a bundle that --save wrote, to be signed by one more operator
    #[arg(value_hint = ValueHint::FilePath)]
    pub(in super::super) file: PathBuf,
    #[command(flatten)]
    pub(in super::super) signing: Signing,
    /// Write the signed bundle there, for another operator to sign, and publish nothing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in super::super) save: Option<PathBuf>,
    /// Put nothing in force: have all hosts say what it would change, with `ripstop stage status`; without a key this one
    #[arg(long, conflicts_with_all = ["save", "new_epoch"])]
    pub(in super::super) stage: bool,
    /// Begin a new epoch: newer than whatever any host has had
    #[arg(long)]
    pub(in super::super) new_epoch: bool,
}

#[derive(Debug, Args)]
pub(in super::super) struct Rollback {
    /// A version as `ripstop history` shows it, or how many to go back
    #[arg(value_name = "VERSION|N", default_value = "1")]
    pub(in super::super) to: String,
    #[command(flatten)]
    pub(in super::super) signing: Signing,
}

#[derive(Debug, Args)]
pub(in super::super) struct History {
    /// Print the graph of the policy of this version, such as `1.7`
    #[arg(long, value_name = "VERSION")]
    pub(in super::super) graph: Option<PolicyVersion>,
    #[command(flatten)]
    pub(in super::super) socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(in super::super) enum OperatorCommand {
    /// Make an operator's key, and print what the hosts need to trust it
    Keygen(Keygen),
}

#[derive(Debug, Args)]
pub(in super::super) struct Keygen {
    /// The operator's name
    #[arg(default_value = "operator")]
    pub(in super::super) name: OperatorName,
    /// The key may change no more than the part of this tenant and of those below it; give it again for each of several
    #[arg(long = "tenant", value_name = "TENANT")]
    pub(in super::super) tenants: Vec<TenantName>,
    /// Where to put the key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "operator.key")]
    pub(in super::super) out: PathBuf,
}
