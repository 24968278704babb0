//! Names and identities: parsed once, then only passed on.
//!
//! Every name is a DNS label (RFC 1035 section 2.3.1, digits first allowed by RFC 1123 section 2.1), in lower case, so
//! that a name in the graph, in DNS, in a certificate and in a metric is the same string.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has no characters.
    #[error("a name cannot be empty")]
    Empty,
    /// A label may have 63 characters, a fabric name 120.
    #[error("`{0}` is too long: at most {1} characters")]
    TooLong(String, usize),
    /// A character outside `a-z`, `0-9` and `-`, or a `-` at an end.
    #[error("`{0}` is not a name: use a-z, 0-9 and `-`, and neither start nor end with `-`")]
    Character(String),
    /// An identifier is not of the form it should have.
    #[error("`{0}` is not {1}")]
    Form(String, &'static str),
}

/// Longest label of a name (RFC 1035 section 2.3.4).
pub const LABEL_MAX: usize = 63;
/// Longest tenant with all above it, `shop/eu`: as long as one label, so that names in DNS, in session headers and in
/// certificates keep their limits however deep it is.
pub const TENANT_MAX: usize = LABEL_MAX;
/// Tenants below each other at most: a session counts for the limits of each.
pub const TENANT_DEPTH_MAX: usize = 8;
/// Longest fabric name, so that `service.tenant.fabric` stays within the 253 characters of a DNS name.
pub const FABRIC_MAX: usize = 120;

pub(crate) fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > LABEL_MAX {
        return Err(NameError::TooLong(text.into(), LABEL_MAX));
    }
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !text.bytes().all(fits) || text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Character(text.into()));
    }
    Ok(())
}

fn check_fabric(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > FABRIC_MAX {
        return Err(NameError::TooLong(text.into(), FABRIC_MAX));
    }
    text.split('.').try_for_each(check_label)
}

fn check_tenant(text: &str) -> Result<(), NameError> {
    if text.len() > TENANT_MAX {
        return Err(NameError::TooLong(text.into(), TENANT_MAX));
    }
    if text.split('/').count() > TENANT_DEPTH_MAX {
        return Err(NameError::Form(text.into(), "a tenant: at most 8 are below each other"));
    }
    text.split('/').try_for_each(check_label)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses the name.
            ///
            /// # Errors
            /// [`NameError`] when the text is not such a name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// The fabric: one trust domain, and the suffix of every name in it, such as `shop.example`.
    FabricName,
    check_fabric
);
name!(
    /// A machine that runs an agent.
    HostName,
    check_label
);
name!(
    /// Somebody who may sign policies.
    OperatorName,
    check_label
);
name!(
    /// A set of hosts between which traffic is cheap.
    ZoneName,
    check_label
);
name!(
    /// A namespace of workloads and services, after those it is below: `shop`, or `shop/eu`.
    TenantName,
    check_tenant
);
name!(
    /// A workload's name within its tenant.
    WorkloadName,
    check_label
);
name!(
    /// A service's name within its tenant.
    ServiceName,
    check_label
);

impl TenantName {
    /// It and the tenants above it, from the innermost to the outermost.
    pub fn lineage(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.as_str()), |below| below.rsplit_once('/').map(|(above, _)| above))
    }

    /// The tenant that it is directly below, if it is not one at the top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.as_str().rsplit_once('/').map(|(above, _)| Self(above.into()))
    }

    /// Whether it is another tenant or below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let below = self.as_str().strip_prefix(other.as_str());
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// How many tenants its [`lineage`](Self::lineage) has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.lineage().count()
    }

    /// Its labels in DNS, the innermost first: `eu.shop`.
    #[must_use]
    pub fn dns_labels(&self) -> String {
        self.as_str().rsplit('/').collect::<Vec<_>>().join(".")
    }
}

