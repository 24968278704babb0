//! The memory of one connection's buffers.
//!
//! It comes straight from the kernel, so that pages are taken as they are used: an allocator would write into the first page
//! of each buffer, and clear all of it before it is used again. Giving it back costs a short connection more than
//! all that it sent (the pages are unmapped, on every core, and faulted in again by the next one), so some that was
//! hardly used is kept for connections to come.

use memmap2::{MmapMut, MmapOptions};
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
};

/// Bytes that may wait in each direction of one session. Between the agent and the kernel of the same machine a round
/// trip takes microseconds, so this carries tens of gigabits; a slow reader closes the window at this many bytes.
///
/// A multiple of 4 just below 2^18: with a window scale of 2 the largest window that fits the header, 65 535 << 2, is the
/// capacity itself. In a larger buffer smoltcp 0.14 would take the unscaled window of its SYN-ACK for a scaled one, accept
/// data beyond the buffer, and panic on it.
pub(super) const BUFFER: usize = 65_535 << 2;
/// Where the second buffer starts: at a page, so that a session that used little of both touches two pages, not three.
const SECOND: usize = BUFFER.next_multiple_of(4_096);
/// Memory kept for connections to come, of each thread: what is opened and closed at once by busy clients.
const SPARE_MAX: usize = 64;
/// Only what has seen so few bytes is kept: with [`SPARE_MAX`] it holds 2 MiB of memory at most.
const LIGHT: usize = 16 << 10;

thread_local! {
    static SPARE: RefCell<Vec<MmapMut>> = const { RefCell::new(Vec::new()) };
}

/// Both buffers of a connection.
pub(super) struct Buffers {
    map: Option<MmapMut>,
    used: Rc<Cell<usize>>,
}

impl Buffers {
    /// Memory for one connection, and where to say how many bytes went through it. What an earlier connection left in it is
    /// never read: a buffer gives out only what was written to it.
    ///
    /// # Errors
    /// When the kernel has none.
    pub(super) fn take() -> io::Result<(Self, Rc<Cell<usize>>)> {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let map = spare.map_or_else(|| MmapOptions::new().len(SECOND + BUFFER).map_anon(), Ok)?;
        let used = Rc::<Cell<usize>>::default();
        Ok((Self { map: Some(map), used: Rc::clone(&used) }, used))
    }

    /// The buffer for what is received and the one for what is sent.
    pub(super) fn halves(&mut self) -> (&mut [u8], &mut [u8]) {
        let map: &mut [u8] = self.map.as_deref_mut().unwrap_or_default();
        let (first, second) = map.split_at_mut(SECOND.min(map.len()));
        (&mut first[..BUFFER], second)
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let Some(map) = self.map.take().filter(|_| self.used.get() <= LIGHT) else { return };
        // At the end of the thread there is nothing to keep it for.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(map);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare() -> usize {
        SPARE.with_borrow(Vec::len)
    }

    #[test]
    fn memory_that_was_hardly_used_is_used_again() {
        let (mut buffers, _) = Buffers::take().unwrap();
        let (receive, send) = buffers.halves();
        assert_eq!((receive.len(), send.len()), (BUFFER, BUFFER));
        let at = receive.as_ptr();
        drop(buffers);
        assert_eq!(spare(), 1);
        let (mut buffers, used) = Buffers::take().unwrap();
        assert_eq!((buffers.halves().0.as_ptr(), spare()), (at, 0));
        used.set(LIGHT + 1);
        drop(buffers);
        assert_eq!(spare(), 0, "it may hold much memory");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let taken: Vec<_> = (0..SPARE_MAX + 5).map(|_| Buffers::take().unwrap()).collect();
        drop(taken);
        assert_eq!(spare(), SPARE_MAX);
    }
}
