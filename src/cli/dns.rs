//! `ripstop dns query`.

use super::{Exit, args, output::Output, socket};
use crate::admin::Resolved;
use std::fmt::Write;

/// The Extended DNS Error for what the policy hides (RFC 8914 section 4.19).
const PROHIBITED: u16 = 18;

/// Asks as a workload, and shows the answer as `dig` does.
pub(super) fn query(query: &args::DnsQuery, output: &Output) -> anyhow::Result<Exit> {
    let resolved = socket::one(&query.socket)?.dns(&query.workload, &query.name, &query.kind)?;
    output.show(&resolved, || describe(&resolved))?;
    let hidden = resolved.looked.errors.iter().any(|error| error.code == PROHIBITED);
    Ok(match resolved.looked.answers.is_empty() {
        false => Exit::Ok,
        true if hidden => Exit::Denied,
        true => Exit::Failed,
    })
}

fn describe(resolved: &Resolved) -> String {
    let Resolved { workload, name, source, looked } = resolved;
    let mut text = String::new();
    for record in &looked.answers {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}  {}  {}  {}", record.name, record.ttl, record.kind, record.data);
    }
    if looked.answers.is_empty() {
        let _ = writeln!(text, "{name}: {}, as {workload} asks", looked.code);
    }
    for error in &looked.errors {
        let _ = writeln!(text, "  Extended DNS Error {}: {}", error.code, error.text);
    }
    let _ = writeln!(text, "  answered by {}", if source == "fabric" { "the fabric" } else { "another server" });
    text
}
