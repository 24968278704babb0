//! A client of etcd, version 3.4 and later, by its JSON gateway (`/v3/…`): the few requests that a carrier of policies takes,
//! over HTTP/1.1 and TLS 1.3, with libraries that are here anyway. etcd's own protocol would bring another HTTP, a code
//! generator and its compiler.
//!
//! Nothing that an etcd says is believed for its own sake: every answer has a limit of bytes and of time, and what
//! its values mean is for the caller to verify. A client is of one member; any error ends it, and the caller connects
//! again, to this member or to another.

mod member;
mod watch;
mod wire;

pub use watch::Watch;

use crate::http::HttpError;
use member::Member;
use ripstop_config::agent;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use wire::{
    Compare, Created, Deleted, Granted, Kept, KeyValue, LeaseAsk, Operation, Put, RangeAsk, Ranged, Streamed, Text,
    TransactionAsk,
};

/// Longest value, in bytes: etcd takes requests of 1.5 MiB unless told otherwise, and its gateway a third more as text.
pub const VALUE_MAX: usize = 1 << 20;
/// Longest wait for a connection with its handshakes and the login, and for an answer: etcd itself gives up a write
/// after some seconds without a majority of its members.
pub const WAIT: Duration = Duration::from_secs(3);
/// Bytes of an answer besides its values: header, keys, revisions.
const ANSWER_REST: usize = 64 << 10;
/// Bytes of an entry besides its value: its key, and revisions.
const ENTRY_REST: usize = 1 << 10;

/// Why an etcd is of no use at the moment. No secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No connection, or none any more; or a file or a name of the settings cannot be used.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It did not answer in time.
    #[error("no answer from {0} within {WAIT:?}: is it running, with a majority of its members?")]
    Silent(SocketAddr),
    /// The password is no text.
    #[error("{0} is no text of one line")]
    Password(PathBuf),
    /// It refuses; the text is its own.
    #[error("it refuses ({status}): {message}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// More bytes than any answer has.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    /// Not an answer.
    #[error("its answer is not understood: {0}")]
    Malformed(String),
    /// It does not know the lease any more.
    #[error("the lease has expired")]
    LeaseExpired,
    /// The watch ended.
    #[error("the watch has ended")]
    WatchEnded,
}

/// A lease: what is put with it goes when it is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease(String);

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key; one that is not text is left out of every answer.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

/// What is below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries with the greatest keys, those first.
    pub entries: Vec<Entry>,
    /// The state of etcd that this is of.
    pub revision: i64,
}

/// A connection to one member of an etcd.
#[derive(Debug)]
pub struct Client {
    member: Member,
}

impl Client {
    /// Connects to a member, and logs in where the settings say so. Files are read anew each time, as they are replaced.
    ///
    /// # Errors
    /// [`EtcdError`], within [`WAIT`].
    pub async fn connect(settings: &agent::Etcd, endpoint: SocketAddr) -> Result<Self, EtcdError> {
        let connection = tokio::time::timeout(WAIT, Member::open(settings, endpoint)).await;
        Ok(Self { member: connection.map_err(|_| EtcdError::Silent(endpoint))?? })
    }

