//! The fabric beside its peers: `cargo bench --bench compare`, as root.
//!
//! 1. Two hosts in namespaces, joined by a pair of links; an agent on each, and every peer that is installed
//!    (`benches/compare/peers.sh` installs them), all running at once.
//! 2. Each figure is taken through every system in turn, in every round, in another order; an agent that waits costs the others nothing.
//! 3. The same hosts anew with large packets, with loss, and with delay, and once more for ten thousand idle sessions.
//! 4. The medians are printed, held against the goals, and written to `docs/` where everything was measured, and below
//!    `target/compare` otherwise.
//!
//! The hosts are those of the end-to-end tests: they and all their processes end with this process, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the lab is test code")]
#![expect(unreachable_pub, reason = "one binary: nothing of it is public, and `pub` reads better than `pub(crate)`")]

#[allow(dead_code, reason = "the other benchmark uses the rest")]
#[path = "../common/mod.rs"]
mod common;
mod dns;
mod figures;
mod goals;
mod http;
mod peers;
mod plot;
mod programs;
mod report;
mod rounds;
mod sessions;
mod sitting;
mod system;
mod turns;

use anyhow::{Context, bail};
use clap::Parser;
use common::{
    conditions,
    limit::{at_most, finish},
    serve::Role,
};
use figures::{Group, Results};
use programs::Programs;
use report::About;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use system::System;

/// The longest that everything may take: twice what three rounds of five seconds take on two slow cores.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// Where the figures go that are to be kept, and where those go that are not.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
const SCRATCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/compare");

/// What to measure, and for how long.
#[derive(Debug, Parser)]
#[command(about = "The fabric beside direct TCP, a bare tunnel, VPNs and sidecars", subcommand_negates_reqs = true)]
pub struct Options {
    /// One round of a second a figure: a look, not to be quoted.
    #[arg(long)]
    quick: bool,
    /// Rounds, whose medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Seconds that one figure of one round takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// Only these figures.
    #[arg(long, value_name = "FIGURE")]
    only: Option<Group>,
    /// Where a program of a peer is, for another version than the installed one, or for one that no package provides.
    #[arg(long, value_name = "PROGRAM=PATH", value_parser = named)]
    peer: Vec<(String, PathBuf)>,
    /// Leaves a system out.
    #[arg(long, value_name = "SYSTEM")]
    without: Vec<System>,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

impl Options {
    /// Whether this is all that there is to measure.
    fn is_whole(&self) -> bool {
        !self.quick && self.only.is_none() && self.without.is_empty()
    }
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write PROGRAM=PATH, as in wireguard-go=/opt/wireguard-go")?;
    if !Path::new(path).is_file() {
        return Err(format!("{path} is not a file"));
    }
    Ok((name.to_owned(), path.into()))
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if let Some(role) = options.role.take() {
        return finish(role.run());
    }
    if options.quick {
        (options.rounds, options.seconds) = (1, 1);
    }
    at_most(LIMIT, move || measure(&options))
}

fn measure(options: &Options) -> anyhow::Result<()> {
    if let Some(missing) = ripstop_kernel::preflight().first() {
        bail!("{missing}");
    }
    let programs = Programs::named(&options.peer);
    for needed in ["iperf3", "wrk", "nginx", "ip", "nft", "setpriv"] {
        programs.find(needed)?;
    }
    let conditions = conditions::read();
    let mut results = Results::default();
    let systems = sitting::present(options, &programs, &mut results);
    sitting::run(options, &programs, &systems, &mut results)?;
    let about = About {
        conditions: format!("{conditions}; {} x {} s", options.rounds, options.seconds),
        command: "cargo bench --bench compare".to_owned(),
        versions: systems
            .iter()
            .chain([&System::Unbound])
            .map(|system| (system.name().to_owned(), programs.version(*system)))
            .collect(),
    };
    println!("{}", report::terminal(&results, &about));
    write(if options.is_whole() { DOCS } else { SCRATCH }, &results, &about)?;
    match results.failures.len() {
        0 => Ok(()),
        failed => bail!("figures that could not be taken: {failed}"),
    }
}

fn write(directory: &str, results: &Results, about: &About) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("failed to make {directory}"))?;
    for (name, text) in [("performance.md", report::markdown(results, about)), ("performance.svg", plot::svg(results))]
    {
        let path = Path::new(directory).join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}
