//! What two agents agree on while one hands over to the other: JSON, one object a message, with descriptors beside it.
//!
//! | from | message | descriptors |
//! |---|---|---|
//! | first | [`First::Hello`] | the journal's lock; that of signed policies, if it has any |
//! | next | [`Next::Prepared`]: it could start | |
//! | first | [`First::Sockets`] | QUIC, the way of packets, admin, the entrance; metrics, enrolment and page, if it has them |
//! | first | [`First::Lane`], for each data thread but the first | its QUIC, its way of packets |
//! | first | [`First::Interface`], [`First::Flows`] and [`First::Said`], for each interface | its device |
//! | first | [`First::Queue`] and [`First::Flows`], for each data thread but the first | its queue of that device |
//! | first | [`First::Done`] | |
//! | next | [`Next::Running`]: it reads | |
//! | first | [`First::Yours`]: from here on there is no way back | standard output and error |
//! | first | [`First::Left`], from time to time | |
//! | next | [`Next::PolicyChanged`], when it did | |
//!
//! Until `Yours`, [`First::Refused`], [`Next::Failed`] or the end of the channel is the end of the attempt: the next agent ends
//! then. After it, the end of the channel is the end of the other agent.

use crate::fabric::by_hand::Hand;
use anyhow::{Context as _, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use ripstop_config::{HostName, Protocol, ServiceId, WorkloadId, graph::Ranges};
use ripstop_datapath::handover::{Channel, Flow, MESSAGE_MAX};
use ripstop_datapath::interface::Replica;
use ripstop_datapath::packet::FlowKey;
use ripstop_datapath::session::voice::Spoken;
use ripstop_kernel::{AttachPlan, Cgroup, Place, netns::NsId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
};

/// The version of all that passes between the two, frames of packets included; another one is not guessed at.
pub(super) const VERSION: u32 = 3;
/// The same of an agent with several data threads, which programs that know one must not take over.
pub(super) const VERSION_OF_SEVERAL: u32 = 4;
/// Flows in one message: each is some 60 bytes.
pub(super) const FLOWS_MAX: usize = 400;
/// Words of a workload in one message: each is some 250 bytes at most, with two names of a host and a service.
pub(super) const SAID_MAX: usize = 100;

/// Said by the agent that hands over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(super) enum First {
    /// Who it is. Comes first, so that another version is told apart.
    Hello(Hello),
    /// Its sockets, and what no file says.
    Sockets(Sockets),
    /// Another data thread's.
    Lane(Lane),
    /// An interface.
    Interface(Box<Interface>),
    /// Another data thread's queue of the interface that came last, by which number both threads know it.
    Queue { index: u16 },
    /// Flows of the interface that came last, and of the queue that did.
    Flows(Flows),
    /// What was said by the interface that came last.
    Said { words: Vec<Spoken> },
    /// That is all: the next agent may begin.
    Done {},
    /// All is the next agent's; so many sessions are left.
    Yours { sessions: u64 },
    /// There is nothing to take over, as this one goes on.
    Refused { why: String },
    /// So many sessions are left.
    Left { sessions: u64 },
}

/// Said by the agent that takes over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(super) enum Next {
    /// It could start. Sessions that are open may go on for so long.
    Prepared { drain_millis: u64 },
    /// It reads.
    Running {},
    /// It cannot.
    Failed { why: String },
    /// The first one has to follow it to another policy.
    PolicyChanged {},
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) pid: u32,
    pub(super) host: HostName,
    pub(super) listen: SocketAddr,
    pub(super) run: PathBuf,
    pub(super) state: PathBuf,
    /// The generation of its connection IDs.
    pub(super) generation: u8,
    /// Agents before it that may have sessions.
    pub(super) before: u8,
    /// The milliseconds after which the service manager takes an agent for dead that says nothing, where it looks.
    pub(super) watchdog_millis: Option<u64>,
    /// Its data threads.
    #[serde(default = "one")]
    pub(super) threads: u8,
}

fn one() -> u8 {
    1
}

