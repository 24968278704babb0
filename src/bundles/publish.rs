//! How a policy is made: the one that runs, edited, signed by operators, and handed to an agent, which hands it on.

use crate::admin::{Client, Running};
use anyhow::{Context as _, anyhow, bail};
use ripstop_config::{FabricName, PolicyVersion};
use ripstop_policy::{BundleId, Content, Envelope};
use ripstop_transport::signing::SigningKey;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Makes a signed policy, to replace the one with the identifier `before`: `content`'s graph is checked, its names keep the
/// addresses that `content` has of them, and every key signs. Bytes are [`Envelope::encode`]'s.
///
/// # Errors
/// The mistakes of the graph, or why it cannot be signed.
pub fn seal(
    fabric: &FabricName,
    version: PolicyVersion,
    before: Option<BundleId>,
    content: Content,
    keys: &[SigningKey],
) -> anyhow::Result<Envelope> {
    let Content { file, graph, addresses, revoked, before: _, staged: _, made: _, note } = content;
    let checked = Content::of(fabric, &file, &graph, &addresses)?;
    let made = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let content = Content { revoked, before, made, note, ..checked };
    let mut envelope = Envelope::seal(fabric, version, &content).context("failed to make a policy of the graph")?;
    sign(&mut envelope, keys)?;
    Ok(envelope)
}

/// Makes a policy that is only tried, on every host, in place of what is staged: a graph, by its file's name and text, or none.
/// Its names keep the addresses that they have in the policy that runs.
///
/// # Errors
/// The mistakes of the graph, or why it cannot be signed.
pub fn seal_stage(running: &Running, graph: Option<(String, String)>, keys: &[SigningKey]) -> anyhow::Result<Envelope> {
    let carried = running.content.as_ref().map(|content| content.addresses.clone()).unwrap_or_default();
    let content = match graph {
        Some((file, graph)) => Content::of(&running.fabric, &file, &graph, &carried)?,
        None => Content::default(),
    };
    let content = Content { staged: Some(running.next_stage), before: running.id, ..content };
    let version = next_version(running)?;
    let mut envelope =
        Envelope::seal(&running.fabric, version, &content).context("failed to make a policy of the graph")?;
    sign(&mut envelope, keys)?;
    Ok(envelope)
}

/// Adds a signature of each key.
///
/// # Errors
/// When it has too many.
pub fn sign(envelope: &mut Envelope, keys: &[SigningKey]) -> anyhow::Result<()> {
    let message = envelope.message();
    for key in keys {
        envelope.sign(key.public(), key.sign(&message))?;
    }
    Ok(())
}

/// The version that comes after what an agent's host has had.
///
/// # Errors
/// At the end of all numbers.
pub fn next_version(running: &Running) -> anyhow::Result<PolicyVersion> {
    let before = running.floor.map_or(PolicyVersion::UNSIGNED, |floor| floor.version);
    before
        .next()
        .ok_or_else(|| anyhow!("{before} is the last version of its epoch; begin another one with --new-epoch"))
}

/// Changes the policy that an agent runs: `edit` gets its content (an empty one where there is none yet), the outcome is
/// signed by every key and handed to the agent, which has it in force and on its way to others when this returns.
///
/// # Errors
/// What `edit` says, the mistakes of the graph, or the agent's refusal: somebody else's change came first, or too few keys
/// signed. Nothing has changed then.
pub fn publish(
    client: &Client,
    keys: &[SigningKey],
    edit: impl FnOnce(&mut Content) -> anyhow::Result<()>,
) -> anyhow::Result<BundleId> {
    if keys.is_empty() {
        bail!("no operator's key to sign with; name one with --key");
    }
    let running = client.running(None)?;
    let version = next_version(&running)?;
    let mut content = running.content.unwrap_or_default();
    edit(&mut content)?;
    let envelope = seal(&running.fabric, version, running.id, content, keys)?;
    Ok(client.offer(envelope.encode())?)
}
