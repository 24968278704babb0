//! What is where in etcd, below `PREFIX/FABRIC/`. Pure.
//!
//! ```text
//! policy/EPOCH.COUNTER-DIGEST    how many bytes that policy has; numbers have 20 digits, so that the newest is the last
//! part/ID/NNN                    its bytes, part by part, as a request to etcd is limited
//! claim/ID                       the host that is putting it there; goes with that host's lease
//! host/NAME                      the host's record, signed; goes with its lease
//! ```

use ripstop_config::{FabricName, HostName, PolicyVersion};
use ripstop_policy::{BundleId, bundle::BUNDLE_MAX};

/// Bytes of a part: a third of what etcd takes in a request, so that its members are not held up by one.
pub(super) const PART: usize = 512 << 10;

/// The keys of a fabric.
pub(super) struct Keys(String);

impl Keys {
    pub(super) fn new(prefix: &str, fabric: &FabricName) -> Self {
        Self(format!("{prefix}/{fabric}/"))
    }

    /// All policies.
    pub(super) fn policies(&self) -> String {
        format!("{}policy/", self.0)
    }

    pub(super) fn policy(&self, id: BundleId) -> String {
        let PolicyVersion { epoch, counter } = id.version;
        format!("{}{epoch:020}.{counter:020}-{}", self.policies(), digest(id))
    }

    /// Which policy a key is of; none for one that nobody here would have put.
    pub(super) fn id(&self, key: &str) -> Option<BundleId> {
        let rest = key.strip_prefix(&self.policies())?;
        let (version, digest) = rest.split_once('-')?;
        let (epoch, counter) = version.split_once('.')?;
        let (epoch, counter): (u64, u64) = (epoch.parse().ok()?, counter.parse().ok()?);
        let id: BundleId = format!("{epoch}.{counter}-{digest}").parse().ok()?;
        (self.policy(id) == key && !id.is_unsigned()).then_some(id)
    }

    /// All parts of a policy.
    pub(super) fn parts(&self, id: BundleId) -> String {
        format!("{}part/{id}/", self.0)
    }

    pub(super) fn part(&self, id: BundleId, number: usize) -> String {
        format!("{}{number:03}", self.parts(id))
    }

    pub(super) fn claim(&self, id: BundleId) -> String {
        format!("{}claim/{id}", self.0)
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> String {
        format!("{}host/", self.0)
    }

    pub(super) fn host(&self, host: &HostName) -> String {
        format!("{}{host}", self.hosts())
    }

    pub(super) fn host_of(&self, key: &str) -> Option<HostName> {
        HostName::new(key.strip_prefix(&self.hosts())?).ok()
    }
}

fn digest(id: BundleId) -> String {
    let text = id.to_string();
    text.split_once('-').map_or_else(String::new, |(_, digest)| digest.to_owned())
}

/// How many bytes a policy has, by the value of its key; none for a number that no policy has.
pub(super) fn size(value: &[u8]) -> Option<usize> {
    let size = std::str::from_utf8(value).ok()?.parse().ok()?;
    (1..=BUNDLE_MAX).contains(&size).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> Keys {
        Keys::new("/ripstop", &"shop.example".parse().unwrap())
    }

    #[test]
    fn a_policy_has_one_key_and_the_newest_is_the_last() {
        let id: BundleId = "1.17-00c0ffee00c0ffee".parse().unwrap();
        let key = keys().policy(id);
        assert_eq!(key, "/ripstop/shop.example/policy/00000000000000000001.00000000000000000017-00c0ffee00c0ffee");
        assert_eq!(keys().id(&key), Some(id));
        for other in [
            "/ripstop/shop.example/policy/1.17-00c0ffee00c0ffee",
            "/ripstop/shop.example/policy/00000000000000000001.00000000000000000017-00C0FFEE00C0FFEE",
            "/ripstop/shop.example/policy/00000000000000000000.00000000000000000000-0000000000000000",
            "/ripstop/other.example/policy/00000000000000000001.00000000000000000017-00c0ffee00c0ffee",
            "/ripstop/shop.example/policy/",
        ] {
            assert_eq!(keys().id(other), None, "{other}");
        }
        assert_eq!(keys().part(id, 7), "/ripstop/shop.example/part/1.17-00c0ffee00c0ffee/007");
        assert_eq!(keys().host_of("/ripstop/shop.example/host/beta"), Some(HostName::new("beta").unwrap()));
        assert_eq!(keys().host_of("/ripstop/shop.example/host/a/b"), None);
    }

    #[test]
    fn no_value_makes_more_memory_than_a_policy() {
        assert_eq!(size(b"17"), Some(17));
        for bad in [&b""[..], b"0", b"-1", b"x", b"99999999999999999999", b"\xff"] {
            assert_eq!(size(bad), None);
        }
        assert_eq!(size(BUNDLE_MAX.to_string().as_bytes()), Some(BUNDLE_MAX));
        assert_eq!(size((BUNDLE_MAX + 1).to_string().as_bytes()), None);
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_policies(
            a in (any::<u64>(), 1..u64::MAX, any::<[u8; 8]>()), b in (any::<u64>(), 1..u64::MAX, any::<[u8; 8]>()),
        ) {
            let id = |(epoch, counter, digest)| BundleId { version: PolicyVersion { epoch, counter }, digest };
            let (a, b) = (id(a), id(b));
            prop_assert_eq!(keys().policy(a).cmp(&keys().policy(b)), a.cmp(&b));
            prop_assert_eq!(keys().id(&keys().policy(a)), Some(a));
        }

        #[test]
        fn no_key_makes_it_panic(text in "\\PC{0,40}") {
            let keys = keys();
            prop_assert_eq!(keys.id(&format!("{}{text}", keys.policies())), None);
            let _ = keys.host_of(&text);
        }
    }
}