macro_rules! qualified {
    ($(#[$doc:meta])* $type:ident, $name:ident, $form:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type {
            /// The tenant that it belongs to.
            pub tenant: TenantName,
            /// Its name within the tenant.
            pub name: $name,
        }

        impl $type {
            /// Puts the two parts together.
            #[must_use]
            pub fn new(tenant: TenantName, name: $name) -> Self {
                Self { tenant, name }
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let (tenant, name) = text.rsplit_once('/').ok_or_else(|| NameError::Form(text.into(), $form))?;
                Ok(Self { tenant: TenantName::new(tenant)?, name: $name::new(name)? })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.tenant, self.name)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

qualified!(
    /// A workload in the fabric, written `tenant/name`.
    WorkloadId,
    WorkloadName,
    "a workload: write TENANT/NAME"
);
qualified!(
    /// A service in the fabric, written `tenant/name`; its DNS name is `name.tenant.fabric`, the labels of the tenant from
    /// the innermost to the outermost: `shop/eu/api` is `api.eu.shop.fabric`.
    ServiceId,
    ServiceName,
    "a service: write TENANT/NAME"
);

impl ServiceId {
    /// The service's DNS name in a fabric, without the final dot.
    #[must_use]
    pub fn dns_name(&self, fabric: &FabricName) -> String {
        format!("{}.{}.{fabric}", self.name, self.tenant.dns_labels())
    }
}

/// An identity in a certificate: a SPIFFE ID (SPIFFE-ID specification, section 2) of the fabric's trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The trust domain.
    pub fabric: FabricName,
    /// Who, within the trust domain.
    pub subject: Subject,
}

/// Who an [`Identity`] speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A machine that runs an agent: `spiffe://FABRIC/host/NAME`.
    Host(HostName),
    /// A workload: `spiffe://FABRIC/TENANT/NAME`, `spiffe://FABRIC/shop/eu/web`.
    Workload(WorkloadId),
}

impl Identity {
    /// The identity of a host.
    #[must_use]
    pub fn host(fabric: FabricName, host: HostName) -> Self {
        Self { fabric, subject: Subject::Host(host) }
    }

    /// The identity of a workload.
    #[must_use]
    pub fn workload(fabric: FabricName, workload: WorkloadId) -> Self {
        Self { fabric, subject: Subject::Workload(workload) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Host(host) => write!(f, "spiffe://{}/host/{host}", self.fabric),
            Subject::Workload(workload) => write!(f, "spiffe://{}/{workload}", self.fabric),
        }
    }
}

impl FromStr for Identity {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || {
            NameError::Form(text.into(), "an identity: write spiffe://FABRIC/host/NAME or spiffe://FABRIC/TENANT/NAME")
        };
        let (fabric, path) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        let fabric = FabricName::new(fabric)?;
        let subject = match path.strip_prefix("host/") {
            Some(host) => Subject::Host(HostName::new(host)?),
            // A tenant at the top cannot be called `host`.
            None => Subject::Workload(path.parse()?),
        };
        Ok(Self { fabric, subject })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_lower_case_dns_labels() {
        for good in ["a", "web", "web-2", "0", &"x".repeat(63)] {
            assert!(HostName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "é", &"x".repeat(64)] {
            assert!(HostName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn identities_round_trip_and_hosts_are_not_workloads() {
        for text in [
            "spiffe://shop.example/host/alpha",
            "spiffe://shop.example/shop/web",
            "spiffe://shop.example/shop/eu/host/web",
        ] {
            assert_eq!(text.parse::<Identity>().expect("valid").to_string(), text);
        }
        for bad in [
            "spiffe://shop.example",
            "spiffe://shop.example/a",
            "spiffe://shop.example/a//c",
            "spiffe://shop.example/host/a/b",
            "https://shop.example/host/a",
            "spiffe:///host/a",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tenants_are_below_each_other() {
        let tenant = |text: &str| TenantName::new(text).unwrap();
        let (shop, eu, west) = (tenant("shop"), tenant("shop/eu"), tenant("shop/eu/west"));
        assert_eq!(west.lineage().collect::<Vec<_>>(), ["shop/eu/west", "shop/eu", "shop"]);
        assert_eq!((west.parent(), shop.parent(), west.depth()), (Some(eu.clone()), None, 3));
        assert!(west.is_within(&shop) && eu.is_within(&eu) && !shop.is_within(&eu));
        assert!(!tenant("shop-x").is_within(&shop) && !tenant("shopx/eu").is_within(&shop));
        let web: WorkloadId = "shop/eu/web".parse().unwrap();
        assert_eq!((&web.tenant, web.name.as_str(), web.to_string().as_str()), (&eu, "web", "shop/eu/web"));
        let api: ServiceId = "shop/eu/west/api".parse().unwrap();
        assert_eq!(api.dns_name(&FabricName::new("f.example").unwrap()), "api.west.eu.shop.f.example");
        for bad in ["", "/", "shop/", "/eu", "shop//eu", "shop/EU", &"a/".repeat(40), "a/b/c/d/e/f/g/h/i"] {
            assert!(TenantName::new(bad).is_err(), "{bad}");
        }
        assert!(TenantName::new("a/b/c/d/e/f/g/h").is_ok() && TenantName::new(&"x".repeat(63)).is_ok());
    }
}
