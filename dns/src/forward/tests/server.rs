//! A small resolver: what it answers depends on the first label of the name.

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SOA},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

/// The resolver; it stops when this is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    udp: AtomicUsize,
    tcp: AtomicUsize,
    broken: AtomicBool,
    silent: AtomicBool,
}

impl Server {
    pub(super) async fn start() -> Self {
        // The same port for both, as resolvers have it.
        let (listener, socket) = loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let (address, state) = (listener.local_addr().unwrap(), Arc::new(State::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(socket), Arc::clone(&state)));
        tasks.spawn(serve_tcp(listener, Arc::clone(&state)));
        Self { address, state, _tasks: tasks }
    }

    /// Queries so far, by UDP and by TCP.
    pub(super) fn asked(&self) -> (usize, usize) {
        (self.state.udp.load(Ordering::SeqCst), self.state.tcp.load(Ordering::SeqCst))
    }

    /// Answers SERVFAIL from here on, or not any more.
    pub(super) fn set_broken(&self, broken: bool) {
        self.state.broken.store(broken, Ordering::SeqCst);
    }

    /// Answers nothing from here on.
    pub(super) fn set_silent(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, state: Arc<State>) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        state.udp.fetch_add(1, Ordering::SeqCst);
        let query = Message::from_vec(&buffer[..length]).unwrap();
        let label = first_label(&query);
        if label == "silent" || state.silent.load(Ordering::SeqCst) {
            continue;
        }
        let socket = Arc::clone(&socket);
        let broken = state.broken.load(Ordering::SeqCst);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(if label == "slow" { 300 } else { 20 })).await;
            for reply in datagrams(&query, broken) {
                let _ = socket.send_to(&reply.to_vec().unwrap(), from).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        state.tcp.fetch_add(1, Ordering::SeqCst);
        let length = stream.read_u16().await.unwrap();
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer).unwrap();
        let count = if first_label(&query) == "large" { 100 } else { 1 };
        let bytes = reply(&query, (0..count).map(|n| ([192, 0, 2, n].into(), 60))).to_vec().unwrap();
        let _ = stream.write_u16(u16::try_from(bytes.len()).unwrap()).await;
        // In two parts, as streams may come.
        for part in bytes.chunks(bytes.len() / 2 + 1) {
            let _ = stream.write_all(part).await;
            let _ = stream.flush().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn first_label(query: &Message) -> String {
    query.queries[0]
        .name
        .iter()
        .next()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .unwrap_or_default()
}

fn datagrams(query: &Message, broken: bool) -> Vec<Message> {
    if broken {
        return vec![coded(query, ResponseCode::ServFail)];
    }
    let one = |address: [u8; 4], ttl: u32| reply(query, [(IpAddr::from(address), ttl)]);
    let good = one([192, 0, 2, 1], 60);
    match first_label(query).as_str() {
        "large" => {
            let mut cut = coded(query, ResponseCode::NoError);
            cut.metadata.truncation = true;
            vec![cut]
        }
        "forged" => vec![other_id(one([192, 0, 2, 66], 60)), other_name(one([192, 0, 2, 66], 60)), good],
        "guessed" => (0..40).map(|_| other_id(one([192, 0, 2, 66], 60))).collect(),
        "lowercase" => {
            let mut lost = good;
            lost.queries[0].name = lost.queries[0].name.to_lowercase();
            vec![lost]
        }
        "brief" => vec![one([192, 0, 2, 1], 2)],
        "zero" => vec![one([192, 0, 2, 1], 0)],
        "mixed" => vec![reply(query, [([192, 0, 2, 1].into(), 60), ([192, 0, 2, 2].into(), 7)])],
        "refused" => vec![coded(query, ResponseCode::Refused)],
        "rebind" => vec![reply(query, [([192, 0, 2, 1].into(), 60), ([198, 18, 3, 4].into(), 60)])],
        "rebind6" => vec![reply(query, [("fd5e:1c00:77::9".parse().unwrap(), 60)])],
        "mapped" => vec![reply(query, [("::ffff:198.19.0.9".parse().unwrap(), 60)])],
        "absent" => vec![negative(query, ResponseCode::NXDomain, Some((600, 3)))],
        "nodata" => vec![negative(query, ResponseCode::NoError, Some((2, 600)))],
        "nosoa" => vec![negative(query, ResponseCode::NXDomain, None)],
        _ if query.queries[0].query_type == RecordType::AAAA => {
            vec![reply(query, [("2001:db8::1".parse().unwrap(), 60)])]
        }
        _ => vec![good],
    }
}

fn coded(query: &Message, code: ResponseCode) -> Message {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.clone_from(&query.queries);
    message
}

fn reply(query: &Message, addresses: impl IntoIterator<Item = (IpAddr, u32)>) -> Message {
    let mut message = coded(query, ResponseCode::NoError);
    let name = &query.queries[0].name;
    let records =
        addresses.into_iter().map(|(address, ttl)| Record::from_rdata(name.clone(), ttl, RData::from(address)));
    message.answers.extend(records);
    message
}

/// No such name or no such record, with an SOA record of this TTL and minimum.
fn negative(query: &Message, code: ResponseCode, soa: Option<(u32, u32)>) -> Message {
    let mut message = coded(query, code);
    message.authorities.extend(soa.map(|(ttl, minimum)| {
        let zone = Name::from_ascii("example.com.").unwrap();
        let data = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, minimum);
        Record::from_rdata(zone, ttl, RData::SOA(data))
    }));
    message
}

fn other_id(mut message: Message) -> Message {
    message.metadata.id = message.metadata.id.wrapping_add(1);
    message
}

fn other_name(mut message: Message) -> Message {
    message.queries[0].name = Name::from_ascii("forged.example.org.").unwrap();
    message.queries[0].query_type = RecordType::A;
    message
}
