//! Who says something first on the connections to one listener, so that the acknowledgement which ends a handshake can go
//! with the caller's first bytes.
//!
//! The workload's kernel takes a segment of its own for it, and wakes the listener, which then mostly waits for those bytes. But
//! where the listener speaks first, as those of SMTP, SSH and MySQL do, it does not begin before: there it goes at once. Which of
//! the two a listener is shows in its first connection that says anything, whose acknowledgement goes at once.

use rustc_hash::FxHashMap;
use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
};

/// Listeners of one interface that are remembered; beyond it all are forgotten, and learned of again.
const LISTENERS_MAX: usize = 1_024;

/// What is known of the listeners behind one interface.
#[derive(Debug, Default)]
pub(crate) struct FirstWords(RefCell<FxHashMap<SocketAddr, Rc<FirstWord>>>);

impl FirstWords {
    /// What is known of one of them, and will be.
    pub(crate) fn of(&self, listener: SocketAddr) -> Rc<FirstWord> {
        let mut known = self.0.borrow_mut();
        if known.len() >= LISTENERS_MAX && !known.contains_key(&listener) {
            known.clear();
        }
        Rc::clone(known.entry(listener).or_default())
    }
}

/// Who spoke first so far.
#[derive(Debug, Default)]
pub struct FirstWord(Cell<Seen>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// There was no word yet.
    #[default]
    Nobody,
    /// Always the caller.
    Caller,
    /// The listener, at least once. It is not believed to wait for callers again.
    Listener,
}

impl FirstWord {
    /// The listener waits for the caller's bytes, as far as is known.
    pub(super) fn is_callers(&self) -> bool {
        self.0.get() == Seen::Caller
    }

    /// On another connection the caller spoke first.
    pub(super) fn by_caller(&self) {
        if self.0.get() == Seen::Nobody {
            self.0.set(Seen::Caller);
        }
    }

    /// On another connection the listener did.
    pub(super) fn by_listener(&self) {
        self.0.set(Seen::Listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_listeners_are_remembered_and_no_more() {
        let words = FirstWords::default();
        for port in 1..=3_000 {
            let listener = SocketAddr::from(([198, 18, 0, 1], port));
            words.of(listener).by_caller();
            assert!(words.of(listener).is_callers(), "the same again");
            assert!(words.0.borrow().len() <= LISTENERS_MAX);
        }
    }
}
