//! `ripstop cni`: the plugin, and how it comes onto a node.

use super::{
    Exit,
    args::cni::{Cni, CniCommand},
    output::Output,
};
use crate::cni;
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};

/// Does it; the plugin itself prints what CNI wants to see.
pub(super) fn run(cni: &Cni, output: &Output) -> anyhow::Result<Exit> {
    let (what, files) = match &cni.command {
        None => return Ok(if cni::run() == ExitCode::SUCCESS { Exit::Ok } else { Exit::Failed }),
        Some(CniCommand::Install(places)) => ("written", cni::install::install(&places.bin, &places.conf)?.to_vec()),
        Some(CniCommand::Uninstall(places)) => ("removed", cni::install::uninstall(&places.bin, &places.conf)?),
    };
    let line = |file: &PathBuf| format!("{what} {}\n", file.display());
    output.show(&json!({ what: files }), || files.iter().map(line).collect())?;
    Ok(Exit::Ok)
}
