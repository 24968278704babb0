//! Which pods of a cluster are a workload.

use crate::name::{NameError, check_label};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
};

/// The pods of a namespace that say of themselves that they are this workload: `shop/web`.
///
/// The namespace is the cluster's word, the name that of whoever may make pods in it. So a namespace is to a cluster what it
/// trusts as one; a workload's pods are told from others of their namespace as far as its own members keep them apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// The namespace of the cluster.
    pub namespace: String,
    /// What the pod calls itself in its annotation.
    pub name: String,
}

/// Why a text names no pods.
pub type PodError = NameError;

impl Pod {
    /// The pods of this namespace that have this name.
    ///
    /// # Errors
    /// [`NameError`] when one of them is no DNS label, which is what a cluster allows (RFC 1123 section 2.1).
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        check_label(namespace)?;
        check_label(name)?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl FromStr for Pod {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) =
            text.split_once('/').ok_or_else(|| NameError::Form(text.into(), "NAMESPACE/NAME, such as `shop/web`"))?;
        Self::new(namespace, name)
    }
}

impl Display for Pod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for Pod {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pod_is_told() {
        assert_eq!("shop/web".parse(), Ok(Pod { namespace: "shop".into(), name: "web".into() }));
        for text in ["", "web", "/web", "shop/", "shop/eu/web", "Shop/web", "shop/we b", "shop/../web"] {
            assert!(text.parse::<Pod>().is_err(), "{text}");
        }
    }
}
