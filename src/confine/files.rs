//! Files (Landlock, landlock(7)): what the agent may read and what it may write.

use anyhow::Context as _;
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, Scope, path_beneath_rules,
};
use ripstop_config::{
    AgentConfig,
    agent::{IdentityFiles, IdentitySource, PolicySource, SessionLog},
};
use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// The newest rules that are asked for; a kernel that knows fewer holds those.
const RULES: ABI = ABI::V6;

/// What is read besides the agent's own files: users and resolvers, what the kernel says of processes, control groups and
/// interfaces, the program itself when it breaks off, and randomness, which a static binary looks for in files.
const SYSTEM: [&str; 7] = ["/etc", "/proc", "/sys", "/proc/self/exe", "/dev/null", "/dev/random", "/dev/urandom"];
/// What is written besides the agent's own files: TUN devices of the host's own namespace.
const DEVICES: [&str; 1] = ["/dev/net/tun"];

/// What the agent reads and writes.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    /// Directories; rules are bound to what is there, and files are replaced.
    read: Vec<PathBuf>,
    written: Vec<PathBuf>,
}

/// Restricts the calling thread to the files of these settings. Makes the agent's own directories, as nothing can be
/// allowed of one that is missing.
///
/// # Errors
/// When a directory cannot be made, or the kernel knows Landlock and refuses. One that does not know it is logged.
pub(super) fn restrict(config: &AgentConfig) -> anyhow::Result<()> {
    let own = own_directories(config);
    for directory in &own {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("failed to make {}", directory.display()))?;
    }
    let status = apply(&files(config, own))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => tracing::debug!("restricted to the agent's files"),
        RulesetStatus::PartiallyEnforced => {
            tracing::info!("this kernel restricts the agent to its files in part: its Landlock is older than 6.12's");
        }
        RulesetStatus::NotEnforced => {
            tracing::warn!(
                "this kernel cannot restrict the agent to its files: it has no Landlock (Linux 5.13, lsm=landlock)"
            );
        }
    }
    Ok(())
}

fn apply(files: &Files) -> anyhow::Result<RestrictionStatus> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // All but to run what is there, or to make devices.
    let write: BitFlags<AccessFs> = AccessFs::from_all(RULES)
        & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSym | AccessFs::IoctlDev);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        // Signals to others, and sockets by names that are not files.
        .scope(Scope::from_all(RULES))?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        .add_rules(path_beneath_rules(&files.read, read))?
        .add_rules(path_beneath_rules(&files.written, write))?;
    Ok(ruleset.restrict_self()?)
}

/// What the agent makes where it is missing.
fn own_directories(config: &AgentConfig) -> Vec<PathBuf> {
    let state = match (&config.policy, &config.identity) {
        // Where certificates change, what outlives them is kept there.
        (PolicySource::Signed(_), _) | (_, IdentitySource::Spire(_)) => Some(config.state.clone()),
        (PolicySource::File(_), IdentitySource::Files(_)) => None,
    };
    [config.run.clone()].into_iter().chain(state).collect()
}

fn files(config: &AgentConfig, own: Vec<PathBuf>) -> Files {
    let (PolicySource::File(policy) | PolicySource::Signed(policy)) = &config.policy;
    let operator = config.authority.as_ref().and_then(|authority| authority.operator.as_ref());
    // No rule is needed to connect to a Workload API: sockets with a name in the file system are not looked at.
    let identity = config.identity_files();
    let read = [policy]
        .into_iter()
        .chain(identity.into_iter().flat_map(all))
        .chain(operator)
        .chain(carrier(config))
        .chain(collector(config));
    let records = match &config.sessions {
        SessionLog::File(file) => Some(directory_of(file)),
        SessionLog::Stdout | SessionLog::Off => None,
    };
    let renewed = identity.filter(|_| config.authority.is_some() || config.renew.is_some());
    let identity = renewed.map(|files| directory_of(&files.certificate));
    let authority = config.authority.as_ref().map(|authority| authority.directory.clone());
    let written = own.into_iter().chain(records).chain(identity).chain(authority).collect();
    // What a link leads to may be elsewhere, as configuration managers have it.
    let targets = read.clone().filter_map(|file| file.canonicalize().ok());
    let targets: Vec<_> = targets.map(|target| directory_of(&target)).collect();
    let mut read: Vec<_> = read.map(|file| directory_of(file)).chain(targets).collect();
    read.dedup();
    Files { read, written }
}

