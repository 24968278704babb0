//! The way to the data threads, for the control thread: what is asked of all of them, or of the first, and what they answer as one.

use super::{Attached, Command, Drained, HandedOver, Heard, Inspection, STOP_MAX};
use crate::{admin::DataThread, fabric::relay::Part};
use ripstop_config::{HostName, ServiceId};
use ripstop_datapath::{
    capture::Begun,
    interface::{InterfaceId, Owner},
    session::{
        captures::Capture,
        context::Stats,
        endpoints::Standing,
        lanes::{Lanes, lane},
        observe::{Attempt, Candidate, Staged},
        voice::{Standings, Wish},
    },
};
use ripstop_kernel::Tun;
use ripstop_policy::{Policy, StageId};
use ripstop_transport::{Identity, PeerState, RenewError, Revoked, Transport};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Sessions shown at once to a person.
pub(in crate::fabric) const SHOWN_MAX: usize = 10_000;
/// How long the control thread waits for a data thread to describe itself.
const INSPECT_MAX: Duration = Duration::from_secs(1);
/// How long a data thread may take to come to an interface, on a host that is out of processors.
const TAKEN_MAX: Duration = Duration::from_secs(10);

/// The way to the data threads.
#[derive(Clone)]
pub(in crate::fabric) struct DataHandle {
    threads: Arc<[Thread]>,
    /// How many data threads other hosts have.
    lanes: Arc<Lanes>,
    stats: Arc<Stats>,
    gone: Arc<tokio::sync::Mutex<mpsc::Receiver<InterfaceId>>>,
}

/// One of them.
pub(super) struct Thread {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) transport: Transport,
}

/// The data threads, to be stopped once.
pub(in crate::fabric) struct Data {
    handle: DataHandle,
    ended: Vec<oneshot::Receiver<()>>,
}

impl Thread {
    fn send(&self, command: Command) -> Result<(), String> {
        self.commands.try_send(command).map_err(|_| SILENT.into())
    }
}

const SILENT: &str = "a data thread does not answer";

/// What blocking questions are answered by.
type Answer<T> = std_mpsc::SyncSender<T>;

fn heard<T>(answer: &std_mpsc::Receiver<T>) -> Result<T, String> {
    answer.recv_timeout(INSPECT_MAX).map_err(|_| SILENT.into())
}

async fn listened<T>(answer: oneshot::Receiver<T>) -> Result<T, String> {
    within(INSPECT_MAX, answer).await
}

async fn within<T>(most: Duration, answer: oneshot::Receiver<T>) -> Result<T, String> {
    let answered = tokio::time::timeout(most, answer).await;
    answered.ok().and_then(Result::ok).ok_or_else(|| SILENT.into())
}

impl DataHandle {
    pub(super) fn new(
        threads: Vec<Thread>,
        lanes: Arc<Lanes>,
        stats: Arc<Stats>,
        gone: mpsc::Receiver<InterfaceId>,
    ) -> Self {
        Self { threads: threads.into(), lanes, stats, gone: Arc::new(tokio::sync::Mutex::new(gone)) }
    }

    /// How many there are.
    pub(in crate::fabric) fn threads(&self) -> u8 {
        u8::try_from(self.threads.len()).unwrap_or(u8::MAX)
    }

    fn first(&self) -> &Thread {
        &self.threads[0]
    }

    fn transports(&self) -> impl Iterator<Item = &Transport> {
        self.threads.iter().map(|thread| &thread.transport)
    }

    /// The first thread's, by which hosts are known and asked.
    pub(in crate::fabric) fn transport(&self) -> &Transport {
        &self.first().transport
    }

    /// Dials hosts, each data thread those that have one of its number.
    pub(in crate::fabric) fn set_peers(&self, peers: &BTreeMap<HostName, SocketAddr>) {
        for (number, transport) in (0..).zip(self.transports()) {
            transport.set_peers(self.lanes.of(number, peers));
        }
    }

