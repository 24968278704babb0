//! How often one address may show a bad token. Nobody guesses a token; this keeps the log and the processor out of it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Bad tokens of one address within [`WINDOW`]; a person who mistypes has fewer.
pub(super) const BAD_MAX: u32 = 10;
/// How long they count.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; beyond that the one whose window began first is forgotten.
const ADDRESSES_MAX: usize = 4_096;

/// Bad tokens by address.
#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<IpAddr, (Instant, u32)>);

impl Attempts {
    /// Whether an address may show another token.
    #[must_use]
    pub(super) fn may_try(&self, from: IpAddr, now: Instant) -> bool {
        let seen = self.0.get(&network(from));
        seen.is_none_or(|(since, count)| *count < BAD_MAX || now.duration_since(*since) >= WINDOW)
    }

    /// Notes a bad token.
    pub(super) fn failed(&mut self, from: IpAddr, now: Instant) {
        if self.0.len() >= ADDRESSES_MAX {
            self.0.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        if self.0.len() >= ADDRESSES_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (since, _))| *since).map(|(address, _)| *address)
        {
            self.0.remove(&oldest);
        }
        let entry = self.0.entry(network(from)).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(1);
    }
}

/// Of IPv6 the /64, as who has one address there has all of them.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_let_alone_after_ten_for_a_minute() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..BAD_MAX {
            assert!(attempts.may_try(address("192.0.2.1"), start));
            attempts.failed(address("192.0.2.1"), start);
        }
        assert!(!attempts.may_try(address("::ffff:192.0.2.1"), start), "the same address, written otherwise");
        assert!(attempts.may_try(address("192.0.2.2"), start));
        assert!(attempts.may_try(address("192.0.2.1"), start + WINDOW));
        attempts.failed(address("192.0.2.1"), start + WINDOW);
        assert!(attempts.may_try(address("192.0.2.1"), start + WINDOW));
    }

    #[test]
    fn a_network_counts_as_one_and_memory_is_bounded() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for host in 0..BAD_MAX {
            attempts.failed(address(&format!("2001:db8::{host:x}")), now);
        }
        assert!(!attempts.may_try(address("2001:db8::ffff"), now));
        for number in 0..2 * ADDRESSES_MAX as u32 {
            attempts.failed(IpAddr::V4(number.into()), now);
        }
        assert!(attempts.0.len() <= ADDRESSES_MAX);
    }
}
