//! Busy polling: the data thread looks for what comes next for a moment before it sleeps, where that has come soon lately.
//!
//! To wake a thread that sleeps on another processor takes the kernel an interrupt, which costs some microseconds, and many
//! more on a virtual machine; a request and its answer wake the data threads of two hosts four times. What one of them
//! would wait for is then on its way already. So:
//!
//! 1. After some waits in a row that were short, the thread polls in place of the next one. A look is one system call.
//! 2. Before each look the processor is given to whoever else wants it. Polling ends when somebody kept it for long, or when
//!    nothing came for as long as a short wait may be; then the thread sleeps.
//! 3. Where little came, or came slowly, it was not worth it, and the next time takes twice as many short waits.
//!    What is short, and what slow, depends on whether the machine is a virtual one.
//! 4. Nor does it poll, unless it was worth it the last time, while more threads would run than there are processors. Where it
//!    was, they are who it waits for, and take turns.

use ripstop_kernel::Runnable;
use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task};

/// What is short, by the kind of machine.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Longest of the short waits, and how long the thread polls in vain.
    short: Duration,
    /// Longest time between two things that come, on average, for which it is worth it: less, as a wait becomes shorter once the thread
    /// and those that it waits for poll.
    between: Duration,
    /// Somebody else kept the processor so long: there is more to do than there are processors, and polling would take time from
    /// those who would use it. An application that answers a request takes less.
    kept: Duration,
}

/// A request to a host nearby is answered within a short wait. A host to which fewer than some ten thousand packets come a second
/// hardly polls.
const REAL: Limits =
    Limits { short: Duration::from_micros(150), between: Duration::from_micros(75), kept: Duration::from_micros(80) };
/// On a virtual machine the answer waits until the other agent, the endpoint and that agent again are woken. Each takes some 50 microseconds
/// there where the other processor is idle, of whoever wakes it as well. And whoever runs on a processor that its own host takes away for
/// a moment looks as if they kept it. A host hardly polls to which fewer than half as many packets come.
const VIRTUAL: Limits =
    Limits { short: Duration::from_micros(600), between: Duration::from_micros(150), kept: Duration::from_micros(300) };
/// Short waits in a row before the thread polls: at first, and at most after it was not worth it.
const IN_A_ROW: (u32, u32) = (2, 512);
/// The same after it was worth it; then it does not matter either how long that wait is, and how many threads would run.
const AGAIN: u32 = 1;
/// Things that come by which that is told, again and again.
const ENOUGH: u32 = 64;

/// Whether the thread polls, by how its waits were.
#[derive(Default)]
pub(crate) struct Polling {
    /// Nothing where the thread may not poll.
    allowed: OnceCell<Allowed>,
    is_on: Cell<bool>,
    begin: Notify,
    slept: Cell<Option<Instant>>,
    short: Cell<u32>,
    /// Short waits in a row that it takes.
    needed: Cell<u32>,
    /// Changes with all that comes.
    came: Cell<u64>,
}

struct Allowed {
    limits: Limits,
    /// Says whether others would have the processor.
    is_crowded: Box<dyn Fn() -> bool>,
}

thread_local! {
    /// Of the data thread; the runtime calls functions that own nothing.
    static OWN: Rc<Polling> = Rc::default();
}

/// Something came: a packet, bytes of another host or a socket, a session.
pub(crate) fn came() {
    OWN.with(|own| own.came.update(|came| came.wrapping_add(1)));
}

/// The thread has nothing to do.
pub(crate) fn sleeps() {
    OWN.with(|own| own.sleeps(Instant::now()));
}

/// It has something to do again.
pub(crate) fn wakes() {
    OWN.with(|own| own.wakes(Instant::now()));
}

/// Polls whenever it is worth it, if it is allowed at all; never resolves.
pub(crate) async fn run(is_allowed: bool) {
    let own = OWN.with(Rc::clone);
    match is_allowed.then(Runnable::open) {
        Some(Ok(runnable)) => own.allow(limits(is_virtual()), move || runnable.is_crowded()),
        Some(Err(error)) => tracing::warn!(%error, "no busy polling: the kernel does not say what runs"),
        None => {}
    }
    loop {
        own.begin.notified().await;
        let was_worth_it = own.poll().await;
        own.ended(was_worth_it);
    }
}

