//! Hosts that were dialled and whose address changes while they are connected.
//!
//! QUIC lets only the end that dialled change its address (RFC 9000 section 9), and quinn drops what comes to that end from
//! another address than it dialled. So this is done below QUIC, at the socket, by address:
//!
//! 1. Of an address that was dialled it is learned by which connection IDs of ours the host there names its connections.
//! 2. A short-header packet from elsewhere with one of them is from that host, at a new address, or from someone who has seen
//!    one. It is handed to quinn as if it came from the dialled address: who sent it is for the connection's keys to say, and
//!    a packet that they do not open changes nothing.
//! 3. What is sent to the dialled address goes to the new one when the connection *heard* its host (a packet was decrypted)
//!    while packets came from there, and nothing came from the old one for [`QUIET`]. Someone who copies packets of the host
//!    and sends them from elsewhere cannot do that while the host's own arrive, and what arrives twice is not heard twice.
//! 4. Whoever can stop the host's packets and send them on from elsewhere is on the path and could keep them anyway; he gets
//!    ciphertext. Nor can he have this host flood another for long: when nothing is heard from there for [`LOST`], packets go
//!    to the dialled address again, until 3. holds again.
//!
//! Handshakes are not touched: to dial an address is to reach what is there.

use quinn_proto::ConnectionId;
use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long nothing may have come from the address in use before another one takes its place: longer than packets overtake
/// each other, and short enough that a transfer goes on within a second.
const QUIET: Duration = Duration::from_millis(300);
/// How long after a packet from a new address the connection must have heard its host.
const RECENT: Duration = Duration::from_millis(150);
/// Silence of a new address after which packets go to the dialled one again: three probes.
const LOST: Duration = Duration::from_millis(1_600);
/// Connection IDs that are known of one address, the newest; a connection uses one at a time.
const IDS_MAX: usize = 64;
/// Length of the connection IDs that this host issues, in bytes.
pub(crate) const ID_LENGTH: usize = 8;

/// The addresses that this host has dialled and is connected with.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    homes: HashMap<SocketAddr, Home>,
    by_id: HashMap<ConnectionId, SocketAddr>,
}

/// One dialled address.
#[derive(Debug)]
struct Home {
    connections: usize,
    ids: VecDeque<ConnectionId>,
    /// Where the host is: the dialled address, unless it has moved.
    at: SocketAddr,
    last: Instant,
    /// Another address that packets with its IDs come from, and when the last one did.
    elsewhere: Option<(SocketAddr, Instant)>,
}

impl Moves {
    /// A connection to an address was made.
    pub(crate) fn enter(&mut self, address: SocketAddr, now: Instant) {
        let home = self.homes.entry(address).or_insert_with(|| Home {
            connections: 0,
            ids: VecDeque::new(),
            at: address,
            last: now,
            elsewhere: None,
        });
        home.connections += 1;
    }

    /// A connection to an address has ended.
    pub(crate) fn leave(&mut self, address: SocketAddr) {
        let Some(home) = self.homes.get_mut(&address) else { return };
        home.connections -= 1;
        if home.connections == 0 {
            self.homes.remove(&address);
            self.by_id.retain(|_, home| *home != address);
        }
    }

    /// Whether there is anything to do for packets that arrive.
    pub(crate) fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// A packet arrived: the address that quinn shall be told. `id` is the connection ID that it names, if it has a short
    /// header and the ID is one of ours.
    pub(crate) fn arrived(&mut self, from: SocketAddr, id: Option<ConnectionId>, now: Instant) -> SocketAddr {
        let Some(id) = id else { return from };
        if let Some(home) = self.homes.get_mut(&from)
            && !self.by_id.contains_key(&id)
        {
            if home.ids.len() >= IDS_MAX {
                home.ids.pop_front().and_then(|oldest| self.by_id.remove(&oldest));
            }
            home.ids.push_back(id);
            self.by_id.insert(id, from);
        }
        let Some(address) = self.by_id.get(&id) else { return from };
        let Some(home) = self.homes.get_mut(address) else { return from };
        if home.at == from {
            home.last = now;
        } else {
            home.elsewhere = Some((from, now));
        }
        *address
    }

    /// A connection to a dialled address has just heard its host. Says where the host is from here on, if that changes.
    pub(crate) fn heard(&mut self, address: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let home = self.homes.get_mut(&address)?;
        let (elsewhere, seen) = home.elsewhere?;
        if now.saturating_duration_since(home.last) < QUIET || now.saturating_duration_since(seen) > RECENT {
            return None;
        }
        (home.at, home.last, home.elsewhere) = (elsewhere, seen, None);
        Some(elsewhere)
    }

