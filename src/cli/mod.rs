//! The command line: arguments, then one module per command.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; one message on standard error says what, where and what to do |
//! | 2 | the arguments make no sense |
//! | 3 | `explain`: the policy denies it |
//! | 4 | no agent answers |

mod agent;
mod apply;
mod args;
mod attach;
mod bugreport;
mod ca;
mod capture;
mod change;
mod check;
mod cni;
mod diff;
mod dns;
mod door;
mod drain;
mod exec;
mod explain;
mod files;
mod graph;
mod history;
mod import;
mod init;
mod join;
mod learn;
mod lost;
mod observe;
mod output;
mod page;
mod peers;
mod place;
mod services;
mod socket;
mod stage;
mod start;
mod status;
mod token;
mod top;
mod upgrade;
mod workloads;

use crate::{admin::ClientError, demo, shown};
use anyhow::{Context, bail};
use args::{
    Arguments, CaCommand, Command, DnsCommand, GraphCommand, OperatorCommand,
    enrol::{HostCommand, TokenCommand, WorkloadCommand},
    import::ImportCommand,
};
use clap::{CommandFactory, Parser};
use output::Output;
use ripstop_kernel::Doorway;
use std::process::ExitCode;

/// How a command ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Ok = 0,
    Failed = 1,
    Denied = 3,
    Unreachable = 4,
}

/// Parses the arguments, runs the command and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    if crate::cni::is_called() {
        return crate::cni::run();
    }
    agent::forgo_huge_pages();
    let arguments = Arguments::parse();
    let exit = run(arguments).unwrap_or_else(|error| {
        output::print_error(&error);
        exit_of(&error)
    });
    ExitCode::from(exit as u8)
}

fn exit_of(error: &anyhow::Error) -> Exit {
    let unreachable = error.chain().filter_map(|cause| cause.downcast_ref()).any(ClientError::is_unreachable);
    if unreachable { Exit::Unreachable } else { Exit::Failed }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let output = Output::new(arguments.output);
    match arguments.command {
        Command::Agent(agent) => agent::run(&agent),
        Command::Door => door::run(),
        Command::Demo(demo) => demo::run(demo.once).map(|()| Exit::Ok),
        Command::DemoServe(serve) => demo::serve(serve).map(|()| Exit::Ok),
        Command::Exec(command) => exec::run(&command),
        Command::Init(init) => init::run(&init, &output),
        Command::Join(join) => join::run(&join, &output),
        Command::Token(TokenCommand::Create(create)) => token::create(&create, &output),
        Command::Token(TokenCommand::List(list)) => token::list(&list, &output),
        Command::Token(TokenCommand::Revoke(revoke)) => token::revoke(&revoke, &output),
        Command::Host(HostCommand::Revoke(host)) => change::revoke(&host, &output),
        Command::Workload(WorkloadCommand::Add(add)) => change::workload_add(&add, &output),
        Command::Expose(expose) => change::expose(&expose, &output),
        Command::Ca(CaCommand::Init(init)) => ca::init(&init),
        Command::Ca(CaCommand::Issue(args::Issue::Host(host))) => ca::issue_host(&host),
        Command::Graph(GraphCommand::Check(file)) => graph::check(&file.file, &output),
        Command::Graph(GraphCommand::Show(file)) => graph::show(&file.file, &output),
        Command::Graph(GraphCommand::Test(file)) => graph::test(&file.file, &output),
        Command::Graph(GraphCommand::Schema) => output::print(ripstop_config::graph::SCHEMA).map(|()| Exit::Ok),
        Command::Graph(GraphCommand::Diff(asked)) => diff::run(&asked, &output),
        Command::Graph(GraphCommand::Import(ImportCommand::Compose(asked))) => import::compose(&asked),
        Command::Graph(GraphCommand::Import(ImportCommand::Kubernetes(asked))) => import::kubernetes(&asked),
        Command::Apply(apply) if apply.stage => stage::put(&apply),
        Command::Stage(command) => stage::run(&command, &output),
        Command::Learn(learn) => learn::run(&learn, &output),
        Command::Apply(apply) => apply::apply(&apply, &output),
        Command::Rollback(rollback) => apply::rollback(&rollback, &output),
        Command::History(history) => history::run(&history, &output),
        Command::Operator(OperatorCommand::Keygen(keygen)) => history::keygen(&keygen),
        Command::Explain(question) => explain::run(&question, &output),
        Command::Check(check) => check::run(&check, &output),
        Command::Status(status) => status::run(&status, &output),
        Command::Observe(observe) => observe::run(&observe, &output),
        Command::Capture(asked) => capture::run(&asked, &output),
        Command::Page(page) => page::run(&page, &output),
        Command::Top(top) => top::run(&top, &output),
        Command::Services(services) => services::run(&services, &output),
        Command::Peers(peers) => peers::run(&peers, &output),
        Command::Ping(ping) => peers::ping(&ping, &output),
        Command::Dns(DnsCommand::Query(query)) => dns::query(&query, &output),
        Command::Workloads(workloads) => workloads::run(&workloads, &output),
        Command::Attach(command) => attach::attach(&command, &output),
        Command::Detach(command) => attach::detach(&command, &output),
        Command::Cni(cni) => cni::run(&cni, &output),
        Command::Drain(drain) => drain::run(&drain, &output),
        Command::Upgrade(upgrade) => upgrade::run(&upgrade, &output),
        Command::Cleanup(cleanup) => undo(&cleanup, &output),
        Command::Bugreport(report) => bugreport::run(&report, &output),
        Command::Completions(completions) => complete(completions.shell),
        Command::Man(man) => manual(&man.directory),
    }
}

fn undo(cleanup: &args::Cleanup, output: &Output) -> anyhow::Result<Exit> {
    if !cleanup.run.exists() {
        bail!("{} does not exist, so no agent ran with it; name the agent's `run:` directory", cleanup.run.display());
    }
    let undo = if cleanup.sessions_only { ripstop_kernel::reset_sessions } else { ripstop_kernel::cleanup_through };
    let doorway = match &cleanup.door {
        Some(socket) => Doorway::Process(door::connect(socket)?),
        None => Doorway::Here,
    };
    let report =
        undo(&cleanup.run, &doorway).with_context(|| format!("failed to clean up {}", cleanup.run.display()))?;
    output.show(&report, || format!("{report}\n"))?;
    Ok(Exit::Ok)
}

fn complete(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ripstop", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(Exit::Ok)
}

/// One page for each command, as git has them: `ripstop-graph-check(1)`.
fn manual(directory: &std::path::Path) -> anyhow::Result<Exit> {
    let write = || clap_mangen::generate_to(Arguments::command(), directory);
    write().with_context(|| format!("cannot write manual pages into {}; make it", directory.display()))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_unreachable_agent_is_told_apart_however_deep_it_is() {
        let error = ClientError::Unreachable("/run/x".into(), std::io::ErrorKind::NotFound.into());
        let error = anyhow::Error::new(error).context("failed to ask");
        assert_eq!(exit_of(&error), Exit::Unreachable);
        assert_eq!(exit_of(&anyhow::anyhow!("else")), Exit::Failed);
    }
}