fn all(files: &IdentityFiles) -> [&PathBuf; 3] {
    [&files.certificate, &files.key, &files.ca]
}

/// What shows this host to an etcd, and that to this host.
fn carrier(config: &AgentConfig) -> impl Iterator<Item = &PathBuf> + Clone {
    let etcd = config.carrier.etcd.as_ref();
    let tls = etcd.and_then(|etcd| etcd.tls.as_ref());
    let pair = tls.and_then(|tls| tls.identity.as_ref());
    let password = etcd.and_then(|etcd| etcd.login.as_ref()).map(|login| &login.password);
    let pair = pair.into_iter().flat_map(|(certificate, key)| [certificate, key]);
    tls.into_iter().map(|tls| &tls.ca).chain(pair).chain(password)
}

/// What shows a collector to this host, and what that asks for.
fn collector(config: &AgentConfig) -> impl Iterator<Item = &PathBuf> + Clone {
    let otel = config.otel.as_ref();
    let ca = otel.and_then(|otel| otel.tls.as_ref()).map(|tls| &tls.ca);
    ca.into_iter().chain(otel.and_then(|otel| otel.headers.as_ref()))
}

fn directory_of(file: &Path) -> PathBuf {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_renewed_recorded_and_kept_is_written_and_nothing_else() {
        let settings = |more: &str| {
            let text = format!("{{ host: alpha, run: /r, state: /s, {more} }}");
            let config = AgentConfig::parse("/etc/ripstop/agent.yaml", &text).unwrap();
            files(&config, own_directories(&config))
        };
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let still = settings("graph: g.yaml, sessions: stdout, identity: { certificate: /i/c, key: /k/k, ca: /a/a }");
        assert_eq!(still.read, paths(&["/etc/ripstop", "/i", "/k", "/a"]));
        assert_eq!(still.written, paths(&["/r"]));
        let renewed = settings(
            "trust: t.yaml, sessions: /log/s.jsonl, identity: { certificate: /i/c, key: /i/c, ca: /a/a }, \
             authority: { directory: /ca, operator: /o/key }",
        );
        assert_eq!(renewed.read, paths(&["/etc/ripstop", "/i", "/a", "/o"]));
        assert_eq!(renewed.written, paths(&["/r", "/s", "/log", "/i", "/ca"]));
        let carried = settings(
            "trust: t.yaml, identity: { certificate: c, key: k, ca: a }, carrier: { etcd: { endpoints: [https://192.0.2.7], \
             ca: /e/ca, certificate: /f/c, key: /g/k, user: u, password-file: /h/p } }",
        );
        assert_eq!(carried.read, paths(&["/etc/ripstop", "/e", "/f", "/g", "/h"]));
        let by_spire = settings("graph: g.yaml, identity: { spire: 'unix:///run/spire.sock' }");
        assert_eq!((by_spire.read, by_spire.written), (paths(&["/etc/ripstop"]), paths(&["/r", "/s"])));
    }

    #[cfg(feature = "otel")]
    #[test]
    fn what_a_collector_takes_is_read() {
        let text = "{ host: alpha, graph: g, otel: { endpoint: 'https://192.0.2.9', ca: /e/ca, headers-file: /f/h } }";
        let config = AgentConfig::parse("/etc/ripstop/agent.yaml", text).unwrap();
        let read = files(&config, Vec::new()).read;
        assert_eq!(read, ["/etc/ripstop", "/e", "/f"].map(PathBuf::from));
    }
}