    /// Where to send what is meant for an address.
    pub(crate) fn destination(&mut self, address: SocketAddr, now: Instant) -> SocketAddr {
        let Some(home) = self.homes.get_mut(&address) else { return address };
        if home.at != address && now.saturating_duration_since(home.last) > LOST {
            (home.at, home.last) = (address, now);
        }
        home.at
    }

    /// Whether any host has moved.
    pub(crate) fn any(&self) -> bool {
        self.homes.iter().any(|(address, home)| home.at != *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn id(number: u8) -> Option<ConnectionId> {
        Some(ConnectionId::new(&[number; ID_LENGTH]))
    }

    const HOME: u16 = 1;
    const NEW: u16 = 2;

    /// A host at [`HOME`] that has named its connection 7.
    fn connected() -> (Moves, Instant) {
        let (mut moves, start) = (Moves::default(), Instant::now());
        moves.enter(address(HOME), start);
        assert_eq!(moves.arrived(address(HOME), id(7), start), address(HOME));
        (moves, start)
    }

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_host_that_is_heard_from_elsewhere_alone_has_moved() {
        let (mut moves, start) = connected();
        assert_eq!(moves.arrived(address(NEW), id(7), start + ms(50)), address(HOME), "quinn is told the old address");
        assert_eq!(moves.heard(address(HOME), start + ms(60)), None, "too soon");
        assert_eq!(moves.arrived(address(NEW), id(7), start + ms(310)), address(HOME));
        assert_eq!(moves.destination(address(HOME), start + ms(311)), address(HOME), "not heard");
        assert_eq!(moves.heard(address(HOME), start + ms(320)), Some(address(NEW)));
        assert_eq!(moves.destination(address(HOME), start + ms(321)), address(NEW));
        assert_eq!(moves.arrived(address(NEW), id(7), start + ms(400)), address(HOME));
        // And back.
        assert_eq!(moves.arrived(address(HOME), id(7), start + ms(900)), address(HOME));
        assert_eq!(moves.heard(address(HOME), start + ms(910)), Some(address(HOME)));
        assert!(!moves.any());
    }

    #[test]
    fn copies_from_elsewhere_change_nothing_while_the_host_is_heard() {
        let (mut moves, start) = connected();
        for at in (0..5_000).step_by(100) {
            let now = start + ms(at);
            moves.arrived(address(NEW), id(7), now);
            moves.arrived(address(HOME), id(7), now + ms(1));
            assert_eq!(moves.heard(address(HOME), now + ms(2)), None);
        }
        assert!(!moves.any());
    }

    #[test]
    fn packets_that_nobody_could_decrypt_change_nothing() {
        let (mut moves, start) = connected();
        for at in (0..5_000).step_by(100) {
            moves.arrived(address(NEW), id(7), start + ms(at));
        }
        assert!(!moves.any());
        // Heard long after such a packet is not heard from there.
        assert_eq!(moves.heard(address(HOME), start + ms(5_200)), None);
        // IDs that the host has not used, or that are not ours, are not looked at.
        assert_eq!(moves.arrived(address(NEW), id(8), start), address(NEW));
        assert_eq!(moves.arrived(address(NEW), None, start), address(NEW));
    }

    #[test]
    fn an_address_that_is_silent_is_not_sent_to_for_long() {
        let (mut moves, start) = connected();
        moves.arrived(address(NEW), id(7), start + ms(400));
        assert_eq!(moves.heard(address(HOME), start + ms(410)), Some(address(NEW)));
        assert_eq!(moves.destination(address(HOME), start + ms(1_900)), address(NEW));
        assert_eq!(moves.destination(address(HOME), start + ms(2_100)), address(HOME));
        assert_eq!(moves.arrived(address(NEW), id(7), start + ms(2_500)), address(HOME));
        assert_eq!(moves.heard(address(HOME), start + ms(2_510)), Some(address(NEW)), "heard from there again");
    }

    #[test]
    fn what_is_known_of_an_address_is_bounded_and_ends_with_its_connections() {
        let (mut moves, start) = connected();
        moves.enter(address(HOME), start);
        for number in 0..=255 {
            moves.arrived(address(HOME), id(number), start);
        }
        assert_eq!((moves.by_id.len(), moves.homes[&address(HOME)].ids.len()), (IDS_MAX, IDS_MAX));
        moves.leave(address(HOME));
        assert!(!moves.is_empty());
        moves.leave(address(HOME));
        assert!(moves.is_empty() && moves.by_id.is_empty());
        assert_eq!(moves.arrived(address(NEW), id(255), start), address(NEW));
    }
}
