//! What the runtime says in the environment (CNI specification, "Parameters").

use super::error::{CniError, Code};
use crate::pods::Sandbox;
use std::path::{Path, PathBuf};

/// What is to be done. `VERSION` needs nothing of all this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

/// The key of `CNI_ARGS` with a pod's namespace, as runtimes of clusters give it.
const POD_NAMESPACE: &str = "K8S_POD_NAMESPACE";
/// Where paths through `/proc` begin, which lead somewhere else when they are followed.
const PROCESSES: &str = "/proc";

/// What the runtime says.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) verb: Verb,
    container: Option<String>,
    interface: Option<String>,
    netns: Option<String>,
    /// The namespace of the cluster, if it is one.
    pub(super) pod_namespace: Option<String>,
}

impl Environment {
    /// # Errors
    /// When it does not say what to do.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let verb = match given("CNI_COMMAND").as_deref() {
            Some("ADD") => Verb::Add,
            Some("DEL") => Verb::Del,
            Some("CHECK") => Verb::Check,
            Some("GC") => Verb::Gc,
            Some("STATUS") => Verb::Status,
            Some(other) => return Err(invalid("CNI_COMMAND", &format!("`{other}` is no command of CNI 1.1"))),
            None => {
                return Err(invalid("CNI_COMMAND", "a container runtime calls this plugin, and says what to do in it"));
            }
        };
        let arguments = given("CNI_ARGS").unwrap_or_default();
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        let pod_namespace = pairs.find(|(key, value)| *key == POD_NAMESPACE && !value.is_empty());
        Ok(Self {
            verb,
            container: given("CNI_CONTAINERID"),
            interface: given("CNI_IFNAME"),
            netns: given("CNI_NETNS"),
            pod_namespace: pod_namespace.map(|(_, namespace)| namespace.to_owned()),
        })
    }

    /// The runtime's names for what it attaches to a network.
    pub(super) fn sandbox(&self, network: &str) -> Result<Sandbox, CniError> {
        let container = self.container.clone().ok_or_else(|| invalid("CNI_CONTAINERID", "it is missing"))?;
        let interface = self.interface.clone().ok_or_else(|| invalid("CNI_IFNAME", "it is missing"))?;
        Ok(Sandbox { container, interface, network: network.to_owned() })
    }

    /// The network namespace, as it was said, and by the path that it has on the host whatever leads there: `/var/run` is a link
    /// that an agent in a container does not have.
    pub(super) fn netns(&self) -> Result<(&str, PathBuf), CniError> {
        let said = self.netns.as_deref().ok_or_else(|| invalid("CNI_NETNS", "it is missing"))?;
        let path = Path::new(said);
        if path.starts_with(PROCESSES) {
            return Ok((said, path.to_owned()));
        }
        match path.canonicalize() {
            Ok(found) => Ok((said, found)),
            Err(error) => Err(invalid("CNI_NETNS", &format!("{said}: {error}"))),
        }
    }
}

fn invalid(variable: &str, why: &str) -> CniError {
    CniError::new(Code::Environment, format!("invalid variable {variable}"), why)
}
