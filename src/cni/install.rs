//! Puts the plugin where a node's runtime finds it: the binary, and a network that is the node's own with this plugin behind it.
//!
//! A runtime takes the first configuration of its directory by name. So that of the cluster's own network stays as it is, and one
//! before it has its plugins, and this one behind them.

use super::{NAME, config::ANNOTATIONS};
use crate::durable;
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The configuration's name, which comes before those that clusters have.
const FILE: &str = "00-ripstop.conflist";
/// The binary that runs, also when another one has its name by now.
const SELF: &str = "/proc/self/exe";
/// Bytes of a configuration at most.
const FILE_MAX: u64 = 1 << 20;

/// Copies this binary into a directory of plugins and writes the configuration; returns both files.
///
/// # Errors
/// When there is no network to be behind, it is none that is understood, or something cannot be written.
pub fn install(binaries: &Path, configurations: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let (from, network) = first(configurations)?;
    let chained = chain(network)
        .with_context(|| format!("{} is no network that another plugin can be put behind", from.display()))?;
    let binary = binaries.join(NAME);
    let program = fs::read(SELF).context("failed to read this program")?;
    durable::replace(&binary, &program, 0o755).with_context(|| format!("failed to write {}", binary.display()))?;
    let file = configurations.join(FILE);
    let text = serde_json::to_vec_pretty(&chained)?;
    durable::replace(&file, &text, 0o644).with_context(|| format!("failed to write {}", file.display()))?;
    Ok([binary, file])
}

/// Removes both; returns those that were there. First the configuration, which would look for the binary.
///
/// # Errors
/// When one cannot be removed.
pub fn uninstall(binaries: &Path, configurations: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for file in [configurations.join(FILE), binaries.join(NAME)] {
        match fs::remove_file(&file) {
            Ok(()) => removed.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to remove {}", file.display())),
        }
    }
    Ok(removed)
}

/// The network that the runtime would take without ours.
fn first(configurations: &Path) -> anyhow::Result<(PathBuf, Value)> {
    let shown = configurations.display();
    let entries = fs::read_dir(configurations).with_context(|| format!("failed to read {shown}"))?;
    let is_network = |path: &PathBuf| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        kind.is_some_and(|kind| ["conf", "conflist", "json"].contains(&kind)) && path.file_name() != Some(FILE.as_ref())
    };
    let mut networks: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_network).collect();
    networks.sort();
    let Some(path) = networks.into_iter().next() else {
        bail!("{shown} has no network yet: the cluster's own comes first, this plugin behind it");
    };
    let broken = || format!("failed to read {}", path.display());
    if fs::metadata(&path).with_context(broken)?.len() > FILE_MAX {
        bail!("{} has more than {FILE_MAX} bytes", path.display());
    }
    let text = fs::read_to_string(&path).with_context(broken)?;
    let network = serde_json::from_str(&text).with_context(broken)?;
    Ok((path, network))
}

/// A network, or a list of plugins, with this one behind it.
fn chain(network: Value) -> anyhow::Result<Value> {
    let ours = json!({ "type": NAME, "capabilities": { ANNOTATIONS: true } });
    let Value::Object(mut list) = network else { bail!("it is no object") };
    if let Some(plugins) = list.get_mut("plugins") {
        let plugins = plugins.as_array_mut().context("`plugins` is no list")?;
        plugins.retain(|plugin| plugin["type"] != NAME);
        plugins.push(ours);
        return Ok(Value::Object(list));
    }
    let (version, name) = (list.get("cniVersion").cloned(), list.get("name").cloned());
    let (Some(version), Some(name)) = (version, name) else { bail!("it has no `cniVersion`, or no `name`") };
    Ok(json!({ "cniVersion": version, "name": name, "plugins": [list, ours] }))
}