impl Polling {
    fn allow(&self, limits: Limits, is_crowded: impl Fn() -> bool + 'static) {
        // Allowed once for each thread.
        let _ = self.allowed.set(Allowed { limits, is_crowded: Box::new(is_crowded) });
        self.needed.set(IN_A_ROW.0);
    }

    fn sleeps(&self, now: Instant) {
        let Some(allowed) = self.allowed.get() else { return };
        if !self.is_on.get() && self.short.get() >= self.needed.get() {
            if self.needed.get() == AGAIN || !(allowed.is_crowded)() {
                self.is_on.set(true);
                // The runtime finds a task to run, and does not sleep.
                return self.begin.notify_one();
            }
            self.short.set(0);
        }
        self.slept.set(Some(now));
    }

    fn wakes(&self, now: Instant) {
        let (Some(allowed), Some(slept)) = (self.allowed.get(), self.slept.take()) else { return };
        let counts = self.needed.get() == AGAIN || now.saturating_duration_since(slept) < allowed.limits.short;
        self.short.update(|short| if counts { short.saturating_add(1) } else { 0 });
    }

    /// Returns whether it was worth it.
    async fn poll(&self) -> bool {
        let Some(Allowed { limits, .. }) = self.allowed.get() else { return false };
        let start = Instant::now();
        let (mut pace, mut was_worth_it) = (Pace::new(start, limits.between), false);
        let (mut before, mut looked, mut last) = (self.came.get(), start, start);
        loop {
            thread::yield_now();
            let now = Instant::now();
            if now - looked > limits.kept || now - last > limits.short {
                return was_worth_it;
            }
            task::yield_now().await;
            looked = Instant::now();
            let came = self.came.get();
            if came == before {
                continue;
            }
            (before, last) = (came, looked);
            match pace.came(looked) {
                Some(false) => return false,
                Some(true) => was_worth_it = true,
                None => {}
            }
        }
    }

    fn ended(&self, was_worth_it: bool) {
        self.is_on.set(false);
        self.short.set(0);
        self.needed.update(|needed| if was_worth_it { AGAIN } else { (needed * 2).min(IN_A_ROW.1) });
    }
}

fn limits(is_virtual: bool) -> Limits {
    if is_virtual { VIRTUAL } else { REAL }
}

/// Whether the processor is a virtual one. Whoever runs it says so by a bit that processors leave zero (AMD64 Architecture
/// Programmer's Manual, volume 3, E.3.2, function 1, ECX bit 31); other architectures have none.
fn is_virtual() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::x86_64::__cpuid(1).ecx >> 31 == 1;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// How fast things come.
struct Pace {
    /// Longest time between two for which it is worth it.
    between: Duration,
    since: Instant,
    times: u32,
}

impl Pace {
    fn new(since: Instant, between: Duration) -> Self {
        Self { between, since, times: 0 }
    }

