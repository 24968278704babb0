//! An agent's data thread as far as packets go: real in all but the device, which takes packets and forgets them.

use ripstop_config::{FabricName, Graph, HostName, agent::SessionLog};
use ripstop_datapath::interface::{self, Interface, InterfaceId, Owner, Siblings, Spread, Strays};
use ripstop_datapath::session::{
    common::Common,
    context::{Context, Control, Ways},
    hearsay::Hearsay,
};
use ripstop_datapath::stack::{PacketSink, Received, TunPort, VNET_HEADER};
use ripstop_datapath::thread;
use ripstop_kernel::SocketOwners;
use ripstop_policy::{Policy, compile};
use ripstop_telemetry::{RecordLog, instruments};
use ripstop_transport::{
    Identity, Settings, Transport,
    pki::{Authority, HOST_VALIDITY_MIN},
};
use std::{
    cell::{Cell, RefCell},
    fs,
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex},
};
use tokio::{runtime::LocalRuntime, sync::mpsc};

/// Limits that are always asked and never reached.
const GRAPH: &str = "
fabric: bench.test
hosts: { alpha: , beta: }
tenants:
  shop:
    limit: { rate: 900 gbit/s, sessions: 1000000, open: 1000000000/s }
    workloads:
      web: { on: alpha, run: { netns: web }, limit: { rate: 900 gbit/s } }
      cron: { on: alpha, run: { netns: cron } }
      api: { on: beta, run: { netns: api } }
      db: { on: beta, run: { netns: db } }
    services:
      api: { by: api, ports: [8080, 9125/udp], limit: { rate: 900 gbit/s } }
      db: { by: db, port: 5432 }
    allow:
      - { from: web, to: api, limit: { session: 900 gbit/s, rate: 900 gbit/s } }
      - { from: cron, to: db }
      - { from: api, to: db }
";

/// How much of each packet is looked at: virtio header, IP and TCP.
const HEAD: usize = VNET_HEADER + 40;

/// Takes packets, and keeps the first bytes of the last.
#[derive(Default)]
pub(crate) struct Sink {
    packets: Cell<u64>,
    head: RefCell<Vec<u8>>,
}

impl Sink {
    /// Packets so far.
    pub(crate) fn packets(&self) -> u64 {
        self.packets.get()
    }

    /// The sequence number of the last packet, a TCP segment over IPv4.
    pub(crate) fn sequence(&self) -> u32 {
        let at = VNET_HEADER + 24;
        u32::from_be_bytes(self.head.borrow()[at..at + 4].try_into().unwrap())
    }
}

impl PacketSink for Sink {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.packets.set(self.packets.get() + 1);
        let mut head = self.head.borrow_mut();
        head.clear();
        for part in parts {
            let room = HEAD.saturating_sub(head.len());
            head.extend_from_slice(&part[..part.len().min(room)]);
        }
        Ok(())
    }
}

/// The policy of [`GRAPH`].
pub(crate) fn policy() -> Policy {
    compile(Graph::parse("bench", GRAPH).unwrap()).unwrap()
}

pub(crate) fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

/// Those that have interfaces.
const WORKLOADS: [&str; 2] = ["shop/web", "shop/cron"];

/// What the data threads of a host share.
pub struct Shared {
    pub(crate) policy: Arc<Policy>,
    pub(crate) common: Common,
    spreads: [Arc<Spread>; 2],
    /// Of the threads that are not there yet.
    places: Mutex<Vec<(Siblings, Strays)>>,
}

impl Shared {
    /// A host with a policy and so many data threads, and nothing going on.
    pub(crate) fn new(policy: Policy, threads: u8) -> Self {
        // Counters count, as in an agent; the second host of one process finds them there.
        let _ = instruments::install();
        let places = Mutex::new(Siblings::of(threads));
        let spreads = WORKLOADS.map(|name| Spread::new(InterfaceId::only(name.parse().unwrap())));
        Self { policy: Arc::new(policy), common: Common::default(), spreads, places }
    }
}

