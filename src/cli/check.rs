//! `ripstop check`.

use super::{
    Exit, args,
    output::{Output, Tone},
    socket,
};
use crate::{
    admin::{Client, SOCKET},
    check::{self, Finding, Group, State},
};
use std::fmt::Write;

/// Columns of the names of what was looked at.
const NAMES: usize = 16;

/// Looks at everything; exits with 1 when something is bad.
pub(super) fn run(asked: &args::Check, output: &Output) -> anyhow::Result<Exit> {
    let findings = check::check(&asked.config, |config| match (&asked.socket.socket, config) {
        (Some(socket), _) => Client::new(socket),
        (None, Some(config)) => Client::new(&config.run.join(SOCKET)),
        // Never empty.
        (None, None) => socket::clients(&asked.socket).swap_remove(0),
    });
    let count = |state: State| findings.iter().filter(|finding| finding.state == state).count();
    let (good, doubtful, bad) = (count(State::Good), count(State::Doubtful), count(State::Bad));
    let value = serde_json::json!({ "good": good, "doubtful": doubtful, "bad": bad, "findings": findings });
    output
        .show(&value, || format!("{}\n{good} good, {doubtful} doubtful, {bad} bad\n", describe(&findings, output)))?;
    Ok(if bad == 0 { Exit::Ok } else { Exit::Failed })
}

fn describe(findings: &[Finding], output: &Output) -> String {
    let mut findings: Vec<_> = findings.iter().collect();
    findings.sort_by_key(|finding| finding.group);
    let (mut text, mut group): (String, Option<Group>) = (String::new(), None);
    for finding in findings {
        if group.replace(finding.group) != Some(finding.group) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}", finding.group.as_str());
        }
        let mark = match finding.state {
            State::Good => output.paint("✓", Tone::Good),
            State::Doubtful => output.paint("‼", Tone::Doubtful),
            State::Bad => output.paint("×", Tone::Bad),
        };
        let says = finding.says.replace('\n', &format!("\n    {:NAMES$}  ", ""));
        let _ = writeln!(text, "  {mark} {:<NAMES$}  {says}", finding.what);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "    {:NAMES$}  → {remedy}", "");
        }
    }
    text
}