    /// Something came; after [`ENOUGH`] says whether polling for them was worth it.
    fn came(&mut self, now: Instant) -> Option<bool> {
        self.times += 1;
        (self.times == ENOUGH).then(|| {
            let took = now.saturating_duration_since(self.since);
            *self = Self::new(now, self.between);
            took <= self.between * ENOUGH
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread;

    fn fresh() -> (Polling, Instant) {
        let polling = Polling::default();
        polling.allow(REAL, || false);
        (polling, Instant::now())
    }

    /// Waits of so many microseconds each, until the thread polls in place of one; returns how many there were.
    fn waits(polling: &Polling, start: Instant, micros: impl IntoIterator<Item = u64>) -> usize {
        micros
            .into_iter()
            .take_while(|micros| {
                polling.sleeps(start);
                let polls = polling.is_on.get();
                polling.wakes(start + Duration::from_micros(*micros));
                !polls
            })
            .count()
    }

    #[test]
    fn short_waits_in_a_row_have_the_thread_poll() {
        let (polling, start) = fresh();
        assert_eq!(waits(&polling, start, [149; 9]), 2);
        let (polling, start) = fresh();
        assert_eq!(waits(&polling, start, [1, 150].repeat(9)), 18, "never two of them");
        assert_eq!(waits(&Polling::default(), start, [1; 99]), 99, "it may not");
        let crowded = Polling::default();
        crowded.allow(REAL, || true);
        assert_eq!(waits(&crowded, start, [1; 99]), 99, "others would run");
        crowded.ended(true);
        assert_eq!(waits(&crowded, start, [150; 99]), 1, "they take turns");
        crowded.ended(false);
        assert_eq!(waits(&crowded, start, [1; 99]), 99, "it was not worth it");
    }

    #[test]
    fn more_is_short_on_a_virtual_machine() {
        let (polling, start) = (Polling::default(), Instant::now());
        polling.allow(limits(true), || false);
        assert_eq!(waits(&polling, start, [600; 9]), 9, "a host far away");
        assert_eq!(waits(&polling, start, [599; 9]), 2);
    }

    #[test]
    fn the_kernel_sees_a_virtual_processor_too() {
        let said = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        assert_eq!(is_virtual(), said.split_whitespace().any(|flag| flag == "hypervisor"));
    }

    #[test]
    fn polling_in_vain_is_done_ever_more_rarely() {
        let (polling, start) = fresh();
        let mut needed = Vec::new();
        for _ in 0..10 {
            needed.push(waits(&polling, start, [1; 2_000]));
            polling.ended(false);
        }
        assert_eq!(needed, [2, 4, 8, 16, 32, 64, 128, 256, 512, 512]);
        assert_eq!(waits(&polling, start, [1; 2_000]), 512);
        polling.ended(true);
        assert_eq!(waits(&polling, start, [1; 2_000]), 1);
        polling.ended(false);
        assert_eq!(waits(&polling, start, [1; 2_000]), 2);
    }

    #[tokio::test]
    async fn a_thread_to_which_nothing_comes_sleeps_again() {
        let (polling, _) = fresh();
        assert!(!polling.poll().await);
    }

    #[tokio::test]
    async fn what_comes_at_once_is_worth_it() {
        let polling = Polling::default();
        // Other tests may keep the processor.
        let patient = Duration::from_secs(60);
        polling.allow(Limits { short: Duration::from_secs(1), between: patient, kept: patient }, || false);
        let brings = async {
            for _ in 0..2 * ENOUGH {
                polling.came.update(|came| came + 1);
                task::yield_now().await;
            }
        };
        let (was_worth_it, ()) = tokio::join!(polling.poll(), brings);
        assert!(was_worth_it);
    }

    #[test]
    fn what_comes_slowly_is_not_worth_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start, Duration::from_micros(75));
        let mut said = |from: u64, apart: u64| {
            let at = |number| start + Duration::from_micros(from + number * apart);
            (1..=64).filter_map(|number| pace.came(at(number))).collect::<Vec<_>>()
        };
        assert_eq!(said(0, 75), [true]);
        assert_eq!(said(4_800, 76), [false], "each time anew");
        assert_eq!(said(9_664, 10), [true]);
    }

    #[test]
    fn a_thread_that_polls_runs_its_timers_and_hears_others() {
        let runtime = thread::runtime().unwrap();
        let (asks, hears) = std::sync::mpsc::sync_channel(1);
        let (answers, mut answered) = tokio::sync::mpsc::channel(1);
        let echo = std::thread::spawn(move || hears.iter().try_for_each(|number: u32| answers.blocking_send(number)));
        let asking = async move {
            for number in 0..5_000 {
                asks.send(number).unwrap();
                assert_eq!(answered.recv().await, Some(number));
                came();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        thread::run(&runtime, true, Box::pin(asking));
        echo.join().unwrap().unwrap();
    }
}
