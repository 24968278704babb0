//! The signed policy of this host: which one is in force, and what it takes to be another one.

use super::{carrier::Said, stage::Stage};
use crate::{
    admin::{HostPolicy, Kept, Reach, Running},
    bundles::{
        Store, Trust,
        store::{KEPT_MAX, Opened},
    },
};
use ripstop_config::{AgentConfig, FabricName, HostName, PolicyVersion};
use ripstop_datapath::session::policies::Policies;
use ripstop_policy::{Bundle, BundleId, Policy};
use ripstop_telemetry::instruments;
use ripstop_transport::{PeerState, PeerStatus};
use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long from a question for them all hosts stay connected.
const WATCHED: Duration = Duration::from_secs(10);

/// What an agent whose policy is signed has of it.
pub(super) struct Signed {
    trust_file: PathBuf,
    trust: Mutex<Trust>,
    store: Mutex<Store>,
    /// In force.
    bundle: Mutex<Option<Bundle>>,
    /// Which one that is, for who waits for another.
    newest: watch::Sender<BundleId>,
    /// What other hosts have.
    pub(super) policies: Arc<Policies>,
    /// What is staged.
    pub(super) stage: Stage,
    /// Until when all hosts are connected to be asked.
    watched: Mutex<Option<Instant>>,
}

/// Why a policy is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Operators who are limited to tenants made it to replace another one, which this host has to have first.
    #[error("it replaces policy {0}, which this host does not have: it must be held against that one")]
    Needs(BundleId),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// What an agent starts with.
pub(super) struct Start {
    pub(super) signed: Signed,
    pub(super) policy: Policy,
    /// What is wrong with what was kept.
    pub(super) damage: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Signed {
    /// Reads operators and kept policies. Without one that can be used, the policy is empty: everything is denied, until
    /// another host or an operator brings one. `locked` is the store's lock where another agent of this host has it.
    pub(super) fn start(
        config: &AgentConfig,
        trust_file: &Path,
        fabric: &FabricName,
        locked: Option<File>,
    ) -> anyhow::Result<Start> {
        let trust = Trust::load(trust_file, fabric)?;
        let Opened { store, bundle, mut damage } = Store::open_with(&config.state, &trust, locked)?;
        let compiled = bundle.map(|bundle| bundle.compile().map(|policy| (bundle, policy)));
        let (bundle, policy) = match compiled {
            Some(Ok((bundle, policy))) => (Some(bundle), policy),
            None => (None, Policy::empty(fabric.clone())?),
            Some(Err(why)) => {
                damage = Some(format!("the kept policy cannot be used by this version of ripstop: {why}"));
                (None, Policy::empty(fabric.clone())?)
            }
        };
        let signed = Self {
            trust_file: trust_file.into(),
            trust: Mutex::new(trust),
            store: Mutex::new(store),
            newest: watch::Sender::new(bundle.as_ref().map(Bundle::id).unwrap_or_default()),
            bundle: Mutex::new(bundle),
            policies: Arc::default(),
            stage: Stage::default(),
            watched: Mutex::default(),
        };
        Ok(Start { signed, policy, damage })
    }

    /// The policy in force.
    pub(super) fn bundle(&self) -> Option<Bundle> {
        lock(&self.bundle).clone()
    }

    /// Whether a policy is newer than what this host has had.
    pub(super) fn takes(&self, id: BundleId) -> bool {
        lock(&self.store).takes(id)
    }

    /// Whether a host last named a policy that this host would take.
    pub(super) fn still_wants(&self, host: &HostName) -> bool {
        self.policies.heard().get(host).is_some_and(|id| self.takes(*id))
    }

    /// Reads the operators again; those that are trusted from now on sign the next policy. The one in force stays.
    pub(super) fn reload_trust(&self) -> anyhow::Result<()> {
        let fabric = lock(&self.trust).fabric.clone();
        let trust = Trust::load(&self.trust_file, &fabric)?;
        *lock(&self.trust) = trust;
        Ok(())
    }

    /// Verifies a bundle that is newer than what this host has had, and that its signers may change what it changes; `None`
    /// when it is the one in force.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<Option<Bundle>, Refusal> {
        // Not while it is locked, as a large one takes a while.
        let trust = lock(&self.trust).clone();
        let bundle = trust.open(bytes).map_err(|error| {
            instruments::bundle_refused();
            Refusal::Other(error.to_string())
        })?;
        if self.bundle().is_some_and(|own| own.id() == bundle.id()) {
            return Ok(None);
        }
        if !self.takes(bundle.id()) {
            let floor = lock(&self.store).floor().unwrap_or_default();
            instruments::bundle_refused();
            return Err(Refusal::Other(not_newer(&bundle, self.bundle().as_ref(), floor)));
        }
        self.check_roles(&bundle, &trust)?;
        Ok(Some(bundle))
    }

