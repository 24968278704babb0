//! Who says something first on the connections to one listener, so that the acknowledgement which ends a handshake can go
//! with the caller's first bytes.
//!
//! Alone it is a packet more for the workload's kernel, and wakes the listener, which then mostly waits for those bytes. But
//! where the listener speaks first, as those of SMTP, FTP and MySQL do, it does not begin before: there it goes at once. Which of
//! the two a listener is shows in its first connection that says anything, whose acknowledgement goes at once. A listener that
//! greets, and whose first caller did not wait for that, is late by some 10 ms with its next greeting, once.

use rustc_hash::FxHashMap;
use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
};

/// Listeners of one interface that are remembered; beyond it all are forgotten, and learned of again.
const LISTENERS_MAX: usize = 1_024;
/// Handshakes with one listener that may wait for their callers' bytes at a time. Until its end each has a place among those that
/// the listener's kernel keeps for it, of which some programs ask for five alone; of more a kernel answers with cookies, which forget
/// what the ends offered each other (`tcp_syncookies` of Linux).
const WAITING_MAX: u8 = 4;

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

/// Who spoke first so far, and how many handshakes wait for the caller to.
#[derive(Debug, Default)]
pub struct FirstWord {
    seen: Cell<Seen>,
    waiting: Cell<u8>,
}

/// A handshake that waits for the caller's first bytes, until it is dropped.
pub(super) struct Waiting(Rc<FirstWord>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// There was no word yet.
    #[default]
    Nobody,
    /// Always the caller.
    Caller,
    /// The listener, at least once. For as long as it is remembered, it is not believed to wait for callers again.
    Listener,
}

impl FirstWord {
    /// Has a handshake wait for the caller's bytes, if the listener does as well, as far as is known, and not too many do already.
    pub(super) fn wait(self: &Rc<Self>) -> Option<Waiting> {
        let waiting = self.waiting.get();
        (self.seen.get() == Seen::Caller && waiting < WAITING_MAX).then(|| {
            self.waiting.set(waiting + 1);
            Waiting(Rc::clone(self))
        })
    }

    /// On another connection the caller spoke first.
    pub(super) fn by_caller(&self) {
        if self.seen.get() == Seen::Nobody {
            self.seen.set(Seen::Caller);
        }
    }

    /// On another connection the listener did.
    pub(super) fn by_listener(&self) {
        self.seen.set(Seen::Listener);
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
            assert!(words.of(listener).wait().is_some(), "the same again");
            assert!(words.0.borrow().len() <= LISTENERS_MAX);
        }
    }
}
