//! Where the peers' programs are, and which versions they have.

use crate::{common::lab, system::System};
use anyhow::{Context, anyhow};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where `benches/compare/peers.sh` puts what cargo builds.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers");
/// Where Debian has servers, which is not in every user's path.
const ALSO: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The programs, by their names.
#[derive(Debug, Default, Clone)]
pub struct Programs {
    named: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Those that the command line names: `NAME=PATH`.
    pub fn named(all: &[(String, PathBuf)]) -> Self {
        Self { named: all.iter().cloned().collect() }
    }

    /// The path of a program.
    pub fn find(&self, name: &str) -> anyhow::Result<String> {
        let path = env::var_os("PATH").unwrap_or_default();
        let found = self.named.get(name).cloned().or_else(|| {
            let built = Path::new(BUILT).join("bin");
            let directories = [built].into_iter().chain(env::split_paths(&path)).chain(ALSO.map(PathBuf::from));
            directories.map(|directory| directory.join(name)).find(|path| path.is_file())
        });
        let found = found.ok_or_else(|| anyhow!("{name} is not installed: benches/compare/peers.sh"))?;
        let absolute = fs::canonicalize(&found).with_context(|| format!("{name}: {}", found.display()))?;
        Ok(absolute.display().to_string())
    }

    /// Whether all of a system's programs are there.
    pub fn check(&self, system: System) -> anyhow::Result<()> {
        let names_it = system.programs().first().is_some_and(|name| self.named.contains_key(*name));
        if system.by_path_only() && !names_it {
            return Err(anyhow!("no package provides it: --peer {}=PATH", system.programs()[0]));
        }
        system.programs().iter().try_for_each(|name| self.find(name).map(drop))
    }

    /// What is known of a system's version: its package's, or what it says of itself.
    pub fn version(&self, system: System) -> String {
        if system == System::Fabric {
            return said(lab::ripstop(), &["--version"]).unwrap_or_else(|| "of this tree".to_owned());
        }
        if system == System::BareTun {
            return "of this benchmark".to_owned();
        }
        let Some(name) = system.programs().first() else { return "the kernel's TCP and UDP".to_owned() };
        let Ok(path) = self.find(name) else { return "absent".to_owned() };
        if path.starts_with(BUILT) {
            return built_version(name).unwrap_or_else(|| format!("{name}, built by cargo"));
        }
        let package = said("dpkg-query", &["--search", &path]).and_then(|line| {
            let package = line.split(':').next()?.to_owned();
            said("dpkg-query", &["--show", "--showformat", "${Package} ${Version} (Debian)", &package])
        });
        package.or_else(|| said(&path, &["--version"])).unwrap_or(path)
    }
}

/// `"boringtun-cli 0.7.1 (registry+…)" = ["boringtun-cli"]`, as cargo notes what it has installed.
fn built_version(program: &str) -> Option<String> {
    let list = fs::read_to_string(Path::new(BUILT).join(".crates.toml")).ok()?;
    let line = list.lines().find(|line| line.contains(&format!("[\"{program}\"")))?;
    let words: Vec<_> = line.trim_start_matches('"').split(' ').take(2).collect();
    Some(format!("{} (crates.io)", words.join(" ")))
}

/// The first line that a program says, if it ends well.
pub fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
