//! A way from a client on alpha to a server on beta.

use super::{lab::Place, process};
use std::net::{IpAddr, SocketAddr};

/// Where the client is, what it connects to, and what carries it there.
pub struct Way {
    /// Where the client is.
    pub client: Place,
    /// What it connects to, at the servers' own ports.
    pub address: IpAddr,
    /// The processes that carry it, one a host, as this process sees them; none where the kernels alone do.
    pub carriers: Vec<u32>,
}

impl Way {
    /// What the client connects to.
    pub fn target(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// Processor time that the carriers of both hosts have used, in seconds.
    pub fn cpu(&self) -> f64 {
        process::cpu(&self.carriers)
    }

    /// Resident memory of the carrier that has most, in bytes; `None` where there is none.
    pub fn resident(&self) -> Option<u64> {
        self.carriers.iter().map(|pid| process::resident(*pid)).max()
    }
}
