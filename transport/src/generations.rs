//! Connection IDs by which agents of one host are told apart that share its socket: one that hands over to the next, and
//! the next.
//!
//! Each is of a generation, whose key signs the connection IDs that it issues. All keys follow from the host's own, so that
//! packets of any generation are recognised, also after a restart, which begins with the first one again.

use quinn_proto::{ConnectionId, ConnectionIdGenerator, HashedConnectionIdGenerator, InvalidCid};
use std::time::Duration;

/// Generations that are told apart: more never live at once, as each ends within its deadline. Numbers are used again.
pub(crate) const GENERATIONS: usize = 8;

/// Whose a connection ID is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Issuer {
    /// This agent's.
    Own,
    /// That of one before it or after it.
    Another,
    /// Nobody's of this host, as in a stateless reset (RFC 9000 section 10.3).
    Unknown,
}

/// Tells connection IDs apart.
pub(crate) struct Ids {
    all: [HashedConnectionIdGenerator; GENERATIONS],
    own: usize,
}

impl Ids {
    pub(crate) fn new(keys: [u64; GENERATIONS], generation: u8) -> Self {
        let own = usize::from(generation) % GENERATIONS;
        Self { all: keys.map(HashedConnectionIdGenerator::from_key), own }
    }

    pub(crate) fn issuer(&self, id: &ConnectionId) -> Issuer {
        let issued = |generator: &HashedConnectionIdGenerator| generator.validate(id).is_ok();
        match self.all.iter().position(issued) {
            Some(found) if found == self.own => Issuer::Own,
            Some(_) => Issuer::Another,
            None => Issuer::Unknown,
        }
    }

    /// Whether this agent issued it.
    pub(crate) fn is_own(&self, id: &ConnectionId) -> bool {
        self.all[self.own].validate(id).is_ok()
    }
}

/// quinn issues IDs of the own generation, and answers packets of every one with a stateless reset when it does not know
/// their connection.
impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.all[self.own].generate_cid()
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.issuer(id) == Issuer::Unknown { Err(InvalidCid) } else { Ok(()) }
    }

    fn cid_len(&self) -> usize {
        self.all[self.own].cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_knows_its_own_and_the_others() {
        let keys = std::array::from_fn(|at| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(at as u64 + 1));
        let (mut first, mut ninth) = (Ids::new(keys, 0), Ids::new(keys, 8));
        let mut second = Ids::new(keys, 1);
        let (of_first, of_second, of_ninth) = (first.generate_cid(), second.generate_cid(), ninth.generate_cid());
        assert_eq!((first.issuer(&of_first), first.issuer(&of_second)), (Issuer::Own, Issuer::Another));
        assert_eq!((second.issuer(&of_first), second.issuer(&of_second)), (Issuer::Another, Issuer::Own));
        assert_eq!(first.issuer(&of_ninth), Issuer::Own, "numbers are used again");
        let nobody = ConnectionId::new(&[7; 8]);
        assert_eq!(first.issuer(&nobody), Issuer::Unknown);
        assert!(first.validate(&of_second).is_ok() && first.validate(&nobody).is_err());
    }
}
