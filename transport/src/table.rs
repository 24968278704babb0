//! The table of peers: which connection carries new sessions to which host.

use crate::{
    code,
    leaf::CertificateId,
    link::{Dialled, HANDSHAKE_MAX, Link, describe, newcomer_wins},
    socket::Followed,
    status::{PeerState, PeerStatus},
};
use ripstop_config::HostName;
use rustls::RootCertStore;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::watch, task::AbortHandle};

/// Replaced connections of one host that may finish their sessions; of more, the oldest is closed.
const RETIRED_MAX: usize = 4;
/// After other CAs are trusted, a handshake that began before may still end for so long.
const TRUST_SETTLES: Duration = Duration::from_secs(2 * HANDSHAKE_MAX.as_secs());

/// Everything about one other host.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where the graph says it is; `None` for a host that only dialled us.
    address: Option<SocketAddr>,
    dialer: Option<AbortHandle>,
    dialling: bool,
    live: Option<Arc<Link>>,
    retired: Vec<Arc<Link>>,
    /// Why it is not up.
    why: String,
    since: SystemTime,
    /// Told at every change of the above.
    changed: watch::Sender<()>,
}

/// What `open` finds.
pub(crate) enum Found {
    Live(Arc<Link>),
    /// A dial is under way: look again after the next change.
    Wait(watch::Receiver<()>),
    Down(String),
}

/// Why an authenticated connection is not kept. The peer is told so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwanted {
    #[error("both hosts have the same name, {0}")]
    OwnName(HostName),
    #[error("the graph does not name the host {0}")]
    NotNamed(HostName),
    #[error("the host {0} is revoked")]
    RevokedHost(HostName),
    #[error("the certificate of the host {0} is revoked")]
    RevokedCertificate(HostName),
    #[error("no CA of the fabric vouches for the certificate of the host {0} any more")]
    NotVouched(HostName),
}

impl Unwanted {
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::OwnName(_) => code::IDENTITY,
            Self::NotNamed(_) => code::POLICY,
            Self::RevokedHost(_) | Self::RevokedCertificate(_) | Self::NotVouched(_) => code::REVOKED,
        }
    }
}

/// What the fabric's policy says is not to be trusted any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Hosts, whatever certificate they show.
    pub hosts: BTreeSet<HostName>,
    /// Certificates.
    pub certificates: BTreeSet<CertificateId>,
}

impl Revoked {
    fn check(&self, link: &Link) -> Result<(), Unwanted> {
        if self.hosts.contains(&link.host) {
            return Err(Unwanted::RevokedHost(link.host.clone()));
        }
        if self.certificates.contains(&link.certificate) {
            return Err(Unwanted::RevokedCertificate(link.host.clone()));
        }
        Ok(())
    }
}

