//! The data threads: QUIC, interfaces and sessions, each thread with a current-thread runtime of its own.
//!
//! Every thread has a queue of every interface and a QUIC transport of its own, and its sessions are no other's. The first one
//! does besides what is done once for the host: it checks endpoints, hears and tells how they are, and answers for what the threads share.

mod handle;
mod thread;

pub(super) use handle::{Data, DataHandle, SHOWN_MAX};
pub(super) use thread::start;

use super::relay::{Drained as ByHand, Part, Parts};
use crate::admin::{LiveSession, ServiceStatus};
use ripstop_config::ServiceId;
use ripstop_datapath::{
    capture::Begun,
    interface::{InterfaceId, Owner},
    session::{
        captures::Capture,
        endpoints::{DrainError, Standing},
        observe::{Attempt, Candidate, Staged},
        voice::{Standings, VoiceError, Wish},
    },
};
use ripstop_kernel::Tun;
use ripstop_policy::{Policy, StageId};
use std::{
    collections::HashMap,
    net::UdpSocket,
    os::fd::OwnedFd,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};
use tokio::sync::oneshot;

/// How long sessions and peers have to take notice when the agent stops.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Where one answer goes.
type Reply<T> = oneshot::Sender<T>;

/// What the control thread asks of a data thread.
pub(super) enum Command {
    /// Puts a policy in force.
    Enforce(Arc<Policy>),
    /// Takes up an interface, and says so.
    Attach { attached: Attached, done: oneshot::Sender<()> },
    /// Lets go of an interface, and says so once its workload has been told.
    Detach { id: InterfaceId, done: oneshot::Sender<()> },
    /// Says that the thread does what it is told.
    Alive { reply: oneshot::Sender<()> },
    /// Describes the open sessions.
    Inspect { list: bool, reply: std_mpsc::SyncSender<Inspection> },
    /// Has the endpoint of a service, or all of this host, take no new sessions, or take them again.
    Drain { service: Option<ServiceId>, draining: bool, reply: std_mpsc::SyncSender<Drained> },
    /// Lists what was denied and last seen within so long.
    Attempts { within: Option<Duration>, reply: std_mpsc::SyncSender<Vec<Attempt>> },
    /// Tries a policy that is not in force, or none; other hosts are told which.
    Stage { candidate: Option<Candidate>, id: StageId },
    /// Tells other hosts that there is news of others.
    Tell,
    /// Says what that would change.
    Staged { reply: std_mpsc::SyncSender<Option<Staged>> },
    /// Has packets copied.
    Capture { capture: Capture, reply: Reply<Result<Begun, String>> },
    /// Ends that, by its number.
    EndCapture(u64),
    /// Says what who has an interface is here.
    Standings { who: InterfaceId, reply: oneshot::Sender<Standings> },
    /// Takes the word of who has an interface of itself.
    Voice { who: InterfaceId, service: Option<String>, wish: Wish, reply: oneshot::Sender<Heard> },
    /// Hands everything over to the agent at the other end of a way of packets.
    HandOver { packets: OwnedFd, reply: Reply<anyhow::Result<HandedOver>> },
    /// Undoes that.
    TakeBack,
    /// The other agent has taken over: sessions that are open go on, and nothing else.
    OnlyDrain,
    /// The agent before has ended.
    Outlive,
    /// Ends every session, and the thread.
    Stop,
}

/// The endpoints of this host after a drain.
type Drained = Result<Vec<Standing>, DrainError>;

/// What became of a workload's word.
type Heard = Result<Standings, VoiceError>;

/// An interface that was just made.
pub(super) struct Attached {
    pub(super) owner: Owner,
    pub(super) tun: Tun,
    /// The agent before has it, too, and handed this over.
    pub(super) inherited: Option<Part>,
}

/// What the next agent is given of this thread's.
pub(super) struct HandedOver {
    pub(super) socket: UdpSocket,
    pub(super) interfaces: Parts,
    pub(super) endpoints: ByHand,
}

/// What is taken over from the agent before.
pub(super) struct Inherited {
    /// Of each data thread.
    pub(super) lanes: Vec<InheritedLane>,
    /// Of this agent's connection IDs.
    pub(super) generation: u8,
    pub(super) endpoints: ByHand,
}

/// What one data thread takes over from the same one of the agent before.
pub(super) struct InheritedLane {
    pub(super) socket: UdpSocket,
    pub(super) packets: OwnedFd,
}

/// What the data threads say of themselves.
#[derive(Default)]
pub(super) struct Inspection {
    pub(super) per_interface: HashMap<InterfaceId, u64>,
    /// Open sessions of each thread.
    pub(super) per_thread: Vec<u64>,
    pub(super) sessions: Vec<LiveSession>,
    pub(super) services: Vec<ServiceStatus>,
    /// What workloads said of themselves.
    pub(super) says: HashMap<InterfaceId, Vec<String>>,
}
