//! Which interface of a host it is: whose, and of a workload's several whose replica's.

use crate::WorkloadId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Characters of a replica that people are shown: what container engines show of an id.
const SHOWN: usize = 12;
/// Bytes of a replica's id: a container's is a hash in hex, and a file's name at most.
const ID_MAX: usize = 255;

/// One of the pods or containers that are the same workload on one host, by the id that its runtime gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Replica(String);

/// A text is no id of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a replica's id has 1 to {ID_MAX} bytes, and no control characters")]
pub struct NoReplica;

/// An id as somebody else tells it: it is shown.
impl TryFrom<String> for Replica {
    type Error = NoReplica;

    fn try_from(id: String) -> Result<Self, NoReplica> {
        let is_one = !id.is_empty() && id.len() <= ID_MAX && !id.contains(char::is_control);
        if is_one { Ok(Self(id)) } else { Err(NoReplica) }
    }
}

impl From<Replica> for String {
    fn from(replica: Replica) -> Self {
        replica.0
    }
}

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

/// An interface of a host. All of a workload's have its identity and its addresses; each is in a namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InterfaceId {
    /// Whose it is.
    pub workload: WorkloadId,
    /// Which replica's; none where the workload can have but one interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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

    #[test]
    fn an_id_from_elsewhere_is_one_that_can_be_shown() {
        let read = |id: &str| serde_json::from_value::<Replica>(id.into());
        assert_eq!(read("4f2a9c81d2aa").unwrap(), Replica::new("4f2a9c81d2aa"));
        let [longest, longer] = [ID_MAX, ID_MAX + 1].map(|length| "a".repeat(length));
        assert!(read(&longest).is_ok());
        for none in ["", "a\nb", "\u{1b}[2J", &longer] {
            assert!(read(none).is_err(), "{none:?}");
        }
    }
}
