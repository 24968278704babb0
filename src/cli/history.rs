//! `ripstop history` and `ripstop operator`.

use super::{
    Exit, args,
    files::{self, NewFile},
    output::{self, Output, Tone},
    socket,
};
use crate::admin::Kept;
use anyhow::Context as _;
use comfy_table::Cell;
use ripstop_config::{OperatorKey, Operators, TenantName};
use ripstop_transport::signing::SigningKey;

/// Shows the signed policies that the agent keeps.
pub(super) fn run(history: &args::History, output: &Output) -> anyhow::Result<Exit> {
    let client = socket::one(&history.socket)?;
    if let Some(version) = history.graph {
        let content = client.running(Some(version))?.content;
        output::print(&content.context("the agent has no such policy")?.graph)?;
        return Ok(Exit::Ok);
    }
    let kept = client.history()?;
    output.show_list("policies", &kept, || describe(&kept, output))?;
    Ok(Exit::Ok)
}

fn describe(kept: &[Kept], output: &Output) -> String {
    if kept.is_empty() {
        return "no policy yet; `ripstop apply` makes the first\n".into();
    }
    let mut table = output.table(&["VERSION", "STATE", "MADE", "BY", "NOTE"]);
    for one in kept {
        let state = match (&one.damage, one.in_force) {
            (Some(_), _) => output.cell("damaged", Tone::Bad),
            (None, true) => output.cell("in force", Tone::Good),
            (None, false) if one.lost => output.cell("lost to another of its version", Tone::Bad),
            (None, false) => Cell::new("kept"),
        };
        let signers = one.signers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let note = one.damage.as_ref().unwrap_or(&one.note);
        table.add_row(vec![
            Cell::new(one.id.version),
            state,
            Cell::new(&one.made),
            Cell::new(signers),
            Cell::new(note),
        ]);
    }
    output::lines(&table)
}

/// Makes an operator's key. What is printed is a file of operators.
pub(super) fn keygen(keygen: &args::Keygen) -> anyhow::Result<Exit> {
    let (key, pem) = SigningKey::generate().context("failed to make a key")?;
    files::write_new(&[NewFile { path: &keygen.out, bytes: pem.as_bytes(), mode: 0o600 }])?;
    if !keygen.tenants.is_empty() {
        return limited(keygen, key.public());
    }
    let operators = Operators::of(1, [(keygen.name.clone(), key.public())].into());
    output::print(&format!(
        "# The key is in {}: whoever has it makes the policy, so keep it off the hosts where you can.\n\
         # This is operators.yaml, to be put beside agent.yaml on each host, with `trust: operators.yaml` there.\n{operators}",
        keygen.out.display()
    ))?;
    Ok(Exit::Ok)
}

/// What is printed is a line of a file of operators: somebody else may change the rest.
fn limited(keygen: &args::Keygen, key: OperatorKey) -> anyhow::Result<Exit> {
    let tenants: Vec<_> = keygen.tenants.iter().map(TenantName::as_str).collect();
    output::print(&format!(
        "# The key is in {}. Put this line under `operators:` of operators.yaml on each host, and send the agents SIGHUP.\n  \
         {}: {{ key: {key}, tenants: [{}] }}\n",
        keygen.out.display(),
        keygen.name,
        tenants.join(", ")
    ))?;
    Ok(Exit::Ok)
}
