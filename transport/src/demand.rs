//! What the streams of a connection want of the path, as far as can be told from outside of quinn.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Counts writers that wait, and writes.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    waiting: AtomicUsize,
    written: AtomicU64,
}

impl Demand {
    /// Streams that have more to send than quinn takes: the path is the limit, or the receiver.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Writes so far. While it stands still, streams have nothing new to send.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Does a write, and counts it as waiting while it waits.
    pub(crate) async fn of<T>(&self, write: impl Future<Output = T>) -> T {
        let (mut write, mut waiting) = (pin!(write), None);
        let done = std::future::poll_fn(|cx| {
            let polled = write.as_mut().poll(cx);
            if polled.is_pending() && waiting.is_none() {
                waiting = Some(self.wait());
            }
            polled
        })
        .await;
        self.written.fetch_add(1, Ordering::Relaxed);
        done
    }

    /// Counts one stream as waiting until the guard is dropped.
    pub(crate) fn wait(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Wait(self)
    }
}

/// A stream that waits for the path.
#[derive(Debug)]
pub(crate) struct Wait<'a>(&'a Demand);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_write_waits_only_while_it_does() {
        let demand = Demand::default();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(demand.of(std::future::ready(()))).poll(&mut cx).is_ready());
        assert_eq!((demand.waiting(), demand.written()), (0, 1));
        let mut given_up = Box::pin(demand.of(std::future::pending::<()>()));
        assert_eq!(given_up.as_mut().poll(&mut cx), Poll::Pending);
        assert_eq!(given_up.as_mut().poll(&mut cx), Poll::Pending);
        assert_eq!(demand.waiting(), 1);
        drop(given_up);
        assert_eq!((demand.waiting(), demand.written()), (0, 1));
    }
}
