//! Labs whose policy is signed.

use super::{AGENT_WAIT, Lab, ripstop, within};
use std::{fs, path::Path, process::Command};

/// Makes the operator's key and file in the lab's directory; returns the lines of `agent.yaml` that trust it.
pub(super) fn operator(directory: &Path) -> String {
    let key = directory.join("operator.key").display().to_string();
    let made = Command::new(ripstop()).args(["operator", "keygen", "op", "--out", &key]).output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let operators = directory.join("operators.yaml");
    fs::write(&operators, made.stdout).unwrap();
    format!("trust: {}\nstate: state", operators.display())
}

impl Lab {
    /// Gives the first of the running hosts the lab's graph, and waits until all have it.
    pub(super) fn first_policy(&self, running: &[&str]) {
        self.apply(running[0], str::to_owned);
        let first = self.agent(running[0]).version();
        for host in running {
            within(AGENT_WAIT, &format!("the first policy on {host}"), || self.agent(host).version() == first);
        }
    }

    /// The arguments that sign and publish with the lab's key.
    pub fn signing(&self, command: &str) -> Vec<String> {
        [ripstop(), command, "--key", &self.path("operator.key")].map(str::to_owned).into()
    }

    /// Edits the lab's graph and applies it on a host; returns what was said.
    pub fn apply(&self, host: &str, edit: impl Fn(&str) -> String) -> String {
        let file = self.file("graph.yaml");
        fs::write(&file, edit(&fs::read_to_string(&file).unwrap())).unwrap();
        let mut line = self.signing("apply");
        line.push(file.display().to_string());
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        self.host(host).ok(&line)
    }
}
