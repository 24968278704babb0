//! etcd as the carrier: the same signed policies, and hosts' signed records, for fleets beyond what hosts spread among
//! themselves. It is only a carrier: what comes from it is taken as what comes from another host is, so that it can keep a
//! policy back, but neither forge one nor bring an old one back. When it is gone, the policy in force stays.
//!
//! 1. Connect to a member, list the policies and watch them, and take a lease. Any error ends this; after a pause the next
//!    member is tried.
//! 2. A newer policy that is listed is got, verified, kept and in force. One that is not taken rests ([`rests`]).
//! 3. A policy of this host's that is newer than all there is put there, by one host that has claimed it.
//! 4. This host's record is put there when it changes, with the lease, so that it goes when the host does. Others' are read
//!    while somebody asks what hosts run; those of hosts that workloads here may call and that are not connected, now and then.

mod keys;
mod policies;
mod records;
mod rests;

use crate::fabric::{shared::Shared, signed::Signed};
use bytes::Bytes;
use keys::Keys;
use records::Others;
use rests::Rests;
use ripstop_config::agent;
use ripstop_policy::BundleId;
use ripstop_transport::etcd::{Client, EtcdError, Lease, Watch};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::sleep_until};

/// Pause before the next member is tried; as much is added by chance, so that an etcd that is back is not overrun.
const PAUSE: Duration = Duration::from_millis(500);
/// How long this host's record and claims outlive its last sign of life.
const LEASE: Duration = Duration::from_secs(15);
/// How often the lease is kept, which also shows whether the member answers; and the policies are listed, whatever the watch
/// says.
const KEEP: Duration = Duration::from_secs(4);
/// How often others' records are read while somebody asks.
const READ: Duration = Duration::from_millis(250);
/// How often those of hosts are read that are not connected, and called: usually there is none.
const FOLLOW: Duration = Duration::from_secs(3);

/// Carries policies by etcd for as long as it runs.
pub(super) async fn carry(shared: &Arc<Shared>, settings: &agent::Etcd) {
    let Some(signed) = shared.signed() else { return };
    let keys = Keys::new(&settings.prefix, shared.data().transport().identity().fabric());
    let (rests, others) = (Rests::default(), Others::default());
    let mut carrier = Carrier { shared, signed, settings, keys: &keys, rests, others };
    for endpoint in settings.endpoints.iter().cycle() {
        let Err(error) = carrier.serve(*endpoint).await;
        shared.carried.lost(*endpoint, &format!("{:#}", anyhow::Error::new(error)));
        let chance = ripstop_datapath::session::context::random() % 1_000;
        tokio::time::sleep(PAUSE + PAUSE.mul_f64(f64::from(u32::try_from(chance).unwrap_or(0)) / 1_000.0)).await;
    }
}

struct Carrier<'c> {
    shared: &'c Arc<Shared>,
    signed: &'c Signed,
    settings: &'c agent::Etcd,
    keys: &'c Keys,
    rests: Rests,
    others: Others,
}

/// What there is of one connection to a member.
struct Session {
    client: Client,
    endpoint: SocketAddr,
    lease: Lease,
    watch: Watch,
    /// This host's newest policy, each time that it is another.
    newest: watch::Receiver<BundleId>,
    /// What this host says of itself, signed.
    record: watch::Receiver<Bytes>,
    /// When others are followed next.
    follow: Instant,
}

/// Why to look.
enum Event {
    /// The policies there have changed, or this host's, or it is time.
    Policies,
    /// It is time to say that this host lives.
    Keep,
    /// This host says something else of itself.
    Record,
    /// It is time to look for hosts that are not connected.
    Follow,
    /// Somebody wants to know what others say.
    Asked,
}

impl Carrier<'_> {
    /// Works with one member until that fails.
    async fn serve(&mut self, endpoint: SocketAddr) -> Result<Infallible, EtcdError> {
        let mut session = self.begin(endpoint).await?;
        self.shared.carried.answered(endpoint);
        self.look(&mut session).await?;
        let (mut keep, mut read) = (Instant::now() + KEEP, Instant::now());
        loop {
            match self.event(&mut session, keep, read).await? {
                Event::Policies => self.look(&mut session).await?,
                Event::Keep => {
                    session.client.keep(&session.lease).await?;
                    self.look(&mut session).await?;
                    keep = Instant::now() + KEEP;
                }
                Event::Record => self.tell(&mut session).await?,
                Event::Follow => {
                    self.follow(&mut session).await?;
                    session.follow = Instant::now() + FOLLOW;
                }
                Event::Asked => {
                    self.others.read(self.shared, self.keys, &mut session.client).await?;
                    read = Instant::now() + READ;
                }
            }
            self.shared.carried.answered(session.endpoint);
        }
    }

    async fn begin(&self, endpoint: SocketAddr) -> Result<Session, EtcdError> {
        let mut client = Client::connect(self.settings, endpoint).await?;
        let revision = client.list(&self.keys.policies(), None, 1, policies::VALUES_MAX).await?.revision;
        let watching = Client::connect(self.settings, endpoint).await?;
        let watch = watching.watch(&self.keys.policies(), revision).await?;
        let lease = client.lease(LEASE).await?;
        let newest = self.signed.follow();
        let mut record = self.shared.own_record.subscribe();
        record.mark_changed();
        Ok(Session { client, endpoint, lease, watch, newest, record, follow: Instant::now() })
    }

    async fn event(&self, session: &mut Session, keep: Instant, read: Instant) -> Result<Event, EtcdError> {
        let now = Instant::now();
        let again = self.rests.over(now).unwrap_or(keep);
        let read = if self.shared.carried.is_asked(now) { read } else { keep };
        let follow = session.follow;
        let due = keep.min(again).min(read).min(follow);
        let event = tokio::select! {
            changed = session.watch.changed() => changed.map(|()| Event::Policies)?,
            Ok(()) = session.newest.changed() => Event::Policies,
            Ok(()) = session.record.changed() => Event::Record,
            () = self.shared.carried.asked(), if now >= read => Event::Asked,
            () = sleep_until(due.into()) => {
                let now = Instant::now();
                match () {
                    () if now >= keep => Event::Keep,
                    () if now >= again => Event::Policies,
                    () if now >= read => Event::Asked,
                    () => Event::Follow,
                }
            }
        };
        Ok(event)
    }
}
