//! The arguments of `ripstop learn` and `ripstop stage`.

use super::{Signing, Socket};
use clap::{Args, Subcommand};
use ripstop_config::Span;

#[derive(Debug, Args)]
pub(in super::super) struct Learn {
    /// Only what was tried within this time
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(in super::super) since: Span,
    #[command(flatten)]
    pub(in super::super) socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(in super::super) enum StageCommand {
    /// Show what the staged graph would have allowed and denied since, and which open sessions it would cut, on all hosts
    /// that answer
    Status(Stage),
    /// Sign the staged graph and put it in force on all hosts, as `ripstop apply` does
    Commit(Commit),
    /// Forget the staged graph: on all hosts with an operator's key, else on this one
    Discard(Commit),
}

#[derive(Debug, Args)]
pub(in super::super) struct Stage {
    #[command(flatten)]
    pub(in super::super) socket: Socket,
}

#[derive(Debug, Args)]
pub(in super::super) struct Commit {
    #[command(flatten)]
    pub(in super::super) signing: Signing,
}
