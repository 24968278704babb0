//! The whole sitting: the hosts under each condition, with every system that is there.

use crate::{
    Options,
    common::bed::Bed,
    dns,
    figures::{Condition, Figure, Group, Results},
    http,
    peers::{Keys, Peer, Site},
    programs::Programs,
    rounds::Round,
    sessions,
    system::System,
};
use std::{cell::Cell, thread, time::Duration};

/// How long systems are left alone before their memory counts as that of idle ones.
const IDLE: Duration = Duration::from_secs(2);

/// The systems that can be measured; the others are noted as absent.
pub fn present(options: &Options, programs: &Programs, results: &mut Results) -> Vec<System> {
    let mut present = Vec::new();
    for system in System::ALL {
        if options.without.contains(&system) {
            results.left_out.push(system);
            continue;
        }
        match programs.check(system) {
            Ok(()) => present.push(system),
            Err(error) => {
                eprintln!("ABSENT: {}: {error:#}", system.name());
                results.absent.push((system, format!("{error:#}")));
            }
        }
    }
    present
}

/// Measures everything that is asked for.
pub fn run(options: &Options, programs: &Programs, systems: &[System], results: &mut Results) -> anyhow::Result<()> {
    for condition in Condition::ALL.into_iter().filter(|condition| wants(options, *condition)) {
        eprintln!("{}", condition.name());
        let table = Table { options, programs, systems };
        table.under(condition, results)?;
    }
    if options.only.is_none_or(|only| only == Group::Memory) {
        eprintln!("idle sessions");
        Table { options, programs, systems }.idle_sessions(results)?;
    }
    Ok(())
}

/// Whether anything that is asked for is measured under a condition.
fn wants(options: &Options, condition: Condition) -> bool {
    options.only.is_none_or(|only| match condition {
        Condition::Plain => true,
        Condition::Jumbo | Condition::Lossy => only == Group::Bulk,
        Condition::Slow => matches!(only, Group::Bulk | Group::Reply),
    })
}

/// What one bed is laid for.
struct Table<'a> {
    options: &'a Options,
    programs: &'a Programs,
    systems: &'a [System],
}

impl Table<'_> {
    fn under(&self, condition: Condition, results: &mut Results) -> anyhow::Result<()> {
        let mut bed = self.bed(condition)?;
        if condition == Condition::Plain && self.options.only.is_none_or(|only| only == Group::Dns) {
            self.serve_dns(&mut bed, results);
        }
        let peers = self.start(&bed, condition, self.systems, results)?;
        let memory = condition == Condition::Plain && self.options.only.is_none_or(|only| only == Group::Memory);
        if memory {
            thread::sleep(IDLE);
            resident(&bed, &peers, Figure::ResidentIdle, results);
        }
        for number in 0..self.options.rounds {
            eprintln!("{}, round {} of {}", condition.name(), number + 1, self.options.rounds);
            let (only, seconds) = (self.options.only, self.options.seconds);
            let row = Cell::new(number as usize);
            Round { bed: &bed, peers: &peers, condition, only, seconds, row }.run(results);
        }
        if memory && self.options.only.is_none() {
            resident(&bed, &peers, Figure::ResidentLoaded, results);
        }
        Ok(())
    }

    fn idle_sessions(&self, results: &mut Results) -> anyhow::Result<()> {
        let bed = self.bed(Condition::Plain)?;
        let systems: Vec<_> = self.systems.iter().copied().filter(|system| system.terminates()).collect();
        let peers = self.start(&bed, Condition::Plain, &systems, results)?;
        sessions::measure(&bed, &peers, self.options.rounds, self.options.seconds, results);
        Ok(())
    }

    /// Builds the hosts with their servers, once in a workload's namespace and once on the host.
    fn bed(&self, condition: Condition) -> anyhow::Result<Bed> {
        let mut bed = Bed::build(condition.link())?;
        for place in [bed.lab.workload("space"), bed.lab.host("beta")] {
            bed.serve(&place, "0.0.0.0");
            let nginx = http::serve(&bed, &place)?;
            bed.keep(nginx);
            let counter = bed.play(&place, &format!("count-{}", place.name().replace('/', "-")), &["count", "0.0.0.0"]);
            bed.keep(counter.0);
        }
        Ok(bed)
    }

    fn serve_dns(&self, bed: &mut Bed, results: &mut Results) {
        match dns::serve(bed, &bed.lab.host("alpha"), self.programs) {
            Ok(servers) => servers.into_iter().for_each(|server| bed.keep(server)),
            Err(error) => results.absent.push((System::Unbound, format!("{error:#}"))),
        }
    }

    /// Starts every system; one that does not come up is noted, and the others are measured.
    fn start(
        &self,
        bed: &Bed,
        condition: Condition,
        systems: &[System],
        results: &mut Results,
    ) -> anyhow::Result<Vec<Peer>> {
        let keys = Keys::make(&bed.lab)?;
        let site = Site { bed, programs: self.programs, keys: &keys, mtu: condition.link().mtu };
        let mut peers = Vec::new();
        for system in systems {
            match Peer::start(*system, &site) {
                Ok(peer) => peers.push(peer),
                Err(error) => results.fail(format!("{}, {} does not work: {error:#}", condition.name(), system.name())),
            }
        }
        Ok(peers)
    }
}

fn resident(bed: &Bed, peers: &[Peer], figure: Figure, results: &mut Results) {
    for peer in peers {
        if let Some(bytes) = peer.way(bed).resident() {
            results.add(Condition::Plain, figure, peer.system, bytes as f64 / 1e6);
        }
    }
}