fn vouched(link: &Link, roots: &RootCertStore) -> Result<(), Unwanted> {
    match link.is_vouched_by(roots) {
        true => Ok(()),
        false => Err(Unwanted::NotVouched(link.host.clone())),
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    peers: BTreeMap<HostName, Peer>,
    /// The hosts that may be connected; `None` while nothing was said of that.
    retained: Option<BTreeSet<HostName>>,
    revoked: Revoked,
    /// The CAs that are trusted since they were last others, and when that was; `None` while they are the first.
    trusted: Option<(Arc<RootCertStore>, Instant)>,
    /// Another agent of this host dials from now on.
    handed_over: bool,
    /// Where hosts may be besides.
    hints: BTreeMap<HostName, Vec<SocketAddr>>,
}

impl Peer {
    fn new() -> Self {
        Self {
            address: None,
            dialer: None,
            dialling: false,
            live: None,
            retired: Vec::new(),
            why: "not dialled yet".into(),
            since: SystemTime::now(),
            changed: watch::Sender::new(()),
        }
    }

    /// The connection, heard or not.
    fn live(&self) -> Option<&Arc<Link>> {
        self.live.as_ref().filter(|link| link.is_open())
    }

    /// The connection, if the host is heard on it.
    fn up(&self) -> Option<&Arc<Link>> {
        self.live().filter(|link| !link.is_silent())
    }

    fn go_live(&mut self, link: Arc<Link>, was_down: bool) {
        link.set_retired(false);
        if was_down {
            self.since = SystemTime::now();
        }
        self.live = Some(link);
    }

    fn retire(&mut self, link: Arc<Link>) {
        link.set_retired(true);
        self.retired.push(link);
        if self.retired.len() > RETIRED_MAX {
            self.retired.remove(0).close(code::LIMIT, "too many connections of one host");
        }
    }

    fn stop_dialling(&mut self) {
        self.address = None;
        self.dialling = false;
        if let Some(dialer) = self.dialer.take() {
            dialer.abort();
        }
    }

    fn state(&self) -> PeerState {
        match (self.live(), self.dialling) {
            (Some(live), _) if live.is_silent() => PeerState::Silent,
            (Some(_), _) => PeerState::Up,
            (None, true) => PeerState::Connecting,
            (None, false) => PeerState::Down { reason: self.why.clone() },
        }
    }
}

impl Table {
    fn peer(&mut self, host: &HostName) -> &mut Peer {
        self.peers.entry(host.clone()).or_insert_with(Peer::new)
    }

    /// The hosts that are dialled, and where.
    pub(crate) fn dialled(&self) -> BTreeMap<HostName, SocketAddr> {
        self.peers.iter().filter_map(|(host, peer)| Some((host.clone(), peer.address?))).collect()
    }

    /// Has a host dialled at an address by a task, in place of any other such task.
    pub(crate) fn dial(&mut self, host: &HostName, address: SocketAddr, dialer: AbortHandle) {
        let peer = self.peer(host);
        peer.stop_dialling();
        peer.address = Some(address);
        peer.dialer = Some(dialer);
        // Counts as under way from here on, so that a session opened right after waits for it.
        peer.dialling = peer.up().is_none();
        peer.changed.send_replace(());
    }

    /// Dials a host no more. What leads to it stays.
    pub(crate) fn dial_no_more(&mut self, host: &HostName) {
        let Some(peer) = self.peers.get_mut(host) else { return };
        peer.stop_dialling();
        peer.why = "it is not dialled any more".into();
        peer.changed.send_replace(());
        self.forget_if_gone(host);
    }

    /// Closes what leads to other hosts than these, and takes no more of it.
    pub(crate) fn retain(&mut self, hosts: &BTreeSet<HostName>) {
        let others: Vec<_> = self.peers.keys().filter(|host| !hosts.contains(*host)).cloned().collect();
        for host in others {
            self.cut_off(&host);
        }
        self.retained = Some(hosts.clone());
    }

    fn cut_off(&mut self, host: &HostName) {
        let Some(peer) = self.peers.get_mut(host) else { return };
        peer.stop_dialling();
        for link in peer.live.iter().chain(&peer.retired) {
            link.close(code::POLICY, &Unwanted::NotNamed(host.clone()).to_string());
        }
        peer.why = "the graph does not name it any more".into();
        peer.changed.send_replace(());
        self.forget_if_gone(host);
    }

    /// Closes what leads to hosts, or was made with certificates, that are revoked, and takes no more of it.
    pub(crate) fn revoke(&mut self, revoked: Revoked) {
        self.close_where(|link| revoked.check(link).err());
        self.revoked = revoked;
    }

    /// Closes what was made with certificates for which none of these CAs vouches, and takes no more of it.
    pub(crate) fn trust(&mut self, roots: Arc<RootCertStore>, now: Instant) {
        self.close_where(|link| vouched(link, &roots).err());
        self.trusted = Some((roots, now));
    }

    fn close_where(&mut self, unwanted: impl Fn(&Link) -> Option<Unwanted>) {
        for peer in self.peers.values_mut() {
            let links = peer.live.iter().chain(&peer.retired).filter(|link| link.is_open());
            let closed: Vec<_> = links.filter_map(|link| Some((Arc::clone(link), unwanted(link)?))).collect();
            for (link, why) in closed {
                link.close(why.code(), &why.to_string());
                peer.why = why.to_string();
                peer.changed.send_replace(());
            }
        }
    }

    /// Another agent of this host dials in this one's place, or does so no more.
    pub(crate) fn hand_over(&mut self, handed_over: bool) {
        self.handed_over = handed_over;
        if handed_over {
            self.peers.values_mut().for_each(Peer::stop_dialling);
        }
    }

    /// Whether another agent of this host dials.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Ends all dialling.
    pub(crate) fn stop(&mut self) {
        for peer in self.peers.values_mut() {
            peer.stop_dialling();
            peer.why = "this agent is stopping".into();
            peer.changed.send_replace(());
        }
    }

    /// While a host is up, a receiver of its next change.
    pub(crate) fn change_while_up(&self, host: &HostName) -> Option<watch::Receiver<()>> {
        self.peers.get(host).filter(|peer| peer.up().is_some()).map(|peer| peer.changed.subscribe())
    }

    pub(crate) fn is_up(&self, host: &HostName) -> bool {
        self.peers.get(host).is_some_and(|peer| peer.up().is_some())
    }

    pub(crate) fn find(&self, host: &HostName) -> Found {
        let Some(peer) = self.peers.get(host) else {
            return Found::Down("no such host is known here".into());
        };
        match (peer.live(), peer.dialling) {
            // Another endpoint is a better answer than a wait for a host that is most likely gone.
            (Some(link), _) if link.is_silent() => Found::Down("it is not heard any more".into()),
            (Some(link), _) => Found::Live(Arc::clone(link)),
            (None, true) => Found::Wait(peer.changed.subscribe()),
            (None, false) => Found::Down(peer.why.clone()),
        }
    }

    /// Says whether the host is to be dialled there: another thread may have had it dropped a moment ago.
    pub(crate) fn dial_started(&mut self, host: &HostName, address: SocketAddr) -> bool {
        let Some(peer) = self.dialled_at(host, address) else { return false };
        peer.dialling = true;
        peer.changed.send_replace(());
        true
    }

    pub(crate) fn dial_failed(&mut self, host: &HostName, address: SocketAddr, why: String) {
        let Some(peer) = self.dialled_at(host, address) else { return };
        peer.dialling = false;
        peer.why = why;
        peer.changed.send_replace(());
    }

    fn dialled_at(&mut self, host: &HostName, address: SocketAddr) -> Option<&mut Peer> {
        self.peers.get_mut(host).filter(|peer| peer.address == Some(address))
    }

    /// Takes in a new connection and settles which one carries new sessions; returns the one that does not any more.
    pub(crate) fn register(&mut self, own: &HostName, link: &Arc<Link>) -> Result<Option<Arc<Link>>, Unwanted> {
        if link.host == *own {
            return Err(Unwanted::OwnName(own.clone()));
        }
        if self.retained.as_ref().is_some_and(|hosts| !hosts.contains(&link.host)) {
            return Err(Unwanted::NotNamed(link.host.clone()));
        }
        self.revoked.check(link)?;
        // Those that begin later are verified with these CAs by the handshake.
        if let Some((roots, _)) = self.trusted.as_ref().filter(|(_, since)| since.elapsed() < TRUST_SETTLES) {
            vouched(link, roots)?;
        }
        let we_are_smaller = own < &link.host;
        let peer = self.peer(&link.host);
        if link.dialled == Dialled::ByUs {
            peer.dialling = false;
        }
        let (winner, loser) = match peer.live.take().filter(|live| live.is_open()) {
            None => (Arc::clone(link), None),
            // A silent one gives way whoever dialled; should it be heard again, its sessions finish.
            Some(live) if live.is_silent() || newcomer_wins(live.dialled, live.age(), link.dialled, we_are_smaller) => {
                (Arc::clone(link), Some(live))
            }
            Some(live) => (live, Some(Arc::clone(link))),
        };
        let was_down = loser.as_ref().is_none_or(|loser| loser.is_silent());
        peer.go_live(winner, was_down);
        if let Some(loser) = &loser {
            peer.retire(Arc::clone(loser));
        }
        peer.changed.send_replace(());
        Ok(loser)
    }

    /// The newest connection to the same host that is open beside this one, was made later, and carries no new sessions.
    pub(crate) fn newer(&self, link: &Link) -> Option<Arc<Link>> {
        let others = self.peers.get(&link.host)?.retired.iter();
        others.filter(|other| other.is_open() && other.age() < link.age()).min_by_key(|other| other.age()).cloned()
    }

    /// Has a connection that carries no new sessions carry them; returns the one that did.
    pub(crate) fn prefer(&mut self, link: &Arc<Link>) -> Option<Arc<Link>> {
        let peer = self.peers.get_mut(&link.host)?;
        let at = peer.retired.iter().position(|other| Arc::ptr_eq(other, link))?;
        let link = peer.retired.remove(at);
        let replaced = peer.live.take();
        peer.go_live(link, false);
        if let Some(replaced) = &replaced {
            peer.retire(Arc::clone(replaced));
        }
        peer.changed.send_replace(());
        replaced
    }

    /// Notes that the other end of a connection is not heard, or is heard again.
    pub(crate) fn fell_silent(&mut self, link: &Arc<Link>, silent: bool) {
        link.set_silent(silent);
        let Some(peer) = self.peers.get_mut(&link.host) else { return };
        if peer.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, link)) {
            peer.since = SystemTime::now();
        }
        peer.changed.send_replace(());
    }

    /// Takes out a connection that has ended; a replaced one that is still open takes its place.
    pub(crate) fn ended(&mut self, link: &Arc<Link>) {
        let Some(peer) = self.peers.get_mut(&link.host) else { return };
        peer.retired.retain(|other| !Arc::ptr_eq(other, link));
        if peer.live.take_if(|live| Arc::ptr_eq(live, link)).is_some() {
            let reason = link.connection.close_reason();
            peer.why = reason.as_ref().map_or_else(|| "closed".into(), describe);
            peer.since = SystemTime::now();
            if let Some(other) = peer.retired.pop_if(|other| other.is_open()) {
                peer.go_live(other, true);
            }
        }
        peer.changed.send_replace(());
        let host = link.host.clone();
        self.forget_if_gone(&host);
    }

    /// Closes a replaced connection, if the one that replaced it is up.
    pub(crate) fn close_replaced(&mut self, link: &Link) {
        if link.is_retired() && self.is_up(&link.host) {
            link.close(code::REPLACED, "another connection between the two hosts is used");
        }
    }

    /// Connections that are open, replaced ones included.
    pub(crate) fn connections(&self) -> usize {
        self.peers.values().flat_map(|peer| peer.live.iter().chain(&peer.retired)).filter(|link| link.is_open()).count()
    }

    pub(crate) fn set_hints(&mut self, hints: BTreeMap<HostName, Vec<SocketAddr>>) {
        self.hints = hints;
    }

    pub(crate) fn hints(&self, host: &HostName) -> Vec<SocketAddr> {
        self.hints.get(host).cloned().unwrap_or_default()
    }

    pub(crate) fn address_of(&self, host: &HostName) -> Option<SocketAddr> {
        self.peers.get(host)?.remote()
    }

    pub(crate) fn statuses(&self) -> Vec<PeerStatus> {
        self.peers.iter().map(|(host, peer)| peer.status(host)).collect()
    }

    /// A host that nobody dials and nothing leads to needs no entry: hosts that only dial us must not pile up.
    fn forget_if_gone(&mut self, host: &HostName) {
        if self
            .peers
            .get(host)
            .is_some_and(|peer| peer.address.is_none() && peer.live.is_none() && peer.retired.is_empty())
        {
            self.peers.remove(host);
        }
    }
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

impl Peer {
    /// Where it is seen on the connection to it.
    fn remote(&self) -> Option<SocketAddr> {
        let link = self.live()?;
        Some(canonical(link.followed.as_ref().map_or_else(|| link.connection.remote_address(), Followed::at)))
    }

    fn status(&self, host: &HostName) -> PeerStatus {
        let live = self.live();
        let path = live.map(|link| link.connection.stats().path).unwrap_or_default();
        let address = self.remote().or(self.address.map(canonical));
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        PeerStatus {
            host: host.clone(),
            address,
            state: self.state(),
            rtt: live.map(|_| path.rtt.as_secs_f64()),
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            mtu: live.map(|_| path.current_mtu),
            cipher: live.map(|link| link.cipher.to_owned()),
            since: since.as_secs_f64(),
        }
    }
}
