//! Which interface of this host it is: whose, and of a workload's several whose replica's.

use ripstop_config::WorkloadId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Characters of a replica that people are shown: what container engines show of an id.
const SHOWN: usize = 12;

/// One of the pods or containers that are the same workload on one host, by the id that its runtime gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replica(String);

impl Replica {
    /// The replica with this id.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As much of the id as tells replicas apart for people.
impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(SHOWN).map_or(self.0.len(), |(at, _)| at);
        f.write_str(&self.0[..end])
    }
}

/// An interface of this host. All of a workload's have its identity and its addresses; each is in a namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId {
    /// Whose it is.
    pub workload: WorkloadId,
    /// Which replica's; none where the workload can have but one interface.
    pub replica: Option<Replica>,
}

impl InterfaceId {
    /// That of a workload that has but one.
    #[must_use]
    pub fn only(workload: WorkloadId) -> Self {
        Self { workload, replica: None }
    }

    /// That of a replica.
    #[must_use]
    pub fn of(workload: WorkloadId, replica: Replica) -> Self {
        Self { workload, replica: Some(replica) }
    }
}

/// `shop/web`, or `shop/web (4f2a9c81d2aa)`.
impl fmt::Display for InterfaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.replica {
            Some(replica) => write!(f, "{} ({replica})", self.workload),
            None => write!(f, "{}", self.workload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_as_much_of_a_replica_as_engines_show() {
        let web: WorkloadId = "shop/web".parse().unwrap();
        let shown = |id: &str| InterfaceId::of(web.clone(), Replica::new(id)).to_string();
        assert_eq!(shown("4f2a9c81d2aa77e01c"), "shop/web (4f2a9c81d2aa)");
        assert_eq!(
            (shown("one").as_str(), shown("ééééééééééééé").as_str()),
            ("shop/web (one)", "shop/web (éééééééééééé)")
        );
        assert_eq!(InterfaceId::only(web.clone()).to_string(), "shop/web");
        assert!(
            InterfaceId::only(web.clone()) < InterfaceId::of(web, Replica::new("")),
            "all of a workload's in a row"
        );
    }
}