    /// The hosts that each thread is connected with, and where those are.
    pub(in crate::fabric) fn connected(&self) -> Vec<BTreeMap<HostName, SocketAddr>> {
        let up = |state: &PeerState| matches!(state, PeerState::Up | PeerState::Silent);
        let of_one = |transport: &Transport| {
            let peers = transport.peers().into_iter().filter(|peer| up(&peer.state));
            peers.filter_map(|peer| Some((peer.host, peer.address?))).collect()
        };
        self.transports().map(of_one).collect()
    }

    /// Has each thread dial hosts until each was connected once: those that the same one of the agent before was connected with.
    pub(in crate::fabric) fn reconnect(&self, peers: Vec<BTreeMap<HostName, SocketAddr>>) {
        self.transports().zip(peers).for_each(|(transport, peers)| transport.reconnect(peers));
    }

    /// Says where hosts may be besides.
    pub(in crate::fabric) fn set_hints(&self, hints: &BTreeMap<HostName, Vec<SocketAddr>>) {
        for (number, transport) in (0..).zip(self.transports()) {
            let there = |places: &Vec<SocketAddr>| places.iter().filter_map(|place| lane(*place, number)).collect();
            transport.set_hints(hints.iter().map(|(host, places)| (host.clone(), there(places))).collect());
        }
    }

    /// Lets only these hosts connect.
    pub(in crate::fabric) fn retain_hosts(&self, hosts: &BTreeSet<HostName>) {
        self.lanes.retain(|host| hosts.contains(host));
        self.transports().for_each(|transport| transport.retain_hosts(hosts));
    }

    /// Shuts out what is revoked.
    pub(in crate::fabric) fn revoke(&self, revoked: &Revoked) {
        self.transports().for_each(|transport| transport.revoke(revoked.clone()));
    }

    /// Takes another certificate of this host.
    ///
    /// # Errors
    /// As [`Transport::renew`]: which is the same for all of them.
    pub(in crate::fabric) fn renew(&self, identity: &Identity) -> Result<(), RenewError> {
        self.transports().try_for_each(|transport| transport.renew(identity.clone()))
    }

    /// What each thread has, by how many sessions those are; nothing where there is one thread.
    pub(in crate::fabric) fn described(&self, sessions: &[u64]) -> Vec<DataThread> {
        if self.threads() == 1 {
            return Vec::new();
        }
        let described = self.transports().zip(sessions).map(|(transport, sessions)| {
            let (up, lost): (Vec<_>, Vec<_>) =
                transport.peers().into_iter().partition(|peer| peer.state == PeerState::Up);
            DataThread {
                port: transport.local_address().map_or(0, |address| address.port()),
                sessions: *sessions,
                hosts: up.len(),
                unreached: lost.into_iter().map(|peer| peer.host).filter(|host| self.transport().is_up(host)).collect(),
            }
        });
        described.collect()
    }

    /// Connections to other hosts, of all threads.
    pub(in crate::fabric) fn connections(&self) -> usize {
        self.transports().map(Transport::connections).sum()
    }

    /// Resolves when a host has said that it has another number of data threads, of which some here may be connected with.
    pub(in crate::fabric) async fn lanes_changed(&self) {
        match self.threads() {
            1 => std::future::pending().await,
            _ => self.lanes.news().await,
        }
    }

    pub(in crate::fabric) fn stats(&self) -> &Stats {
        &self.stats
    }

    fn send_all(&self, command: impl Fn() -> Command) -> Result<(), String> {
        self.threads.iter().try_for_each(|thread| thread.send(command()))
    }

    /// Puts a policy in force.
    pub(in crate::fabric) fn enforce(&self, policy: &Arc<Policy>) -> Result<(), String> {
        self.send_all(|| Command::Enforce(Arc::clone(policy)))
    }

    /// Has each thread take up its queue of an interface; the first one last, as from then on its endpoints take sessions.
    ///
    /// # Errors
    /// When one does not answer, for people.
    pub(in crate::fabric) async fn attach(
        &self,
        owner: &Owner,
        queues: Vec<(Tun, Option<Part>)>,
    ) -> Result<(), String> {
        for (thread, (tun, inherited)) in self.threads.iter().zip(queues).rev() {
            let (done, answer) = oneshot::channel();
            let attached = Attached { owner: owner.clone(), tun, inherited };
            let taken = match thread.send(Command::Attach { attached, done }) {
                Ok(()) => within(TAKEN_MAX, answer).await,
                silent => silent,
            };
            if taken.is_err() {
                let _ = self.detach(&owner.id).await;
                return taken;
            }
        }
        Ok(())
    }