impl Hello {
    /// The version that an agent with so many data threads hands over by.
    pub(super) fn version(threads: u8) -> u32 {
        if threads > 1 { VERSION_OF_SEVERAL } else { VERSION }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lane {
    /// The hosts that it is connected with, and where those are.
    pub(super) peers: BTreeMap<HostName, SocketAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sockets {
    pub(super) metrics: Option<SocketAddr>,
    pub(super) enrolment: bool,
    pub(super) page: Option<SocketAddr>,
    /// The hosts that it is connected with, and where those are.
    pub(super) peers: BTreeMap<HostName, SocketAddr>,
    /// Services that are drained.
    pub(super) drained: Vec<ServiceId>,
    /// The whole host is.
    pub(super) drained_host: bool,
    pub(super) by_hand: BTreeMap<WorkloadId, Hand>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Interface {
    /// The number by which both data threads know it.
    pub(super) index: u16,
    pub(super) workload: WorkloadId,
    pub(super) replica: Option<Replica>,
    pub(super) plan: PlanText,
    pub(super) has_v6: bool,
    pub(super) since: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Flows {
    pub(super) tcp: Vec<(SocketAddr, SocketAddr)>,
    pub(super) udp: Vec<(SocketAddr, SocketAddr)>,
    pub(super) rested: Vec<(SocketAddr, SocketAddr)>,
}

/// What an interface is, in a form that does not change with the code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::fabric) struct PlanText {
    link: String,
    place: PlaceText,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    services_v4: Ipv4Net,
    workloads_v4: Ipv4Net,
    range_v6: Ipv6Net,
    isolated: bool,
    resolver: Ipv4Addr,
    namespace: Option<NsId>,
    #[serde(default = "one")]
    queues: u8,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PlaceText {
    Netns(PathBuf),
    User(u32),
    Cgroup { path: String, id: u64 },
    Host,
}

impl PlanText {
    pub(in crate::fabric) fn new(plan: &AttachPlan, namespace: Option<NsId>) -> Self {
        Self {
            link: plan.link.clone(),
            place: match &plan.place {
                Place::Netns(path) => PlaceText::Netns(path.clone()),
                Place::User { uid } => PlaceText::User(*uid),
                Place::Cgroup(cgroup) => PlaceText::Cgroup { path: cgroup.path.clone(), id: cgroup.id },
                Place::Host => PlaceText::Host,
            },
            v4: plan.v4,
            v6: plan.v6,
            services_v4: plan.ranges.services_v4,
            workloads_v4: plan.ranges.workloads_v4,
            range_v6: plan.ranges.v6,
            isolated: plan.isolated,
            resolver: plan.resolver,
            namespace,
            queues: plan.queues,
        }
    }

    /// `None` when what it is for is gone: then the interface is of no use.
    pub(super) fn plan(self) -> Option<(AttachPlan, Option<NsId>)> {
        let place = match self.place {
            PlaceText::Netns(path) => Place::Netns(path),
            PlaceText::User(uid) => Place::User { uid },
            PlaceText::Cgroup { path, id } => Place::Cgroup(Cgroup::find(&path).ok().filter(|found| found.id == id)?),
            PlaceText::Host => Place::Host,
        };
        let ranges = Ranges { services_v4: self.services_v4, workloads_v4: self.workloads_v4, v6: self.range_v6 };
        let Self { link, v4, v6, isolated, resolver, namespace, queues, .. } = self;
        Some((AttachPlan { link, place, v4, v6, ranges, isolated, resolver, queues }, namespace))
    }
}

impl Flows {
    /// In messages of a bounded size.
    pub(super) fn messages(flows: &ripstop_datapath::interface::Flows) -> Vec<Self> {
        let ends = |key: &FlowKey| (key.workload, key.fabric);
        let open = flows.open.chunks(FLOWS_MAX).map(|chunk| {
            let of = |protocol| chunk.iter().filter(move |flow| flow.protocol == protocol).map(|flow| ends(&flow.key));
            Self { tcp: of(Protocol::Tcp).collect(), udp: of(Protocol::Udp).collect(), rested: Vec::new() }
        });
        let rested = flows.rested.chunks(FLOWS_MAX);
        open.chain(rested.map(|chunk| Self { rested: chunk.iter().map(ends).collect(), ..Self::default() })).collect()
    }

    pub(super) fn add_to(self, flows: &mut ripstop_datapath::interface::Flows) {
        let key = |(workload, fabric)| FlowKey { workload, fabric };
        let of = |protocol| move |ends| Flow { protocol, key: key(ends) };
        flows.open.extend(self.tcp.into_iter().map(of(Protocol::Tcp)));
        flows.open.extend(self.udp.into_iter().map(of(Protocol::Udp)));
        flows.rested.extend(self.rested.into_iter().map(key));
    }
}

/// Sends a message.
pub(super) async fn say<T: Serialize>(
    channel: &Channel,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> anyhow::Result<()> {
    let text = serde_json::to_vec(message)?;
    channel.send(&text, descriptors).await.context("the other agent does not listen any more")
}

/// The next message; `None` when the other agent is gone.
pub(super) async fn hear<T: DeserializeOwned>(channel: &Channel) -> anyhow::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE_MAX];
    let received = channel.receive(&mut buffer).await.context("failed to hear the other agent")?;
    let Some((length, descriptors)) = received else { return Ok(None) };
    let said = &buffer[..length];
    #[derive(Deserialize)]
    struct Version {
        #[serde(default)]
        version: Option<u32>,
    }
    // The version first: another one may say other things.
    if let Ok(Version { version: Some(version) }) = serde_json::from_slice(said)
        && !matches!(version, VERSION | VERSION_OF_SEVERAL)
    {
        bail!(
            "the other agent hands over by version {version}, this program knows {VERSION} and {VERSION_OF_SEVERAL}: restart the agent"
        );
    }
    let message = serde_json::from_slice(said).context("the other agent says what this program does not know")?;
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripstop_datapath::handover::pair;

    fn hello(version: u32) -> First {
        First::Hello(Hello {
            version,
            pid: 7,
            host: HostName::new("alpha").unwrap(),
            listen: "[::]:7477".parse().unwrap(),
            run: "/run/ripstop".into(),
            state: "/var/lib/ripstop".into(),
            generation: 3,
            before: 0,
            watchdog_millis: None,
            threads: 1,
        })
    }

    #[tokio::test]
    async fn another_version_is_refused_by_name() {
        let (one, other) = pair().unwrap();
        let (one, other) = (Channel::new(one).unwrap(), Channel::new(other).unwrap());
        say(&one, &hello(VERSION), &[]).await.unwrap();
        say(&one, &hello(VERSION_OF_SEVERAL + 1), &[]).await.unwrap();
        say(&one, &serde_json::json!({ "say": "sing" }), &[]).await.unwrap();
        let (heard, _) = hear::<First>(&other).await.unwrap().unwrap();
        assert!(matches!(heard, First::Hello(Hello { pid: 7, generation: 3, .. })));
        let error = hear::<First>(&other).await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("by version {}", VERSION_OF_SEVERAL + 1)) && error.contains("restart"),
            "{error}"
        );
        hear::<First>(&other).await.unwrap_err();
        drop(one);
        assert!(hear::<First>(&other).await.unwrap().is_none());
    }

    #[test]
    fn a_plan_comes_through() {
        let plan = AttachPlan {
            link: "rs-web-12345".into(),
            place: Place::Netns("/run/netns/web".into()),
            v4: "198.19.0.1".parse().unwrap(),
            v6: "fd00::1".parse().unwrap(),
            ranges: Ranges {
                services_v4: "198.18.0.0/16".parse().unwrap(),
                workloads_v4: "198.19.0.0/16".parse().unwrap(),
                v6: "fd00::/48".parse().unwrap(),
            },
            isolated: true,
            resolver: "198.18.0.1".parse().unwrap(),
            queues: 3,
        };
        let text = serde_json::to_string(&PlanText::new(&plan, None)).unwrap();
        let read: PlanText = serde_json::from_str(&text).unwrap();
        assert_eq!(read.plan(), Some((plan, None)));
        let gone = text.replace(r#"{"netns":"/run/netns/web"}"#, r#"{"cgroup":{"path":"/none","id":1}}"#);
        assert_eq!(serde_json::from_str::<PlanText>(&gone).unwrap().plan(), None);
    }

    #[test]
    fn many_flows_are_many_messages_that_fit() {
        let key = |port| FlowKey {
            workload: SocketAddr::new("fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap(), port),
            fabric: SocketAddr::new("fd00:1111:2222:3333:4444:5555:6666:8888".parse().unwrap(), 65_000),
        };
        let open = (0..1_000).map(|port| Flow { protocol: Protocol::Tcp, key: key(10_000 + port) }).collect();
        let flows = ripstop_datapath::interface::Flows { open, rested: vec![key(1)] };
        let messages = Flows::messages(&flows);
        assert_eq!(messages.len(), 4);
        let mut read = ripstop_datapath::interface::Flows::default();
        for message in messages {
            assert!(serde_json::to_vec(&message).unwrap().len() < MESSAGE_MAX - 100);
            message.add_to(&mut read);
        }
        assert_eq!((read.open, read.rested), (flows.open, flows.rested));
    }
}