    /// The greatest keys below a prefix, and smaller than `before` if that is given: at most `limit` of them, with values of
    /// `value_max` bytes together.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn list(
        &mut self,
        prefix: &str,
        before: Option<&str>,
        limit: u32,
        value_max: usize,
    ) -> Result<Listing, EtcdError> {
        let end = before.map_or_else(|| after(prefix), |before| before.as_bytes().to_vec());
        let (key, end) = (Text(prefix.into()), Text(end));
        let ask = RangeAsk { key, range_end: Some(end), limit, sort_order: Some("DESCEND"), sort_target: Some("KEY") };
        let most = value_max.saturating_mul(2) + ANSWER_REST + (limit as usize).saturating_mul(ENTRY_REST);
        let answer: Ranged = self.member.post("/v3/kv/range", &ask, most).await?;
        let entries = answer.kvs.into_iter().filter_map(KeyValue::entry).collect();
        Ok(Listing { entries, revision: answer.header.revision })
    }

    /// The value of a key; none when there is no such key.
    ///
    /// # Errors
    /// [`EtcdError`]; [`EtcdError::TooLong`] for a value of more than [`VALUE_MAX`] bytes.
    pub async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, EtcdError> {
        let ask = RangeAsk { key: Text(key.into()), range_end: None, limit: 1, sort_order: None, sort_target: None };
        // As text in base64 (RFC 4648 section 4) it is a third longer.
        let most = VALUE_MAX / 3 * 4 + ANSWER_REST;
        let answer: Ranged = self.member.post("/v3/kv/range", &ask, most).await?;
        Ok(answer.kvs.into_iter().next().map(|found| found.value.0))
    }

    /// Puts a value, which goes with the lease if there is one.
    ///
    /// # Errors
    /// [`EtcdError`]; among others when this host's user may not write there.
    pub async fn put(&mut self, key: &str, value: &[u8], lease: Option<&Lease>) -> Result<(), EtcdError> {
        let _: wire::Done = self.member.post("/v3/kv/put", &put(key, value, lease), ANSWER_REST).await?;
        Ok(())
    }

    /// Puts a value if there is none; whether that was so.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn create(&mut self, key: &str, value: &[u8], lease: Option<&Lease>) -> Result<bool, EtcdError> {
        let compare = Compare { key: Text(key.into()), target: "CREATE", result: "EQUAL", create_revision: "0" };
        let success = Operation { request_put: put(key, value, lease) };
        let ask = TransactionAsk { compare: [compare], success: [success] };
        let answer: Created = self.member.post("/v3/kv/txn", &ask, ANSWER_REST).await?;
        Ok(answer.succeeded)
    }

    /// Deletes all that is below a prefix; how many keys that were.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&mut self, prefix: &str) -> Result<u64, EtcdError> {
        let ask = wire::DeleteAsk { key: Text(prefix.into()), range_end: Text(after(prefix)) };
        let answer: Deleted = self.member.post("/v3/kv/deleterange", &ask, ANSWER_REST).await?;
        Ok(answer.deleted)
    }

    /// Takes a lease that expires when it is not kept for so long, in whole seconds.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn lease(&mut self, lasting: Duration) -> Result<Lease, EtcdError> {
        let ask = wire::GrantAsk { ttl: lasting.as_secs().to_string() };
        let answer: Granted = self.member.post("/v3/lease/grant", &ask, ANSWER_REST).await?;
        Ok(Lease(answer.id))
    }

    /// Keeps a lease from expiring.
    ///
    /// # Errors
    /// [`EtcdError::LeaseExpired`] when it has, and others.
    pub async fn keep(&mut self, lease: &Lease) -> Result<(), EtcdError> {
        let ask = LeaseAsk { id: &lease.0 };
        let answer: Streamed<Kept> = self.member.post("/v3/lease/keepalive", &ask, ANSWER_REST).await?;
        match answer.into_result()?.ttl {
            1.. => Ok(()),
            _ => Err(EtcdError::LeaseExpired),
        }
    }

    /// Follows the keys below a prefix, of what comes after a revision. It takes the connection.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn watch(self, prefix: &str, after_revision: i64) -> Result<Watch, EtcdError> {
        let (key, range_end) = (Text(prefix.into()), Text(after(prefix)));
        let start_revision = after_revision.saturating_add(1).to_string();
        let create_request = wire::WatchCreate { key, range_end, start_revision };
        Watch::open(self.member, &wire::WatchAsk { create_request }).await
    }
}

fn put(key: &str, value: &[u8], lease: Option<&Lease>) -> Put {
    Put { key: Text(key.into()), value: Text(value.into()), lease: lease.map(|lease| lease.0.clone()) }
}

/// The first key that does not begin with a prefix. A prefix is text, so that its last byte is not the greatest.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}
