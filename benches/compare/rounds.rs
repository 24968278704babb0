//! One round under one condition: every figure once through every system in turn.

use crate::{
    common::{
        bed::{BULK_PORT, Bed},
        datagrams,
        load::{self, Bulk},
        way::Way,
    },
    dns,
    figures::{Condition, Figure, Group, Results},
    http,
    peers::Peer,
    system::System,
    turns,
};
use std::{cell::Cell, time::Duration};

/// Exchanges for each second of a figure that the percentiles of a reply are taken from: what the slowest makes in a second;
/// and those where each takes 20 ms.
const EXCHANGES: usize = 4000;
const SLOW_EXCHANGES: usize = 40;
/// Connections that are opened at a time: one caller, as many as there are echo ports, and a crowd.
const PARALLEL: [usize; 3] = [1, 8, 64];

/// What is measured, and for how long.
pub struct Round<'a> {
    pub bed: &'a Bed,
    pub peers: &'a [Peer],
    pub condition: Condition,
    pub only: Option<Group>,
    /// Of each figure.
    pub seconds: u32,
    /// Which row of turns the next figure takes. A round begins one row after the round before.
    pub row: Cell<usize>,
}

impl Round<'_> {
    /// Takes every figure once; one that cannot be taken is noted, and the next is taken.
    pub fn run(&self, results: &mut Results) {
        let slow = self.condition == Condition::Slow;
        match self.condition {
            Condition::Plain => self.plain(results),
            Condition::Jumbo => self.bulk(&[(1, false), (1, true), (8, false), (8, true)], results),
            Condition::Lossy | Condition::Slow => self.bulk(&[(1, false)], results),
        }
        if slow {
            self.reply(SLOW_EXCHANGES, results);
        }
    }

    fn plain(&self, results: &mut Results) {
        self.bulk(&[(1, false), (1, true), (8, false), (8, true)], results);
        self.reply(EXCHANGES, results);
        self.connections(results);
        self.http(results);
        self.udp(results);
        self.dns(results);
    }

    fn wants(&self, group: Group) -> bool {
        self.only.is_none_or(|only| only == group)
    }

    /// Takes figures through every system in turn.
    fn each(
        &self,
        what: &str,
        results: &mut Results,
        mut take: impl FnMut(System, &Way) -> anyhow::Result<Vec<(Figure, f64)>>,
    ) {
        let order = turns::order(self.peers.len(), self.row.replace(self.row.get() + 1));
        for peer in order.into_iter().filter_map(|place| self.peers.get(place)) {
            self.bed.settle();
            match take(peer.system, &peer.way(self.bed)) {
                Ok(figures) => {
                    for (figure, value) in figures {
                        results.add(self.condition, figure, peer.system, value);
                    }
                }
                Err(error) => {
                    results.fail(format!("{}, {what}, {}: {error:#}", self.condition.name(), peer.system.name()));
                }
            }
        }
    }

    fn bulk(&self, kinds: &[(u32, bool)], results: &mut Results) {
        for (streams, reverse) in kinds.iter().copied().filter(|_| self.wants(Group::Bulk)) {
            let what = format!("{streams} streams, reverse {reverse}");
            self.each(&what, results, |_, way| {
                let carried =
                    load::bulk(way, Bulk { streams, reverse, seconds: self.seconds, port: BULK_PORT, options: &[] })?;
                let mut figures = vec![(Figure::Bulk { streams, reverse }, carried.gbit)];
                if !way.carriers.is_empty() {
                    figures.push((Figure::BulkCpu { streams, reverse }, carried.cpu));
                }
                Ok(figures)
            });
        }
    }

    fn reply(&self, a_second: usize, results: &mut Results) {
        if !self.wants(Group::Reply) {
            return;
        }
        let exchanges = a_second * self.seconds as usize;
        self.each("request and reply", results, |_, way| {
            let exchange = load::request_reply(way, exchanges)?;
            let mut figures =
                vec![(Figure::Reply { mille: 500 }, exchange.p50), (Figure::Reply { mille: 990 }, exchange.p99)];
            // Of a few hundred it would be the worst one.
            if a_second == EXCHANGES {
                figures.push((Figure::Reply { mille: 999 }, exchange.p999));
            }
            Ok(figures)
        });
    }

    fn connections(&self, results: &mut Results) {
        for parallel in PARALLEL.into_iter().filter(|_| self.wants(Group::Connections)) {
            self.each(&format!("{parallel} connections at a time"), results, |_, way| {
                let opened = load::connections(way, parallel, self.seconds)?;
                Ok(vec![
                    (Figure::Connections { parallel }, opened.rate),
                    (Figure::ConnectionsP99 { parallel }, opened.p99),
                ])
            });
        }
    }

    fn http(&self, results: &mut Results) {
        for kept in [false, true].into_iter().filter(|_| self.wants(Group::Http)) {
            self.each(&format!("HTTP, kept connections {kept}"), results, |_, way| {
                let requests = http::requests(way, kept, self.seconds)?;
                let mut figures =
                    vec![(Figure::Http { kept }, requests.per_second), (Figure::HttpP99 { kept }, requests.p99)];
                if !way.carriers.is_empty() {
                    figures.push((Figure::HttpCpu { kept }, requests.cpu));
                }
                Ok(figures)
            });
        }
    }

    fn udp(&self, results: &mut Results) {
        if !self.wants(Group::Udp) {
            return;
        }
        // A search tries about fifteen rates.
        let length = Duration::from_secs(self.seconds.into()) / 10;
        for (together, sending) in [(false, datagrams::Sending::Alone), (true, datagrams::Sending::Together)] {
            self.each("UDP", results, |system, way| {
                if !system.carries_datagrams() {
                    return Ok(Vec::new());
                }
                Ok(vec![(Figure::Udp { together }, datagrams::without_loss(way, sending, length)?)])
            });
        }
    }

    fn dns(&self, results: &mut Results) {
        if !self.wants(Group::Dns) {
            return;
        }
        let (workload, host) = (self.bed.lab.workload("caller"), self.bed.lab.host("alpha"));
        let taken = [
            (System::Fabric, dns::fabric(self.bed, &workload, self.seconds)),
            (System::Unbound, dns::unbound(self.bed, &host, self.seconds)),
        ];
        for (system, rate) in taken {
            match rate {
                Ok(rate) => results.add(self.condition, Figure::Dns, system, rate),
                Err(error) => results.fail(format!("DNS, {}: {error:#}", system.name())),
            }
        }
    }
}
