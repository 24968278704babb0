//! A watch: a line of JSON for each change, for as long as the connection lasts.

use super::{
    EtcdError, WAIT,
    member::{Member, malformed},
    wire::{Streamed, WatchAsk, Watched},
};
use crate::http::{Driver, HttpError};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// Longest line, in bytes. What is watched has small values; of larger ones the watch ends, and the keys are listed.
const LINE_MAX: usize = 1 << 20;

/// Changes of keys, as they come.
#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    _driver: Driver,
    /// What came of a line that has not ended.
    begun: Vec<u8>,
}

impl Watch {
    pub(super) async fn open(member: Member, ask: &WatchAsk) -> Result<Self, EtcdError> {
        let (body, driver) = member.stream("/v3/watch", ask).await?;
        let mut watch = Self { body, _driver: driver, begun: Vec::new() };
        let first = tokio::time::timeout(WAIT, watch.message()).await.map_err(|_| EtcdError::WatchEnded)??;
        if first.created && !first.canceled { Ok(watch) } else { Err(EtcdError::WatchEnded) }
    }

    /// Resolves when some of the keys have changed. May be dropped at any time.
    ///
    /// # Errors
    /// [`EtcdError`]: it has ended, also where etcd does not have the changes since its revision any more.
    pub async fn changed(&mut self) -> Result<(), EtcdError> {
        loop {
            let message = self.message().await?;
            if message.canceled {
                return Err(EtcdError::WatchEnded);
            }
            if !message.events.is_empty() {
                return Ok(());
            }
        }
    }

    async fn message(&mut self) -> Result<Watched, EtcdError> {
        loop {
            if let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.begun.drain(..=end).collect();
                let message: Streamed<Watched> = serde_json::from_slice(&line).map_err(malformed)?;
                return message.into_result();
            }
            if self.begun.len() > LINE_MAX {
                return Err(EtcdError::TooLong(LINE_MAX));
            }
            match self.body.frame().await {
                None => return Err(EtcdError::WatchEnded),
                Some(Err(error)) => return Err(HttpError::Broken(error).into()),
                Some(Ok(frame)) => self.begun.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }
}
