//! `ripstop check`: whether a host can run an agent, and whether the one that runs is well.
//!
//! Before an agent is installed, what it needs of the machine is looked at; with settings, those, the certificate and the
//! addresses; with an agent that runs, how it is and how it reaches the other hosts. Nothing is changed.

mod agent;
mod host;
mod names;
mod network;
mod settings;

use crate::admin::Client;
use ripstop_config::AgentConfig;
use serde::Serialize;
use std::path::Path;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The kernel and what it allows.
    Host,
    /// Addresses, ports and packet sizes.
    Network,
    /// The time of day.
    Clock,
    /// Who answers DNS.
    Names,
    /// `agent.yaml`, and what it names.
    Settings,
    /// This host's certificate.
    Certificate,
    /// The running agent.
    Agent,
    /// The other hosts.
    Peers,
}

impl Group {
    /// As a heading.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Network => "network",
            Self::Clock => "clock",
            Self::Names => "names",
            Self::Settings => "settings",
            Self::Certificate => "certificate",
            Self::Agent => "agent",
            Self::Peers => "peers",
        }
    }
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Good,
    /// It works, or may, but somebody should look at it.
    Doubtful,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub group: Group,
    /// Which thing.
    pub what: String,
    /// How it is.
    pub state: State,
    /// In words.
    pub says: String,
    /// What to do; there is one unless it is good.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(group: Group, what: &str, says: impl Into<String>) -> Self {
        Self { group, what: what.into(), state: State::Good, says: says.into(), remedy: None }
    }

    fn doubtful(group: Group, what: &str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { group, what: what.into(), state: State::Doubtful, says: says.into(), remedy }
    }

    fn bad(group: Group, what: &str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Bad, ..Self::doubtful(group, what, says, remedy) }
    }
}

/// Looks at everything. `config` is the settings' file; the agent is the one behind `client`, or behind the settings' own
/// socket. Takes some seconds where other hosts do not answer.
#[must_use]
pub fn check(config: &Path, client: impl FnOnce(Option<&AgentConfig>) -> Client) -> Vec<Finding> {
    let mut findings = host::findings();
    let (config, told) = settings::read(config);
    let client = client(config.as_ref());
    let status = client.status();
    findings.extend(network::findings(config.as_ref(), status.is_ok()));
    findings.extend(host::clock());
    findings.extend(names::findings(status.as_ref().ok()));
    findings.extend(told);
    findings.extend(config.as_ref().map(settings::findings).unwrap_or_default());
    findings.extend(agent::findings(&client, status.as_ref(), config.is_some()));
    findings
}
