//! What two data threads of one host cost each other: `cargo bench -p ripstop-pieces --bench threads`.
//!
//! Each thread has what a data thread has for itself, and both have what those of a host share. What is measured is done by one
//! thread, by the other, and by both at once, in turn; and so is nothing but computation, since two processors may share a core or
//! have others to run. Where nothing is shared, both take as much longer at once as that does. A lock
//! shows wherever it is; memory that both write shows only where that is slow, for which the last row is to be looked at.

#![allow(clippy::expect_used, reason = "a thread that fails ends the bench")]

use ripstop_pieces::{AT_ONCE, AtOnce, Round, Shared, computation, host};
use std::{
    array,
    hint::black_box,
    sync::{
        Arc, Barrier,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

/// How long something is done at a time: many wake-ups of a thread, and less than others on the machine take a processor for.
const TRIAL: Duration = Duration::from_millis(8);
/// How often everything is done: more make the middle of them no steadier on a machine with others.
const TRIALS: usize = 40;
/// Rounds by which is told how many a trial has.
const FIRST: u32 = 2_000;

/// Nanoseconds of a round: by one thread, and by each of two at once.
#[derive(Clone, Copy)]
struct Took {
    alone: f64,
    at_once: f64,
}

#[derive(Clone, Copy)]
enum What {
    Measured,
    Control,
}

/// One of the two threads.
struct Worker {
    asks: SyncSender<(What, Option<Arc<Barrier>>)>,
    answers: Receiver<f64>,
}

impl Worker {
    fn start<'s>(threads: &'s Scope<'s, '_>, one: AtOnce, shared: &'s Shared) -> Self {
        let ((asks, asked), (answer, answers)) = (sync_channel::<(What, Option<Arc<Barrier>>)>(1), sync_channel(1));
        threads.spawn(move || {
            let mut rounds = [(one.set_up)(shared), computation()].map(|mut round| (lasting(&mut round), round));
            for (what, start) in asked {
                let (count, round) = &mut rounds[what as usize];
                if let Some(start) = start {
                    start.wait();
                }
                answer.send(time(round, *count)).expect("it is waited for");
            }
        });
        Self { asks, answers }
    }

    fn ask(&self, what: What, start: Option<Arc<Barrier>>) {
        self.asks.send((what, start)).expect("the thread is there");
    }

    fn answer(&self) -> f64 {
        self.answers.recv().expect("the thread is there")
    }
}

/// How many rounds a trial has.
fn lasting(round: &mut Round) -> u32 {
    time(round, FIRST);
    let count = TRIAL.as_nanos() as f64 / time(round, FIRST);
    count as u32
}

fn time(round: &mut Round, count: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        black_box(&mut *round)();
    }
    start.elapsed().as_nanos() as f64 / f64::from(count)
}

fn trial(workers: &[Worker; 2], what: What) -> Took {
    let mean = |took: [f64; 2]| f64::midpoint(took[0], took[1]);
    let alone = array::from_fn(|number: usize| {
        workers[number].ask(what, None);
        workers[number].answer()
    });
    let start = Arc::new(Barrier::new(workers.len()));
    workers.iter().for_each(|worker| worker.ask(what, Some(Arc::clone(&start))));
    Took { alone: mean(alone), at_once: mean(array::from_fn(|number: usize| workers[number].answer())) }
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = of.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn measure(one: AtOnce, shared: &Shared) {
    let trials = thread::scope(|threads| {
        let workers = array::from_fn(|_| Worker::start(threads, one, shared));
        let both = || (trial(&workers, What::Measured), trial(&workers, What::Control));
        (0..TRIALS).map(|_| both()).collect::<Vec<_>>()
    });
    let ratio = |took: Took| took.at_once / took.alone;
    println!(
        "{:<18}{:>10.0} ns{:>10.0} ns{:>8.2}{:>12.2}",
        one.name,
        median(trials.iter().map(|(measured, _)| measured.alone)),
        median(trials.iter().map(|(measured, _)| measured.at_once)),
        median(trials.iter().map(|(measured, _)| ratio(*measured))),
        median(trials.iter().map(|(_, control)| ratio(*control))),
    );
}

fn main() {
    println!("{:<18}{:>13}{:>13}{:>8}{:>12}", "a round of", "one thread", "two at once", "ratio", "computation");
    for one in AT_ONCE {
        measure(*one, &host());
    }
}
