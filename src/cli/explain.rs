//! `ripstop explain`.

use super::{Exit, args, files, output::Output, socket};
use crate::admin::{ClientError, Explained, server::explained};

/// Says whether a call is allowed, by a file or by the agent that answers first.
pub(super) fn run(question: &args::Explain, output: &Output) -> anyhow::Result<Exit> {
    let answer = match &question.graph {
        Some(file) => explained(&files::policy(file)?, &question.who, &question.service)?,
        None => ask(question)?,
    };
    output.show(&answer.chain, || format!("{}\n", answer.text.trim_end()))?;
    Ok(if answer.allowed { Exit::Ok } else { Exit::Denied })
}

/// Agents of one fabric run the same graph, so the first that answers will do.
fn ask(question: &args::Explain) -> Result<Explained, ClientError> {
    let mut failed = None;
    for client in socket::clients(&question.socket) {
        match client.explain(&question.who, &question.service) {
            Err(error) if error.is_unreachable() => failed = failed.or(Some(error)),
            answer => return answer,
        }
    }
    Err(failed.unwrap_or_else(|| ClientError::Refused("there is no agent to ask".into())))
}
