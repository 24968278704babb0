//! One rtnetlink conversation with a namespace.

use super::{
    Error,
    door::{Family, Site},
    tun,
};
use futures::{Stream, TryStreamExt};
use rtnetlink::Handle;
use std::{io, os::fd::OwnedFd, thread};

/// Runs `work` with a connection to the calling thread's namespace, on a thread and runtime of its own: callable from
/// anywhere, a runtime's worker included (which it blocks for some milliseconds).
pub(super) fn run<T: Send>(work: impl AsyncFnOnce(Handle) -> Result<T, Error> + Send) -> Result<T, Error> {
    run_at(&Site::Own, work)
}

/// The same with another namespace.
pub(super) fn run_at<T: Send>(
    site: &Site<'_>,
    work: impl AsyncFnOnce(Handle) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let socket = site.socket(Family::Route)?;
    let ran = thread::scope(|scope| scope.spawn(|| converse(socket, work)).join());
    ran.unwrap_or_else(|_| Err(Error::Thread("it panicked".to_owned())))
}

fn converse<T>(socket: OwnedFd, work: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> Result<T, Error> {
    let cannot_start = |error: io::Error| Error::Thread(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(cannot_start)?;
    runtime.block_on(async {
        let (connection, handle, _unsolicited) = rtnetlink::from_socket(tun::adopt_async(socket));
        let driver = tokio::spawn(connection);
        let done = work(handle).await;
        driver.abort();
        done
    })
}

/// Everything of one dump.
pub(super) async fn collect<T>(
    what: &str,
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, Error> {
    dump.try_collect().await.map_err(|error| Error::netlink(what, error))
}
