//! A policy that is tried on live traffic, on every host, before it is put in force.
//!
//! It is a bundle like any other, but for a number in its content, so that nobody can put it in force by handing it on as one.
//! The signature of one operator is enough, whoever that is, as it changes nothing.

use super::{Bundle, BundleError, BundleId, Verify};
use ripstop_config::{FabricName, Operators, PolicyVersion};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Which staged policy it is. The greater one takes the place of the smaller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageId {
    /// Which bundle: it is for the version that comes next, and forgotten when that, or a later one, is in force.
    pub bundle: BundleId,
    /// Of those for one version, the one with the greatest number counts.
    pub number: u64,
}

impl StageId {
    /// Bytes of [`StageId::encode`].
    pub const LENGTH: usize = BundleId::LENGTH + 8;

    /// As it travels: the bundle's identifier, the number, big-endian.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut out = [0; Self::LENGTH];
        out[..BundleId::LENGTH].copy_from_slice(&self.bundle.encode());
        out[BundleId::LENGTH..].copy_from_slice(&self.number.to_be_bytes());
        out
    }

    /// Reads what [`StageId::encode`] wrote; `None` for anything of another length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (bundle, number) = bytes.split_at_checked(BundleId::LENGTH)?;
        Some(Self { bundle: BundleId::decode(bundle)?, number: u64::from_be_bytes(number.try_into().ok()?) })
    }

    /// Nothing was ever staged.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.bundle.is_unsigned()
    }

    fn order(&self) -> (PolicyVersion, u64, [u8; 8]) {
        (self.bundle.version, self.number, self.bundle.digest)
    }
}

impl PartialOrd for StageId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for StageId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl Bundle {
    /// Takes bytes for a policy that is to be tried, if an operator of the fabric signed them.
    ///
    /// # Errors
    /// [`BundleError`], also for a policy that is to be put in force.
    pub fn open_staged(
        bytes: &[u8],
        fabric: &FabricName,
        operators: &Operators,
        verify: &Verify,
    ) -> Result<Self, BundleError> {
        let bundle = Self::read(bytes, fabric, operators, 1, verify)?;
        if bundle.content().staged.is_some() { Ok(bundle) } else { Err(BundleError::NotStaged) }
    }

    /// Which staged policy it is; `None` for one that is to be put in force.
    #[must_use]
    pub fn stage_id(&self) -> Option<StageId> {
        self.content().staged.map(|number| StageId { bundle: self.id(), number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(counter: u64, number: u64, digest: u8) -> StageId {
        let version = PolicyVersion { epoch: 1, counter };
        StageId { bundle: BundleId { version, digest: [digest; 8] }, number }
    }

    #[test]
    fn a_later_stage_counts_whatever_its_digest() {
        let rising = [id(2, 1, 9), id(2, 2, 1), id(2, 2, 3), id(3, 1, 0)];
        assert!(rising.is_sorted() && rising[0] < rising[1]);
        for one in rising {
            assert_eq!(StageId::decode(&one.encode()), Some(one));
        }
        assert_eq!(StageId::decode(&[0; StageId::LENGTH - 1]), None);
        assert!(StageId::default().is_none() && !rising[0].is_none());
    }
}
