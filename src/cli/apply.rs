//! `ripstop apply` and `ripstop rollback`: sign a policy, hand it to the agent, and wait until every host runs it.

use super::{
    Exit, args,
    files::{self, NewFile},
    graph,
    lost::{self, Fate},
    output::{self, Output, Tone},
    socket,
};
use crate::{
    admin::{Client, HostPolicy, Kept, Reach, Running},
    bundles::publish::{self, publish},
};
use anyhow::{Context as _, bail};
use comfy_table::Cell;
use ripstop_config::PolicyVersion;
use ripstop_policy::{BundleId, Content, Envelope};
use ripstop_transport::signing::SigningKey;
use serde::Serialize;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How often hosts are asked.
const LOOK: Duration = Duration::from_millis(100);
/// How long a host that is being connected is waited for: a handshake on a bad path.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What is shown of it.
#[derive(Serialize)]
struct Applied {
    policy: BundleId,
    hosts: Vec<HostPolicy>,
}

/// Signs a graph, or a bundle that lacks signatures, and publishes it.
pub(super) fn apply(apply: &args::Apply, output: &Output) -> anyhow::Result<Exit> {
    let keys = load(&apply.signing.keys)?;
    let bytes = crate::files::read_bytes(&apply.file)?;
    if bytes.starts_with(Envelope::MAGIC) {
        return countersign(apply, &bytes, &keys, output);
    }
    // Mistakes are shown before anybody is asked.
    let policy = files::policy(&apply.file)?;
    if !output.is_json() {
        graph::dormant(&policy).iter().try_for_each(|note| output::print(note))?;
    }
    let client = socket::one(&apply.signing.socket)?;
    let running = client.running(None)?;
    let text = String::from_utf8(bytes)?;
    let file = apply.file.display().to_string();
    let before = running.content.clone().unwrap_or_default();
    if let (Some(id), true, false, None) = (running.id, before.graph == text, apply.new_epoch, &apply.save) {
        output::print(&format!("the graph is that of policy {}, which is in force\n", id.version))?;
        return follow(&client, id, apply.signing.wait.duration(), output);
    }
    let note = apply.signing.note.clone().unwrap_or_default();
    let content = Content { file, graph: text, note, ..before };
    let envelope = publish::seal(&running.fabric, version(apply, &running)?, running.id, content, &keys)?;
    finish(apply, &client, &envelope, output)
}

/// Signs an earlier policy's graph again, as the newest. Who is shut out stays so.
pub(super) fn rollback(rollback: &args::Rollback, output: &Output) -> anyhow::Result<Exit> {
    let keys = load(&rollback.signing.keys)?;
    let client = socket::one(&rollback.signing.socket)?;
    let earlier = client.running(Some(target(&rollback.to, &client.history()?)?))?;
    let (Some(from), Some(earlier)) = (earlier.id, earlier.content) else { bail!("the agent keeps no such policy") };
    let id = publish(&client, &keys, |content| {
        content.addresses.or(&earlier.addresses);
        (content.file, content.graph) = (earlier.file, earlier.graph);
        let note = || format!("rollback to {}", from.version);
        content.note = rollback.signing.note.clone().unwrap_or_else(note);
        Ok(())
    })?;
    follow(&client, id, rollback.signing.wait.duration(), output)
}

/// `1.7`, or how many to go back from the one in force.
fn target(text: &str, history: &[Kept]) -> anyhow::Result<PolicyVersion> {
    if text.contains('.') {
        return Ok(text.parse()?);
    }
    let back: usize = text.parse().with_context(|| format!("`{text}` is neither a version nor a number"))?;
    let older = history.iter().skip_while(|kept| !kept.in_force);
    match older.clone().nth(back) {
        Some(kept) => Ok(kept.id.version),
        None => bail!("the agent keeps {} older policies; see `ripstop history`", older.count().saturating_sub(1)),
    }
}

/// The operators' keys. A default that is not there is an error as well: nothing is published unsigned.
pub(super) fn load(paths: &[std::path::PathBuf]) -> anyhow::Result<Vec<SigningKey>> {
    paths
        .iter()
        .map(|path| SigningKey::load(path).context("failed to sign; name an operator's key with --key"))
        .collect()
}

fn version(apply: &args::Apply, running: &Running) -> anyhow::Result<PolicyVersion> {
    if !apply.new_epoch {
        return publish::next_version(running);
    }
    let floor = running.floor.map_or(PolicyVersion::UNSIGNED, |floor| floor.version);
    floor.next_epoch().context("there is no epoch after this one")
}