/// A data thread with the interfaces of `web` and `cron`.
pub(crate) struct Bed {
    pub(crate) sink: Rc<Sink>,
    pub(crate) context: Rc<Context>,
    pub(crate) interfaces: [Rc<Interface>; 2],
    runtime: LocalRuntime,
    /// Nothing comes to the wrong thread.
    _strays: Strays,
}

impl Bed {
    /// The only one of its host.
    pub(crate) fn new() -> Self {
        Self::of(&Shared::new(policy(), 1))
    }

    /// The next of a host's.
    pub(crate) fn of(shared: &Shared) -> Self {
        let (siblings, strays) = shared.places.lock().unwrap().pop().unwrap();
        let runtime = thread::runtime().unwrap();
        let context = runtime.block_on(async { context(shared, siblings) });
        let sink = Rc::new(Sink::default());
        let interfaces = [0, 1].map(|number| attach(&context, WORKLOADS[number], &shared.spreads[number], &sink));
        Self { sink, context, interfaces, runtime, _strays: strays }
    }

    /// `web`, which may call `api`.
    pub(crate) fn web(&self) -> &Rc<Interface> {
        &self.interfaces[0]
    }

    /// The IPv4 address of an interface.
    pub(crate) fn address(&self, interface: &Interface) -> Ipv4Addr {
        let policy = self.context.policy();
        policy.workload_entry(policy.workload(interface.workload()).unwrap()).v4
    }

    /// The IPv4 address of `api`.
    pub(crate) fn api(&self) -> Ipv4Addr {
        self.service("shop/api")
    }

    /// That of a service.
    pub(crate) fn service(&self, name: &str) -> Ipv4Addr {
        let policy = self.context.policy();
        policy.service_entry(policy.service(&name.parse().unwrap()).unwrap()).v4
    }

    /// Which of its host's threads it is: no two have a flow in common.
    pub(crate) fn number(&self) -> u16 {
        self.context.siblings.number().into()
    }

    /// Does something in the thread's runtime.
    pub(crate) fn run<R>(&self, what: impl Future<Output = R>) -> R {
        self.runtime.block_on(what)
    }

    /// Takes a packet as if it had come from the device.
    pub(crate) fn packet(&self, interface: &Rc<Interface>, bytes: &[u8]) {
        interface::packet(&self.context, interface, Received::plain(bytes));
    }
}

fn attach(context: &Rc<Context>, name: &str, spread: &Arc<Spread>, sink: &Rc<Sink>) -> Rc<Interface> {
    let policy = context.policy();
    let entry = policy.workload_entry(policy.workload(&name.parse().unwrap()).unwrap());
    let (id, spread) = (InterfaceId::only(entry.id.clone()), Arc::clone(spread));
    let owner = Owner { id, v4: entry.v4, v6: entry.v6, has_v6: true, programs: None, spread };
    Interface::new(context, owner, TunPort::new(Rc::clone(sink) as _))
}

fn context(shared: &Shared, siblings: Siblings) -> Rc<Context> {
    let directory = tempfile::tempdir().unwrap();
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (transport, ..) = Transport::bind(Settings::listen(loopback), identity(directory.path())).unwrap();
    let records = RecordLog::start(&SessionLog::Off, None).unwrap();
    let control = Control {
        forward: mpsc::channel(1).0,
        requests: mpsc::channel(1).0,
        policies: None,
        hearsay: Arc::new(Hearsay::new(host("alpha"), 0)),
        lanes: Arc::default(),
        voices: mpsc::channel(1).0,
    };
    let owners = SocketOwners::open().unwrap();
    let ways = Ways { own: transport.clone(), first: transport, all: Arc::default(), siblings };
    Context::new(host("alpha"), ways, Arc::clone(&shared.policy), records, control, owners, &shared.common)
}

fn identity(directory: &Path) -> Identity {
    let authority = Authority::create(&FabricName::new("bench.test").unwrap()).unwrap();
    let issued = authority.issue_host(&host("alpha"), HOST_VALIDITY_MIN).unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).unwrap();
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        path
    };
    let (certificate, key) = (write("host.pem", &issued.certificate_pem), write("host.key", &issued.key_pem));
    Identity::load(&certificate, &key, &write("ca.pem", authority.certificate_pem())).unwrap()
}
