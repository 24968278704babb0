//! The network's configuration (CNI specification, "Network Configuration"), as a runtime hands it to one plugin.

use super::{
    VERSIONS,
    error::{CniError, Code},
};
use crate::{admin::SOCKET, pods::Sandbox};
use ripstop_config::graph::Pod;
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The annotation by which a pod says which workload it is.
pub(super) const ANNOTATION: &str = "ripstop/workload";
/// The capability by which a runtime hands over a pod's annotations; containerd and CRI-O have it.
pub(super) const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Where the agent's socket is unless the configuration says otherwise.
const RUN: &str = "/run/ripstop";

/// What of a configuration is this plugin's business.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) cni_version: String,
    #[serde(default)]
    pub(super) name: String,
    /// What the pod is, for runtimes that know no namespaces of a cluster: `NAMESPACE/NAME`.
    pod: Option<Pod>,
    socket: Option<PathBuf>,
    #[serde(default)]
    capabilities: BTreeMap<String, Value>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    /// The result of the plugins before, or of this one where it is checked.
    pub(super) prev_result: Option<Value>,
    /// What of the network is left, for GC.
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Attachment>>,
}

#[derive(Debug, Default, Deserialize)]
struct RuntimeConfig {
    #[serde(default, rename = "io.kubernetes.cri.pod-annotations")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    interface: String,
}

impl Config {
    /// # Errors
    /// When it is no configuration, or of a version that is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, CniError> {
        let config: Self = serde_json::from_str(text).map_err(|error| {
            CniError::new(Code::Decode, "the network's configuration is not as it should be", error.to_string())
        })?;
        if !VERSIONS.contains(&config.cni_version.as_str()) {
            let details = format!("`{}` is asked for; understood are {}", config.cni_version, VERSIONS.join(", "));
            return Err(CniError::new(Code::Version, "incompatible CNI version", details));
        }
        Ok(config)
    }

    /// The agent's admin socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| Path::new(RUN).join(SOCKET))
    }

    /// Which pod it is; `None` for one of a cluster that is not the fabric's.
    ///
    /// # Errors
    /// When nothing says which, or more than may be said: a namespace that a cluster names is nobody else's to name, as whoever
    /// may write a network of their own could take another namespace's place.
    pub(super) fn pod(&self, namespace: Option<&str>) -> Result<Option<Pod>, CniError> {
        let refused =
            |details: String| CniError::new(Code::Config, "which workload the pod is cannot be said", details);
        match (namespace, &self.pod) {
            (None, Some(pod)) => Ok(Some(pod.clone())),
            (None, None) => Err(refused(
                "the runtime names no namespace (K8S_POD_NAMESPACE in CNI_ARGS): write `\"pod\": \"NAMESPACE/NAME\"` into the \
                 plugin's configuration"
                    .into(),
            )),
            (Some(namespace), Some(pod)) if pod.namespace == namespace => Ok(Some(pod.clone())),
            (Some(namespace), Some(pod)) => {
                Err(refused(format!("the network is that of {pod}, the pod is of the namespace {namespace}")))
            }
            (Some(namespace), None) => {
                if self.capabilities.get(ANNOTATIONS) != Some(&Value::Bool(true)) {
                    return Err(refused(format!("the plugin's configuration lacks `\"capabilities\": {{ \"{ANNOTATIONS}\": true }}`")));
                }
                let Some(name) = self.runtime_config.annotations.get(ANNOTATION) else { return Ok(None) };
                Pod::new(namespace, name).map(Some).map_err(|error| refused(format!("annotation {ANNOTATION}: {error}")))
            }
        }
    }

    /// What of the network is left.
    pub(super) fn left(&self) -> Result<Vec<Sandbox>, CniError> {
        let missing = || {
            CniError::new(Code::Config, "nothing says which attachments are left", "GC needs cni.dev/valid-attachments")
        };
        let valid = self.valid.as_ref().ok_or_else(missing)?;
        let sandbox = |one: &Attachment| Sandbox {
            container: one.container.clone(),
            interface: one.interface.clone(),
            network: self.name.clone(),
        };
        Ok(valid.iter().map(sandbox).collect())
    }
}
