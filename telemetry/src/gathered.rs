//! What a data thread counts for each packet, piece or query, gathered by that thread.
//!
//! A counter of the metrics is one for all data threads: if each wrote to it for each packet, they would take its memory away from
//! one another all the time. So each thread adds to a cell of its own ([`Gathered`]), and hands on to the metrics what is there:
//!
//! 1. when somebody asks for it, as a session does at its end;
//! 2. else a moment later ([`HELD_MAX`]), all that the thread has gathered at once; while nothing is counted, it sleeps;
//! 3. when what counts is gone, and when the thread ends.

use metrics::Counter;
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    rc::Rc,
    time::Duration,
};
use tokio::sync::Notify;

/// How much later than it was counted something is in the metrics at most: no scrape is as frequent.
const HELD_MAX: Duration = Duration::from_millis(250);

thread_local! {
    /// What this thread has gathered.
    static DUE: Rc<Due> = Rc::default();
}

/// A counter, and what is still to be added to it.
struct Pending {
    count: Cell<u64>,
    /// It is among those that are handed on in time.
    is_due: Cell<bool>,
    counter: Counter,
}

/// A counter as one thread counts by it. Nothing of what was counted is lost.
pub(crate) struct Gathered(Rc<Pending>);

impl Gathered {
    /// Counts for one of the metrics.
    pub(crate) fn new(counter: Counter) -> Self {
        Self(Rc::new(Pending { count: Cell::new(0), is_due: Cell::new(false), counter }))
    }

    /// Counts.
    pub(crate) fn add(&self, count: u64) {
        self.0.count.update(|before| before + count);
        if !self.0.is_due.get() {
            self.fall_due();
        }
    }

    #[cold]
    fn fall_due(&self) {
        // Whoever counts while the thread ends is the last to do so.
        if DUE.try_with(|due| due.take(&self.0)).is_err() {
            self.hand_on();
        }
    }

    /// Has the metrics say all that was counted so far.
    pub(crate) fn hand_on(&self) {
        self.0.hand_on();
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.hand_on();
    }
}

impl Pending {
    fn hand_on(&self) {
        let count = self.count.take();
        if count > 0 {
            self.counter.increment(count);
        }
    }
}

/// What is to be handed on in time.
#[derive(Default)]
struct Due {
    pending: RefCell<Vec<Rc<Pending>>>,
    /// There is something, where there was nothing.
    began: Notify,
}

impl Due {
    fn take(&self, one: &Rc<Pending>) {
        one.is_due.set(true);
        let mut pending = self.pending.borrow_mut();
        if pending.is_empty() {
            self.began.notify_one();
        }
        pending.push(Rc::clone(one));
    }

    fn hand_on(&self) {
        for one in self.pending.borrow_mut().drain(..) {
            one.is_due.set(false);
            one.hand_on();
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.hand_on();
    }
}

/// Hands on, in time, what this thread gathers; never resolves.
pub async fn hand_on_in_time() -> Infallible {
    let due = DUE.with(Rc::clone);
    loop {
        due.began.notified().await;
        tokio::time::sleep(HELD_MAX).await;
        due.hand_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::atomics::AtomicU64;
    use std::{
        sync::{Arc, atomic::Ordering::Relaxed},
        thread,
    };
    use tokio::time::sleep;

    fn counter() -> (Gathered, Arc<AtomicU64>) {
        let counted = Arc::new(AtomicU64::new(0));
        (Gathered::new(Counter::from_arc(Arc::clone(&counted))), counted)
    }

    #[test]
    fn what_was_counted_is_said_when_it_is_asked_for_and_when_nobody_counts_any_more() {
        let (gathered, counted) = counter();
        (1..=100).for_each(|count| gathered.add(count));
        assert_eq!(counted.load(Relaxed), 0);
        gathered.hand_on();
        gathered.hand_on();
        assert_eq!(counted.load(Relaxed), 5_050);
        gathered.add(1);
        drop(gathered);
        assert_eq!(counted.load(Relaxed), 5_051);
        DUE.with(|due| assert_eq!(due.pending.borrow().len(), 1, "however often it was counted"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_is_said_in_time_and_a_thread_that_counts_nothing_sleeps() {
        let counts = async {
            let ((one, first), (other, second)) = (counter(), counter());
            for round in 1..=3 {
                // With nothing to do until then, time passes at once; to a timer in between it would not.
                sleep(Duration::from_secs(3_600)).await;
                one.add(7);
                sleep(HELD_MAX / 2).await;
                one.add(3);
                other.add(1);
                assert_eq!(first.load(Relaxed), (round - 1) * 10);
                sleep(HELD_MAX / 2 + Duration::from_millis(1)).await;
                assert_eq!((first.load(Relaxed), second.load(Relaxed)), (round * 10, round));
                DUE.with(|due| assert!(due.pending.borrow().is_empty()));
            }
        };
        tokio::select! {
            never = hand_on_in_time() => match never {},
            () = counts => {}
        }
    }

    #[test]
    fn what_a_thread_has_gathered_is_said_when_it_ends() {
        let counted = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&counted);
        let ending = thread::spawn(move || {
            let gathered = Gathered::new(Counter::from_arc(shared));
            gathered.add(5);
            // As what refers to itself is left behind.
            std::mem::forget(gathered);
        });
        ending.join().unwrap();
        assert_eq!(counted.load(Relaxed), 5);
    }
}
