//! A whole fabric against plain TCP over the same link: `cargo bench --bench fabric`, as root.
//!
//! Two hosts in namespaces, joined by a pair of links; an agent on each; a caller in a namespace on alpha; on beta, an
//! endpoint in a namespace and one that is a user of the host. Each figure is taken directly and through the fabric in
//! turn, in every round, and the medians of the rounds are printed side by side. `-- --quick` is a look of less
//! than a minute. The hosts are those of the end-to-end tests: they end with this process, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the lab is test code")]
#![expect(unreachable_pub, reason = "one binary: nothing of it is public, and `pub` reads better than `pub(crate)`")]

#[allow(dead_code, reason = "the other benchmark uses the rest")]
#[path = "../common/mod.rs"]
mod common;
mod fairness;
mod many;
mod memory;
mod rounds;
#[allow(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "../../tests/e2e/small.rs"]
mod small;
mod table;
mod target;
mod threads;

use anyhow::{Context, bail};
use clap::Parser;
use common::{
    bed::Bed,
    conditions,
    limit::{at_most, finish},
    link::Link,
    serve::Role,
};
use std::{
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

/// The longest that everything may take: three times what three rounds take on two slow cores.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What to measure, and for how long.
#[derive(Debug, Parser)]
#[command(about = "The fabric against direct TCP over the same link")]
struct Options {
    /// One round of two seconds a figure.
    #[arg(long)]
    quick: bool,
    /// Rounds, whose medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Seconds that one figure of one round takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// Only the small sessions beside one that takes all it can get.
    #[arg(long)]
    fairness: bool,
    /// Only agents with so many data threads, as in 1,2,4: what more of them carry on a machine that has processors for them.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = threads::number)]
    data_threads: Vec<u8>,
    /// Of those, only the figures whose names contain this.
    #[arg(long, default_value = "", hide_default_value = true, requires = "data_threads")]
    only: String,
    /// More lines for the settings of those agents, as in 'busy-poll: on'.
    #[arg(long, default_value = "", hide_default_value = true, requires = "data_threads")]
    settings: String,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if let Some(role) = options.role.take() {
        return finish(role.run());
    }
    if options.quick {
        (options.rounds, options.seconds) = (1, 2);
    }
    at_most(LIMIT, move || measure(&options))
}

fn measure(options: &Options) -> anyhow::Result<()> {
    check_machine()?;
    let conditions = conditions::read();
    if !options.data_threads.is_empty() {
        let table = threads::measure(options)?;
        println!("{conditions}, {} x {} s\n\n{table}", options.rounds, options.seconds);
        return Ok(());
    }
    let mut table = table::Table::default();
    let mut bed = Bed::build(Link::default())?;
    target::serve(&mut bed);
    let memory = (!options.fairness).then(|| memory::of_idle_sessions(&bed));
    bed.restart()?;
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        if !options.fairness {
            rounds::round(&bed, options.seconds, &mut table);
        }
        fairness::round(&bed, options.seconds, &mut table);
    }
    if let Some(memory) = memory {
        memory::add_rows(memory, bed.resident(), &mut table);
    }
    println!("{conditions}, {} x {} s, medians\n", options.rounds, options.seconds);
    println!("{table}");
    match table.failures() {
        0 => Ok(()),
        failed => bail!("figures that could not be taken: {failed}"),
    }
}

fn check_machine() -> anyhow::Result<()> {
    if let Some(missing) = ripstop_kernel::preflight().first() {
        bail!("{missing}");
    }
    for (program, package) in [("iperf3", "iperf3"), ("ip", "iproute2"), ("setpriv", "util-linux")] {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.with_context(|| format!("{program} is missing: apt-get install {package}"))?;
    }
    Ok(())
}
