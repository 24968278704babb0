//! What the admin API says of signed policies.

use super::Staged;
use ripstop_config::{FabricName, HostName, OperatorName};
use ripstop_policy::{BundleId, Content};
use serde::{Deserialize, Serialize};

/// A signed policy of the agent's host, as the next one is made from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The fabric.
    pub fabric: FabricName,
    /// The newest policy that this host has had: the next must be newer.
    pub floor: Option<BundleId>,
    /// Which one was asked for; `None` while the host has no policy.
    pub id: Option<BundleId>,
    /// The number of the next policy that is staged: greater than those that this host knows of.
    #[serde(default)]
    pub next_stage: u64,
    /// What is in it.
    pub content: Option<Content>,
}

/// A signed policy that the agent's host keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which.
    pub id: BundleId,
    /// Whether it is in force.
    pub in_force: bool,
    /// When it was made, as its operator said.
    pub made: String,
    /// What for, as its operator said.
    pub note: String,
    /// Who signed it.
    pub signers: Vec<OperatorName>,
    /// Another operator's policy of the same version, made at the same time, took its place on every host.
    #[serde(default)]
    pub lost: bool,
    /// Why it cannot be used, if so.
    pub damage: Option<String>,
}

/// Which policy another host runs, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPolicy {
    /// The host.
    pub host: HostName,
    /// Whether it can be asked.
    pub reach: Reach,
    /// What it runs; `None` when it has not said, or has none.
    pub policy: Option<BundleId>,
}

/// What the staged policy would change on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStage {
    /// The host.
    pub host: HostName,
    /// Whether it can be asked.
    pub reach: Reach,
    /// Whether it has answered.
    pub answered: bool,
    /// What it said, without the graph; `None` where nothing is staged.
    pub staged: Option<Staged>,
}

/// Whether a host can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// It is connected.
    Up,
    /// It is not, and says by the carrier, signed, what it runs.
    Carried,
    /// It is being connected.
    Connecting,
    /// It does not answer.
    Down,
    /// The graph says no address of it, and it has not called.
    Unknown,
}

/// The etcd by which policies come, and what is known of it. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierStatus {
    /// Whether it answers.
    pub up: bool,
    /// The member that was asked last, `IP:PORT`.
    pub endpoint: String,
    /// Since when it answers, or does not.
    pub since: String,
    /// When it answered last; `None` if it never has.
    pub last_answer: Option<String>,
    /// Why it is of no use at the moment.
    pub error: Option<String>,
    /// What was wrong with the last policy in it that was refused; `None` since another one was taken from it.
    pub refused: Option<String>,
    /// The newest policy in it that this host has, or put there.
    pub policy: Option<BundleId>,
}