    /// Lets go of an interface, whose workload has been told when this returns.
    ///
    /// # Errors
    /// When a thread does not answer, for people.
    pub(in crate::fabric) async fn detach(&self, id: &InterfaceId) -> Result<(), String> {
        let told = self.threads.iter().map(|thread| {
            let (done, answer) = oneshot::channel();
            thread.send(Command::Detach { id: id.clone(), done }).map(|()| answer)
        });
        for answer in told.collect::<Result<Vec<_>, _>>()? {
            within(TAKEN_MAX, answer).await?;
        }
        Ok(())
    }

    /// Resolves to an interface that has gone without being told to.
    pub(in crate::fabric) async fn interface_gone(&self) -> Option<InterfaceId> {
        self.gone.lock().await.recv().await
    }

    /// Resolves once every data thread has come to what is asked now, however long that takes; false when one is no more.
    pub(in crate::fabric) async fn is_alive(&self) -> bool {
        for thread in &*self.threads {
            let (reply, answer) = oneshot::channel();
            if thread.commands.send(Command::Alive { reply }).await.is_err() || answer.await.is_err() {
                return false;
            }
        }
        true
    }

    /// Asks the data threads about their sessions; what does not answer in time is left out.
    pub(in crate::fabric) fn inspect(&self, list: bool) -> Inspection {
        let answers = self.ask_all(|reply| Command::Inspect { list, reply });
        let mut inspection = Inspection::default();
        for one in answers {
            // The numbers of threads stay what they are.
            inspection.add(one.unwrap_or_else(|_| Inspection { per_thread: vec![0], ..Inspection::default() }));
        }
        inspection
    }

    /// What was denied and last seen within so long.
    pub(in crate::fabric) fn attempts(&self, within: Option<Duration>) -> Result<Vec<Attempt>, String> {
        self.ask(|reply| Command::Attempts { within, reply })
    }

    /// Tries a policy that is not in force, or none; other hosts are told which.
    pub(in crate::fabric) fn stage(&self, candidate: Option<Candidate>, id: StageId) -> Result<(), String> {
        self.first().send(Command::Stage { candidate, id })
    }

    /// Tells other hosts that there is news of others. It waits in vain only while the thread is stuck.
    pub(in crate::fabric) fn tell(&self) {
        let _ = self.first().send(Command::Tell);
    }

    /// What the staged policy would change, if there is one: each thread says which of its sessions it would cut.
    pub(in crate::fabric) fn staged(&self) -> Result<Option<Staged>, String> {
        let answers = self.ask_all(|reply| Command::Staged { reply });
        let mut staged: Option<Staged> = None;
        for answer in answers {
            match (&mut staged, answer?) {
                (Some(staged), Some(more)) => staged.would_cut += more.would_cut,
                (none, answer) => *none = none.take().or(answer),
            }
        }
        Ok(staged)
    }

    /// What who has an interface is here, without blocking.
    pub(in crate::fabric) async fn standings(&self, who: InterfaceId) -> Result<Standings, String> {
        let (reply, answer) = oneshot::channel();
        self.first().send(Command::Standings { who, reply })?;
        listened(answer).await
    }

    /// Has a workload's word of itself taken, without blocking.
    pub(in crate::fabric) async fn voice(
        &self,
        who: InterfaceId,
        service: Option<String>,
        wish: Wish,
    ) -> Result<Heard, String> {
        let (reply, answer) = oneshot::channel();
        self.first().send(Command::Voice { who, service, wish, reply })?;
        listened(answer).await
    }

    /// Has packets copied, without blocking: by whichever threads have what is asked for.
    pub(in crate::fabric) async fn capture(&self, capture: &Capture) -> Result<Begun, String> {
        let mut begun: Option<Result<Begun, String>> = None;
        // Whoever asked may go, or a thread be silent, when others copy already.
        let half = HalfBegun { data: self, id: Some(capture.id) };
        for thread in &*self.threads {
            let (reply, answer) = oneshot::channel();
            thread.send(Command::Capture { capture: capture.clone(), reply })?;
            begun = Some(match (begun, listened(answer).await?) {
                (Some(Ok(begun)), Ok(more)) => Ok(begun.and(more)),
                (Some(Ok(begun)), Err(_)) => Ok(begun),
                (Some(Err(_)) | None, answer) => answer,
            });
        }
        half.whole();
        begun.unwrap_or_else(|| Err(SILENT.into()))
    }