    /// Verifies what an operator signed to be tried.
    pub(super) fn open_staged(&self, bytes: &[u8]) -> Result<Bundle, String> {
        let trust = lock(&self.trust).clone();
        trust.open_staged(bytes).map_err(|error| {
            instruments::bundle_refused();
            error.to_string()
        })
    }

    /// Holds a policy of operators who are limited to tenants against the one that it replaces.
    fn check_roles(&self, bundle: &Bundle, trust: &Trust) -> Result<(), Refusal> {
        // One that was taken before, and lost, was held against what it replaced then.
        let again = lock(&self.store).floor() == Some(bundle.id());
        if again || bundle.is_unlimited(&trust.operators) {
            return Ok(());
        }
        let own = self.bundle();
        let replaced = self.replaced_by(bundle, own.as_ref(), trust);
        let Err(why) = bundle.check_roles(replaced.as_ref().or(own.as_ref()), &trust.operators) else {
            return self.check_run(trust);
        };
        match bundle.before().filter(|before| own.is_none_or(|own| *before > own.id())) {
            Some(before) => Err(Refusal::Needs(before)),
            None => {
                instruments::bundle_refused();
                Err(Refusal::Other(why.to_string()))
            }
        }
    }

    /// Of two policies that limited operators made at once, both to replace the same one, the greater wins: it is held
    /// against that one, as the smaller would have it that nobody takes it. What unlimited operators signed is
    /// replaced by no such policy of the same version.
    fn replaced_by(&self, bundle: &Bundle, own: Option<&Bundle>, trust: &Trust) -> Option<Bundle> {
        let own = own.filter(|own| !own.is_unlimited(&trust.operators))?;
        let same = own.version() == bundle.version() && own.before() == bundle.before();
        let before = bundle.before().filter(|_| same)?;
        lock(&self.store).read(before, trust).ok()
    }

    /// Hosts that were away are brought up policy by policy, from what others keep: so not all that is kept may be of limited
    /// operators.
    fn check_run(&self, trust: &Trust) -> Result<(), Refusal> {
        let run = lock(&self.store).limited_run(trust);
        if run + 1 < KEPT_MAX {
            return Ok(());
        }
        Err(Refusal::Other(format!(
            "the last {run} policies were signed by operators who are limited to tenants: one who is not must sign the next, so \
             that hosts which were away can follow"
        )))
    }

    /// A policy that is kept, for a host that has to go through it.
    pub(super) fn kept(&self, id: BundleId) -> Option<Bundle> {
        let trust = lock(&self.trust).clone();
        lock(&self.store).read(id, &trust).ok()
    }

    /// Keeps a verified bundle on disk: nothing older is taken any more.
    pub(super) fn keep(&self, bundle: &Bundle) -> Result<(), String> {
        lock(&self.store).keep(bundle).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    }

    /// The store's lock, for another agent of this host.
    pub(super) fn lock_file(&self) -> Result<File, String> {
        lock(&self.store).lock().map_err(|error| error.to_string())
    }

    /// The newest bundle on disk, as another agent of this host put it there.
    pub(super) fn newest(&self) -> Result<Bundle, String> {
        let trust = lock(&self.trust).clone();
        lock(&self.store).newest(&trust)
    }

    /// Notes which bundle is in force.
    pub(super) fn in_force(&self, bundle: Bundle) {
        let mut in_force = lock(&self.bundle);
        if let Some(lost) = in_force.as_ref().filter(|own| own.version() == bundle.version() && own.id() != bundle.id())
        {
            tracing::warn!(
                lost = %lost.id(),
                by = ?lost.signers(),
                "two operators applied a policy at the same time, and this one is not in force any more; `ripstop history --graph` \
                 prints what runs, to apply what is lost on top of it"
            );
        }
        let id = bundle.id();
        *in_force = Some(bundle);
        drop(in_force);
        self.newest.send_replace(id);
    }

    /// Tells each time that another one is in force.
    #[cfg(feature = "etcd")]
    pub(super) fn follow(&self) -> watch::Receiver<BundleId> {
        self.newest.subscribe()
    }

