//! An agent's data thread as far as packets go: real in all but the device, which takes packets and forgets them.

use ripstop_config::{FabricName, Graph, HostName, agent::SessionLog};
use ripstop_datapath::interface::{self, Interface, InterfaceId, Owner, Siblings};
use ripstop_datapath::session::{
    common::Common,
    context::{Context, Control, Ways},
    hearsay::Hearsay,
};
use ripstop_datapath::stack::{PacketSink, Received, TunPort, VNET_HEADER};
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
    sync::Arc,
};
use tokio::{runtime::Runtime, sync::mpsc};

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

/// A data thread with the interfaces of `web` and `cron`.
pub(crate) struct Bed {
    pub(crate) sink: Rc<Sink>,
    pub(crate) context: Rc<Context>,
    pub(crate) interfaces: [Rc<Interface>; 2],
    _runtime: Runtime,
}

impl Bed {
    pub(crate) fn new() -> Self {
        // Counters count, as in an agent; the second piece of one process finds them there.
        let _ = instruments::install();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let context = runtime.block_on(async { context() });
        let sink = Rc::new(Sink::default());
        let interfaces = ["shop/web", "shop/cron"].map(|name| attach(&context, name, &sink));
        Self { sink, context, interfaces, _runtime: runtime }
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
        let policy = self.context.policy();
        policy.service_entry(policy.service(&"shop/api".parse().unwrap()).unwrap()).v4
    }

    /// Takes a packet as if it had come from the device.
    pub(crate) fn packet(&self, interface: &Rc<Interface>, bytes: &[u8]) {
        interface::packet(&self.context, interface, Received::plain(bytes));
    }
}

fn attach(context: &Rc<Context>, name: &str, sink: &Rc<Sink>) -> Rc<Interface> {
    let policy = context.policy();
    let entry = policy.workload_entry(policy.workload(&name.parse().unwrap()).unwrap());
    let (id, spread) = (InterfaceId::only(entry.id.clone()), Arc::default());
    let owner = Owner { id, v4: entry.v4, v6: entry.v6, has_v6: true, programs: None, spread };
    Interface::new(context, owner, TunPort::new(Rc::clone(sink) as _))
}

fn context() -> Rc<Context> {
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
    let ways = Ways { own: transport.clone(), first: transport, all: Arc::default(), siblings: Siblings::alone() };
    Context::new(host("alpha"), ways, Arc::new(policy()), records, control, owners, &Common::default())
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
