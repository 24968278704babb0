//! `ripstop graph import`: files and directories are read here; what they mean is found in `ripstop_config::import`.

use super::{
    Exit,
    args::import::{ImportCompose, ImportKubernetes, Into, ReportFormat},
    files::{self, NewFile},
    output,
};
use crate::files::read;
use anyhow::{Context as _, anyhow, bail};
use ripstop_config::{
    HostName,
    import::{self, Compose, Imported, Manifest, Target},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    path::Path,
};

/// Manifests that are read from directories; more is somebody's whole disk.
const FILES_MAX: usize = 4096;
/// Bytes of them together.
const BYTES_MAX: usize = 64 << 20;
/// Directories within directories.
const DEPTH_MAX: usize = 16;
/// The name of standard input on the command line.
const STANDARD_INPUT: &str = "-";

pub(super) fn compose(asked: &ImportCompose) -> anyhow::Result<Exit> {
    let files = asked.files.iter().map(|path| manifest(path)).collect::<anyhow::Result<Vec<_>>>()?;
    // clap asks for at least one.
    let first = asked.files.first().context("no file is given")?;
    let settings = Compose {
        target: target(&asked.into)?,
        project: asked.project.clone().unwrap_or_else(|| directory_name(first)),
        variables: variables(asked, first)?,
        profiles: asked.profiles.iter().cloned().collect(),
    };
    finish(import::compose(&files, &settings, &beside)?, &asked.into)
}

pub(super) fn kubernetes(asked: &ImportKubernetes) -> anyhow::Result<Exit> {
    let mut files = Vec::new();
    for path in &asked.paths {
        collect(path, 0, &mut files)?;
    }
    finish(import::kubernetes(&files, &target(&asked.into)?)?, &asked.into)
}

fn target(into: &Into) -> anyhow::Result<Target> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = into.hosts.iter().find(|host: &&HostName| !seen.insert(*host)) {
        bail!("--on {twice} is given twice");
    }
    Ok(Target { fabric: into.fabric.clone(), hosts: into.hosts.clone() })
}

/// Writes the graph, then the report.
fn finish(imported: Imported, into: &Into) -> anyhow::Result<Exit> {
    let Imported { graph, report } = imported;
    match &into.out {
        Some(path) => files::write_new(&[NewFile { path, bytes: graph.as_bytes(), mode: 0o644 }])?,
        None => output::print(&graph)?,
    }
    let text = match into.report {
        ReportFormat::Text => report.to_string(),
        ReportFormat::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
    };
    std::io::stderr().lock().write_all(text.as_bytes()).context("cannot write the report")?;
    Ok(Exit::Ok)
}

fn manifest(path: &Path) -> anyhow::Result<Manifest> {
    Ok(Manifest { name: path.display().to_string(), text: read(path)? })
}

/// What a Compose file names, from where that file is.
fn beside(from: &str, path: &str) -> Result<Manifest, String> {
    let place = Path::new(from).parent().unwrap_or(Path::new("")).join(path);
    manifest(&place).map_err(|error| format!("{error:#}"))
}

/// As Compose names a project: after the directory that the first file is in.
fn directory_name(file: &Path) -> String {
    let directory = fs::canonicalize(file).ok().and_then(|file| Some(file.parent()?.file_name()?.to_owned()));
    directory.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn variables(asked: &ImportCompose, first: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let default = first.with_file_name(".env");
    let file = asked.env_file.as_ref().or_else(|| Some(&default).filter(|file| file.exists()));
    let mut all = match file {
        Some(file) => {
            import::variables(&read(file)?).map_err(|(line, what)| anyhow!("{}:{line}: {what}", file.display()))?
        }
        None => BTreeMap::new(),
    };
    for pair in &asked.variables {
        // It may be a secret: the name alone is said.
        let (name, value) = pair.split_once('=').context("--env is written NAME=VALUE")?;
        all.insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// The manifests of a path. Those of a directory are in the order of their names, so that they give the same graph everywhere.
fn collect(path: &Path, depth: usize, into: &mut Vec<Manifest>) -> anyhow::Result<()> {
    if path.as_os_str() == STANDARD_INPUT {
        return add(Manifest { name: "standard-input".into(), text: standard_input()? }, into);
    }
    if !path.is_dir() {
        return add(manifest(path)?, into);
    }
    let shown = path.display();
    if depth > DEPTH_MAX {
        bail!("{shown} is more than {DEPTH_MAX} directories deep; name what is meant");
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {shown}"))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {shown}"))?;
        // A link may lead in a circle, or anywhere.
        let kind = entry.file_type().with_context(|| format!("cannot read {}", entry.path().display()))?;
        if is_wanted(&entry.path(), kind) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    paths.iter().try_for_each(|path| collect(path, depth + 1, into))
}

fn is_wanted(path: &Path, kind: fs::FileType) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let ending = path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
    !hidden && (kind.is_dir() || (kind.is_file() && ending))
}

fn add(manifest: Manifest, into: &mut Vec<Manifest>) -> anyhow::Result<()> {
    let bytes: usize = into.iter().map(|one| one.text.len()).sum::<usize>() + manifest.text.len();
    if into.len() >= FILES_MAX || bytes > BYTES_MAX {
        bail!("there are more than {FILES_MAX} manifests, or {} MiB of them: import them in parts", BYTES_MAX >> 20);
    }
    into.push(manifest);
    Ok(())
}

fn standard_input() -> anyhow::Result<String> {
    let mut text = String::new();
    let most = BYTES_MAX as u64;
    std::io::stdin().lock().take(most).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}