    /// The policy of a version, or the one in force, with what the next one must be newer than.
    pub(super) fn running(&self, version: Option<PolicyVersion>) -> Result<Running, String> {
        let trust = lock(&self.trust).clone();
        let store = lock(&self.store);
        let bundle = match version {
            Some(version) => Some(store.version(version, &trust)?),
            None => self.bundle(),
        };
        Ok(Running {
            fabric: trust.fabric,
            floor: store.floor(),
            id: bundle.as_ref().map(Bundle::id),
            next_stage: self.next_stage(),
            content: bundle.map(|bundle| bundle.content().clone()),
        })
    }

    /// Greater than the number of whatever is on stage, here or elsewhere.
    fn next_stage(&self) -> u64 {
        let heard = self.policies.stages().into_values().map(|id| id.number);
        heard.chain([self.stage.id().number]).max().unwrap_or(0).saturating_add(1)
    }

    /// What is kept, newest first.
    pub(super) fn history(&self) -> Result<Vec<Kept>, String> {
        let trust = lock(&self.trust).clone();
        let in_force = self.bundle().map(|bundle| bundle.id());
        let store = lock(&self.store);
        let kept = store.kept().map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        let all = kept.clone();
        let one = |id: BundleId| {
            let mut kept = Kept {
                id,
                in_force: in_force == Some(id),
                made: String::new(),
                note: String::new(),
                signers: Vec::new(),
                lost: all.iter().any(|other| other.version == id.version && *other > id),
                damage: None,
            };
            match store.read(id, &trust) {
                Ok(bundle) => {
                    (kept.made, kept.note) = (bundle.content().made.clone(), bundle.content().note.clone());
                    kept.signers = bundle.signers().iter().cloned().collect();
                }
                Err(why) => kept.damage = Some(why),
            }
            kept
        };
        Ok(kept.into_iter().rev().map(one).collect())
    }

    /// Has all hosts be connected to for a while; true when they were not.
    pub(super) fn watch(&self, now: Instant) -> bool {
        lock(&self.watched).replace(now + WATCHED).is_none()
    }

    /// Whether all hosts are to be connected to.
    pub(super) fn is_watched(&self) -> bool {
        lock(&self.watched).is_some()
    }

    /// True when the time for that has just ended.
    pub(super) fn unwatch(&self, now: Instant) -> bool {
        lock(&self.watched).take_if(|until| now >= *until).is_some()
    }

    /// Which policy each other host of the graph runs, as it says itself: by a connection, or signed, by a carrier.
    pub(super) fn hosts(
        &self,
        policy: &Policy,
        own: &HostName,
        peers: Vec<PeerStatus>,
        said: &Said,
    ) -> Vec<HostPolicy> {
        let states: BTreeMap<HostName, PeerState> = peers.into_iter().map(|peer| (peer.host, peer.state)).collect();
        let heard = self.policies.heard();
        let shut_out = &policy.revoked().hosts;
        let others = policy.graph().hosts.iter().filter(|(host, _)| *host != own && !shut_out.contains(*host));
        let one = |(host, entry): (&HostName, &ripstop_config::graph::Host)| {
            let reach = match (states.get(host), said.of(host), entry.address) {
                (Some(PeerState::Up), ..) => Reach::Up,
                (_, Some(_), _) => Reach::Carried,
                (Some(PeerState::Silent | PeerState::Down { .. }), None, _) => Reach::Down,
                (Some(PeerState::Connecting), None, _) => Reach::Connecting,
                (None, None, _) if said.is_awaited() => Reach::Connecting,
                (None, None, _) if said.is_known() => Reach::Down,
                (None, None, Some(_)) => Reach::Connecting,
                (None, None, None) => Reach::Unknown,
            };
            let policy = match reach {
                Reach::Up => heard.get(host).copied(),
                Reach::Carried => said.of(host),
                Reach::Connecting | Reach::Down | Reach::Unknown => None,
            };
            HostPolicy { host: host.clone(), reach, policy: policy.filter(|id| !id.is_unsigned()) }
        };
        others.map(one).collect()
    }
}

/// Why a policy comes too late: somebody else's was first, or it is old.
fn not_newer(bundle: &Bundle, own: Option<&Bundle>, floor: BundleId) -> String {
    let (id, before) = (bundle.id(), bundle.before());
    match own.filter(|own| before.is_some_and(|before| before != own.id()) && own.version() == bundle.version()) {
        Some(own) => format!(
            "policy {id} was made to replace {}, and somebody applied {} meanwhile: nothing has changed. `ripstop history --graph {}` \
             prints the graph that runs; bring what they changed into your file, and apply it again",
            before.unwrap_or_default(),
            own.id(),
            own.version()
        ),
        None => format!("policy {id} is not newer than {floor}, which this host has had"),
    }
}
