//! Captures: packets of workloads as they see them, copied on request on both hosts of a session.
//!
//! Here is what is pure: what may be asked for ([`Asked`]), what hosts tell each other ([`Part`]), and the file that comes of it
//! ([`Recording`]). The rest of the way:
//!
//! 1. `ripstop capture` asks the agent of its host (`admin/capture.rs`), which asks the other hosts that the sessions concern
//!    (`fabric/capture.rs`). Each host looks into its own settings whether it lets the asking one.
//! 2. On the data thread the interfaces that such sessions pass get a tap each, which is told of their flows
//!    (`datapath/src/session/captures.rs`, `datapath/src/stack/tap.rs`). Of another host's sessions none but those with that very host are shown to it.
//! 3. The command comes for the copies every moment. Whoever does not come for them for a while has no capture any more.
//!
//! An endpoint that its host reaches by a socket of the host itself has no packets of its own: there is nothing to copy on that side.

mod part;
mod pcapng;
mod recording;

pub use part::{PART_MAX, Part, PartError};
pub use recording::{Recording, Total};

use ripstop_config::{HostName, InterfaceId, ServiceId, WorkloadId};
use ripstop_transport::SessionId;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The longest capture: one that goes on for longer is a recording of everything, which nobody meant to start.
pub const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Most bytes of packets on each host.
pub const BYTES_MAX: u64 = 1 << 30;
/// Most bytes of a packet: an IPv6 packet's length and header.
pub const SNAP_MAX: u32 = 65_535 + 40;
/// Hex digits of a session's id.
const SESSION_DIGITS: usize = 32;

/// Whose packets are captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Those of all calls to a service.
    Service(ServiceId),
    /// Those of a session, by its id.
    Session([u8; 16]),
}

impl Target {
    /// The session of which a text is the id, as records and the page show it; `None` when it is none.
    #[must_use]
    pub fn session(text: &str) -> Option<Self> {
        let is_id = text.len() == SESSION_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = u128::from_str_radix(text, 16).ok().filter(|_| is_id)?;
        Some(Self::Session(id.to_be_bytes()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "calls to {service}"),
            Self::Session(id) => write!(f, "session {}", SessionId(*id)),
        }
    }
}

/// What is to be captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Of what.
    pub target: Target,
    /// Only what this workload calls.
    pub from: Option<WorkloadId>,
    /// For how many seconds, [`LONGEST`] at most.
    pub seconds: u64,
    /// Most bytes of packets on each host, [`BYTES_MAX`] at most.
    pub bytes: u64,
    /// Bytes of each packet, [`SNAP_MAX`] at most.
    pub snap: u32,
}

impl Asked {
    /// Whether it is within the bounds.
    ///
    /// # Errors
    /// Which one it is not within.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=LONGEST.as_secs()).contains(&self.seconds) {
            return Err(format!("a capture takes 1 s to {} s, not {} s", LONGEST.as_secs(), self.seconds));
        }
        if !(1..=BYTES_MAX).contains(&self.bytes) {
            return Err(format!("a capture has 1 to {BYTES_MAX} bytes of packets on each host, not {}", self.bytes));
        }
        if !(1..=SNAP_MAX).contains(&self.snap) {
            return Err(format!("1 to {SNAP_MAX} bytes of each packet can be captured, not {}", self.snap));
        }
        Ok(())
    }
}

/// What one host asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Question {
    /// To begin a capture; answered by [`Begun`], as JSON.
    Begin(Asked),
    /// For what it has; answered by a [`Part`].
    Take(Take),
}

/// To be given what a capture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Take {
    /// Which capture.
    pub id: u64,
    /// It is to end; all that is left is given, as far as it fits a part.
    pub end: bool,
    /// The part is to tell replicas apart. Asked only of those whose [`Begun`] names interfaces: others refuse what they do not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_replica: bool,
}

/// A capture that has begun on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// By which number it is known there.
    pub id: u64,
    /// Whose packets are seen.
    pub workloads: Vec<WorkloadId>,
    /// By which interfaces that are there; others may come. None where the host's version tells no replicas apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<InterfaceId>>,
    /// What is not seen there, and why, for people.
    pub gaps: Vec<String>,
    /// The other hosts of the sessions that are asked for.
    pub hosts: Vec<HostName>,
}

impl Begun {
    /// The same with what another data thread of the host sees.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        add(&mut self.workloads, more.workloads);
        if let (Some(interfaces), Some(more)) = (&mut self.interfaces, more.interfaces) {
            add(interfaces, more);
        }
        add(&mut self.gaps, more.gaps);
        add(&mut self.hosts, more.hosts);
        self
    }
}

fn add<T: PartialEq>(to: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !to.contains(&one) {
            to.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_its_id_alone() {
        let id = "00112233445566778899aabbccddeeff";
        let target = Target::session(id).unwrap();
        assert_eq!(target.to_string(), format!("session {id}"));
        let json = serde_json::to_string(&target).unwrap();
        assert_eq!(serde_json::from_str::<Target>(&json).unwrap(), target);
        for none in
            ["", "api", &id[1..], &format!("+{}", &id[1..]), &format!("{id}0"), "zz112233445566778899aabbccddeeff"]
        {
            assert_eq!(Target::session(none), None, "{none}");
        }
    }

    #[test]
    fn bounds_are_kept() {
        let target = Target::Service("shop/api".parse().unwrap());
        let asked = Asked { target, from: None, seconds: 60, bytes: 1 << 20, snap: 96 };
        asked.check().unwrap();
        for (wrong, says) in [
            (Asked { seconds: 0, ..asked.clone() }, "1 s to 3600 s, not 0 s"),
            (Asked { seconds: 3_601, ..asked.clone() }, "not 3601 s"),
            (Asked { bytes: BYTES_MAX + 1, ..asked.clone() }, "bytes of packets"),
            (Asked { snap: 0, ..asked.clone() }, "of each packet"),
            (Asked { snap: SNAP_MAX + 1, ..asked.clone() }, "of each packet"),
        ] {
            assert!(wrong.check().unwrap_err().contains(says), "{wrong:?}");
        }
    }
}
