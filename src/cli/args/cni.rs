//! The arguments of `ripstop cni`.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::cli) struct Cni {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<CniCommand>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CniCommand {
    /// Put the plugin behind the network that this node has
    Install(Places),
    /// Take it away again
    Uninstall(Places),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Places {
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "/opt/cni/bin")]
    pub(in crate::cli) bin: PathBuf,
    /// Where it looks for networks
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "/etc/cni/net.d")]
    pub(in crate::cli) conf: PathBuf,
}