/// Adds signatures to what another operator signed; what it is, is shown first.
fn countersign(apply: &args::Apply, bytes: &[u8], keys: &[SigningKey], output: &Output) -> anyhow::Result<Exit> {
    let mut envelope = Envelope::decode(bytes).with_context(|| apply.file.display().to_string())?;
    let content = envelope.look().context("what is to be signed cannot be read")?;
    let lines = content.graph.lines().count();
    output::print(&format!(
        "policy {} of {}: {}, {lines} lines, made {}{}\n",
        envelope.id(),
        envelope.fabric(),
        content.file,
        content.made,
        if content.note.is_empty() { String::new() } else { format!(" ({})", content.note) }
    ))?;
    publish::sign(&mut envelope, keys)?;
    finish(apply, &socket::one(&apply.signing.socket)?, &envelope, output)
}

/// Writes the bundle down, or publishes it.
fn finish(apply: &args::Apply, client: &Client, envelope: &Envelope, output: &Output) -> anyhow::Result<Exit> {
    let bytes = envelope.encode();
    if let Some(path) = &apply.save {
        save(path, &bytes)?;
        let path = path.display();
        output::print(&format!("policy {} is in {path}; the next operator: ripstop apply {path}\n", envelope.id()))?;
        return Ok(Exit::Ok);
    }
    let id = client.offer(bytes)?;
    follow(client, id, apply.signing.wait.duration(), output)
}

fn save(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    files::write_new(&[NewFile { path, bytes, mode: 0o644 }])
}

/// Waits until every host that lives runs the policy, and shows which do not.
pub(super) fn follow(client: &Client, id: BundleId, most: Duration, output: &Output) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let hosts = loop {
        let hosts = client.hosts()?;
        let waited_for = |host: &HostPolicy| match host.reach {
            Reach::Up | Reach::Carried => !runs(host, id),
            Reach::Connecting => start.elapsed() < CONNECT_MAX,
            Reach::Down | Reach::Unknown => false,
        };
        if start.elapsed() >= most
            || hosts.iter().any(|host| rival(host, id).is_some())
            || !hosts.iter().any(waited_for)
        {
            break hosts;
        }
        std::thread::sleep(LOOK);
    };
    // Of two with one version the greater is on its way to all; else this host has it from elsewhere, or has it not.
    let lost = match hosts.iter().find_map(|host| rival(host, id)) {
        Some(rival) => Fate::Lost(rival),
        None => lost::fate(client, id)?,
    };
    if let Fate::Lost(to) = lost {
        bail!(lost::explained(client, id, to));
    }
    let lives = |host: &HostPolicy| matches!(host.reach, Reach::Up | Reach::Carried);
    let late = hosts.iter().any(|host| lives(host) && !runs(host, id));
    let applied = Applied { policy: id, hosts };
    output.show(&applied, || describe(&applied, start.elapsed(), output))?;
    Ok(if late { Exit::Failed } else { Exit::Ok })
}

/// Another policy of the same version that a host runs, and that wins.
fn rival(host: &HostPolicy, id: BundleId) -> Option<BundleId> {
    host.policy.filter(|policy| policy.version == id.version && *policy > id)
}

/// Somebody may have published a newer one meanwhile, made from it.
fn runs(host: &HostPolicy, id: BundleId) -> bool {
    host.policy.is_some_and(|policy| policy >= id)
}

fn describe(applied: &Applied, took: Duration, output: &Output) -> String {
    let (good, rest): (Vec<_>, Vec<_>) = applied.hosts.iter().partition(|host| runs(host, applied.policy));
    // This host is one of them.
    let count = good.len() + 1;
    let noun = if count == 1 { "host" } else { "hosts" };
    let mut text = format!("policy {} runs on {count} {noun} after {:.1} s\n", applied.policy, took.as_secs_f64());
    if rest.is_empty() {
        return text;
    }
    let mut table = output.table(&["HOST", "STATE", "POLICY"]);
    for host in rest {
        let (tone, state) = match host.reach {
            Reach::Up | Reach::Carried => (Tone::Bad, "does not run it"),
            Reach::Connecting | Reach::Down => (Tone::Bad, "not reachable"),
            Reach::Unknown => (Tone::Bad, "no address in the graph, and it has not called"),
        };
        let policy = host.policy.map_or("-".into(), |policy| policy.to_string());
        table.add_row(vec![Cell::new(&host.host), output.cell(state, tone), Cell::new(policy)]);
    }
    text.push_str(&output::lines(&table));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(version: &str, in_force: bool) -> Kept {
        let id = BundleId { version: version.parse().unwrap(), digest: [1; 8] };
        Kept { id, in_force, made: String::new(), note: String::new(), signers: Vec::new(), lost: false, damage: None }
    }

    #[test]
    fn one_goes_back_by_number_or_by_version() {
        let history = [kept("1.4", false), kept("1.3", true), kept("1.2", false), kept("1.1", false)];
        let to = |text: &str| target(text, &history).map(|version| version.to_string());
        assert_eq!(to("1").unwrap(), "1.2");
        assert_eq!(to("2").unwrap(), "1.1");
        assert_eq!(to("1.1").unwrap(), "1.1");
        assert!(to("3").unwrap_err().to_string().contains("keeps 2 older"));
        assert!(to("x").is_err());
    }
}
