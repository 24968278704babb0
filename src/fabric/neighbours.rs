//! Whom a host is connected with so that policies reach it, whether or not it has services to call there.
//!
//! Hosts stand in a ring, in order of name; each dials those 1, 2, 4, 8, … places further on. So every host has about twice
//! the logarithm of their number of connections for this, a policy passes as many hosts at most, and half of the hosts may
//! be gone without the others being cut off, in all likelihood. Every host finds the same ring in the same policy.

use ripstop_config::HostName;

/// The hosts that `own` dials, of those that can be dialled.
pub(super) fn of<'h>(own: &HostName, hosts: impl Iterator<Item = &'h HostName> + Clone) -> Vec<&'h HostName> {
    let ring = ring(own, hosts);
    steps(&ring).map(|step| ring[step - 1]).collect()
}

/// The others in the order in which they come after `own`.
fn ring<'h>(own: &HostName, hosts: impl Iterator<Item = &'h HostName> + Clone) -> Vec<&'h HostName> {
    let after = hosts.clone().filter(|host| *host > own);
    let before = hosts.filter(|host| *host < own);
    // Both are in order, as the graph's hosts are.
    after.chain(before).collect()
}

fn steps(ring: &[&HostName]) -> impl Iterator<Item = usize> + use<> {
    let most = ring.len();
    std::iter::successors(Some(1_usize), |step| step.checked_mul(2)).take_while(move |step| *step <= most)
}

/// The hosts that `own` dials, and those that dial it.
pub(super) fn around<'h>(own: &HostName, hosts: impl Iterator<Item = &'h HostName> + Clone) -> Vec<&'h HostName> {
    let ring = ring(own, hosts);
    let steps = steps(&ring);
    steps.flat_map(|step| [ring[step - 1], ring[ring.len() - step]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn hosts(count: usize) -> BTreeSet<HostName> {
        (0..count).map(|number| HostName::new(&format!("h{number:04}")).unwrap()).collect()
    }

    /// How many rounds it takes from the first host to all that are left, over connections in both directions.
    fn rounds(all: &BTreeSet<HostName>, gone: impl Fn(usize) -> bool) -> Option<usize> {
        let left: BTreeSet<_> = all.iter().enumerate().filter(|(at, _)| !gone(*at)).map(|(_, host)| host).collect();
        let mut links: BTreeMap<&HostName, BTreeSet<&HostName>> = BTreeMap::new();
        for host in &left {
            for other in of(host, all.iter()).into_iter().filter(|other| left.contains(*other)) {
                links.entry(host).or_default().insert(other);
                links.entry(other).or_default().insert(host);
            }
        }
        let mut reached: BTreeSet<&HostName> = left.iter().take(1).copied().collect();
        for round in 0..64 {
            if reached.len() == left.len() {
                return Some(round);
            }
            let next: Vec<_> = reached.iter().filter_map(|host| links.get(*host)).flatten().copied().collect();
            reached.extend(next);
        }
        None
    }

    #[test]
    fn few_hosts_are_all_connected() {
        let three = hosts(3);
        let names: Vec<_> = three.iter().collect();
        assert_eq!(of(names[0], three.iter()), [names[1], names[2]]);
        assert_eq!(of(names[2], three.iter()), [names[0], names[1]]);
        assert!(of(names[0], hosts(1).iter()).is_empty());
        let stranger = HostName::new("h0001x").unwrap();
        assert_eq!(of(&stranger, three.iter()), [names[2], names[0]], "one that the graph does not name yet");
    }

    #[test]
    fn around_a_host_are_those_that_it_dials_and_that_dial_it() {
        let all = hosts(20);
        for host in &all {
            let dials = |one: &HostName, other: &HostName| of(one, all.iter()).contains(&other);
            let expected: BTreeSet<_> = all.iter().filter(|one| dials(host, one) || dials(one, host)).collect();
            assert_eq!(around(host, all.iter()).into_iter().collect::<BTreeSet<_>>(), expected, "{host}");
        }
        assert!(around(&HostName::new("h").unwrap(), hosts(0).iter()).is_empty());
    }

    #[test]
    fn a_policy_reaches_a_thousand_hosts_in_a_few_rounds() {
        let all = hosts(1_000);
        let most = all.iter().map(|host| of(host, all.iter()).len()).max();
        assert_eq!(most, Some(10));
        assert!(rounds(&all, |_| false).is_some_and(|rounds| rounds <= 6));
        // Every other one, a third, and a stretch of half of them gone.
        for gone in [(|at| at % 2 == 1) as fn(usize) -> bool, |at| at % 3 == 2, |at| (250..750).contains(&at)] {
            assert!(rounds(&all, gone).is_some_and(|rounds| rounds <= 10));
        }
    }
}