    /// Ends that, by its number.
    pub(in crate::fabric) fn end_capture(&self, id: u64) -> Result<(), String> {
        self.send_all(|| Command::EndCapture(id))
    }

    /// Drains endpoints of this host, or ends that; returns how they are.
    pub(in crate::fabric) fn drain(&self, service: Option<ServiceId>, draining: bool) -> Result<Vec<Standing>, String> {
        let drained: Drained = self.ask(|reply| Command::Drain { service, draining, reply })?;
        drained.map_err(|error| error.to_string())
    }

    /// Has every thread hand over what it has, by a way of packets each.
    pub(in crate::fabric) async fn hand_over(&self, ways: Vec<OwnedFd>) -> anyhow::Result<Vec<HandedOver>> {
        let mut handed = Vec::new();
        for (thread, packets) in self.threads.iter().zip(ways) {
            let (reply, answer) = oneshot::channel();
            thread.send(Command::HandOver { packets, reply }).map_err(anyhow::Error::msg)?;
            handed.push(answer.await.map_err(|_| anyhow::Error::msg(SILENT))??);
        }
        Ok(handed)
    }

    /// Undoes that.
    pub(in crate::fabric) fn take_back(&self) {
        let _ = self.send_all(|| Command::TakeBack);
    }

    /// The other agent has taken over.
    pub(in crate::fabric) fn only_drain(&self) {
        let _ = self.send_all(|| Command::OnlyDrain);
    }

    /// The agent before has ended.
    pub(in crate::fabric) fn outlive(&self) {
        let _ = self.send_all(|| Command::Outlive);
    }

    /// Asks the first thread, which knows what the threads share.
    fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, String> {
        let (reply, answer) = std_mpsc::sync_channel(1);
        self.first().send(command(reply))?;
        heard(&answer)
    }

    /// Asks all of them at once.
    fn ask_all<T>(&self, command: impl Fn(Answer<T>) -> Command) -> Vec<Result<T, String>> {
        let asked = self.threads.iter().map(|thread| {
            let (reply, answer) = std_mpsc::sync_channel(1);
            thread.send(command(reply)).map(|()| answer)
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|answer| answer.and_then(|answer| heard(&answer))).collect()
    }
}

/// A capture that some threads may have begun: unless all have, it is ended.
struct HalfBegun<'d> {
    data: &'d DataHandle,
    id: Option<u64>,
}

impl HalfBegun<'_> {
    fn whole(mut self) {
        self.id = None;
    }
}

impl Drop for HalfBegun<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id
            && let Err(error) = self.data.end_capture(id)
        {
            tracing::error!(%error, "packets may still be copied, though nobody takes them");
        }
    }
}

impl Inspection {
    fn add(&mut self, other: Self) {
        for (interface, sessions) in other.per_interface {
            *self.per_interface.entry(interface).or_default() += sessions;
        }
        self.per_thread.extend(other.per_thread);
        self.sessions.extend(other.sessions);
        self.sessions.truncate(SHOWN_MAX);
        self.services.extend(other.services);
        self.says.extend(other.says);
    }
}

impl Data {
    pub(super) fn new(handle: DataHandle, ended: Vec<oneshot::Receiver<()>>) -> Self {
        Self { handle, ended }
    }

    pub(in crate::fabric) fn handle(&self) -> DataHandle {
        self.handle.clone()
    }

    /// Ends every session and waits for the threads, for a bounded time.
    pub(in crate::fabric) async fn stop(self) {
        let _ = self.handle.send_all(|| Command::Stop);
        let all = async {
            for ended in self.ended {
                // Its end without a word is an end, too.
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(STOP_MAX * 2, all).await.is_err() {
            tracing::error!("the data threads did not stop in time");
        }
    }
}
