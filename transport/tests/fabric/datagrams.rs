//! Datagrams of sessions: whole and once, or not at all.

use crate::{
    hostile::Raw,
    lab::{Fabric, Host, LOOPBACK, accepted, eventually, header, name, within},
};
use bytes::Bytes;
use ripstop_transport::{
    DATAGRAM_MAX, DatagramError, DatagramReceiver, DatagramSender, IncomingSession, Opened, Purpose, SessionHeader,
    Settings,
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

pub(crate) fn udp() -> SessionHeader {
    SessionHeader { port: "53/udp".parse().unwrap(), ..header() }
}

/// Accepts and sends every datagram back, until the caller ends the session.
pub(crate) async fn echo_datagrams(session: IncomingSession) {
    let (_send, mut recv, to, mut from) = session.accept_datagrams(accepted()).await.unwrap();
    loop {
        tokio::select! {
            datagram = from.recv() => match datagram {
                Some(datagram) => drop(to.send(&datagram)),
                None => return,
            },
            _ = recv.read_chunk(1, true) => return,
        }
    }
}

/// What a session of UDP is on the calling side.
pub(crate) struct Udp {
    pub(crate) to: DatagramSender,
    pub(crate) from: DatagramReceiver,
    pub(crate) opened: Opened,
}

pub(crate) async fn open(from: &Host, to: &Host) -> Udp {
    let mut opened = within(5, "a session", from.transport.open(to.name(), &udp())).await.unwrap();
    let (to, from) = opened.datagrams.take().expect("it is UDP");
    Udp { to, from, opened }
}

/// Content that says which datagram it is and is of a given length.
pub(crate) fn content(session: u8, length: usize) -> Bytes {
    (0..length).map(|at| (at as u8) ^ ((at >> 8) as u8) ^ session ^ (length as u8)).collect()
}

impl Udp {
    /// Sends each, a few at a time, and checks that each comes back, whole and once.
    async fn round_trips(&mut self, session: u8, lengths: &[usize]) {
        for some in lengths.chunks(8) {
            let mut expected: HashMap<Bytes, usize> = HashMap::new();
            for length in some {
                self.to.send(&content(session, *length)).unwrap();
                *expected.entry(content(session, *length)).or_default() += 1;
            }
            while !expected.is_empty() {
                let datagram = within(5, &format!("one of {some:?}"), self.from.recv()).await.unwrap();
                let left = expected.get_mut(&datagram);
                let left = left.unwrap_or_else(|| panic!("{} bytes, of {some:?}", datagram.len()));
                *left -= 1;
                expected.retain(|_, left| *left > 0);
            }
        }
        let more = timeout(Duration::from_millis(100), self.from.recv()).await;
        assert!(more.is_err(), "one too many: {more:?}");
        assert_eq!(self.from.take_lost(), 0);
    }
}

#[tokio::test]
async fn every_size_arrives_whole_and_once_in_both_directions() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve(echo_datagrams);
    let mut session = open(&alpha, &beta).await;
    // Around what a packet carries at first, and when the path has been searched.
    let sizes = [0, 1, 2, 511, 512, 513].into_iter();
    let sizes = sizes.chain(1_120..1_180).chain(8_900..8_980).chain((9_000..DATAGRAM_MAX).step_by(4_999));
    let sizes: Vec<_> = sizes.chain([DATAGRAM_MAX - 1, DATAGRAM_MAX]).collect();
    session.round_trips(0, &sizes).await;
    eventually("the path's packet size", Duration::from_secs(10), || {
        alpha.transport.peers()[0].mtu.is_some_and(|mtu| mtu > 8_900)
    })
    .await;
    session.round_trips(0, &sizes).await;
    let long = Bytes::from(vec![0; DATAGRAM_MAX + 1]);
    assert_eq!(session.to.send(&long), Err(DatagramError::TooLarge(DATAGRAM_MAX + 1)));
    assert_eq!((alpha.transport.counts().late_datagrams, beta.transport.counts().late_datagrams), (0, 0));
}

#[tokio::test]
async fn sessions_opened_by_either_host_do_not_mix() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = fabric.pair("alpha", "beta").await;
    alpha.serve(echo_datagrams);
    beta.serve(echo_datagrams);
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..40_u8 {
        let (from, to) = if number % 2 == 0 { (&alpha, &beta) } else { (&beta, &alpha) };
        let mut session = open(from, to).await;
        sessions.spawn(async move {
            session.round_trips(number, &[0, 10, 1_200, 9_000, 700, 30_000, 5, 1_100]).await;
        });
    }
    sessions.join_all().await;
}

#[tokio::test]
async fn what_comes_after_the_end_is_counted_as_late() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve(echo_datagrams);
    let mut session = open(&alpha, &beta).await;
    session.round_trips(1, &[4]).await;
    session.opened.send.finish().unwrap();
    within(2, "the other end", session.opened.recv.read_to_end(1)).await.unwrap();
    for length in [1, 40_000] {
        session.to.send(&content(1, length)).unwrap();
    }
    eventually("both to be counted", Duration::from_secs(2), || beta.transport.counts().late_datagrams == 2).await;

    // The end of the connection ends both directions.
    let mut session = open(&alpha, &beta).await;
    beta.transport.close();
    assert_eq!(within(2, "the end", session.from.recv()).await, None);
    eventually("no more to be taken", Duration::from_secs(1), || session.to.send(b"") == Err(DatagramError::Closed))
        .await;
}

#[tokio::test]
async fn a_flood_is_bounded_and_counted_and_another_session_is_heard() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let (end, mut ended) = tokio::sync::mpsc::channel(1);
    let over = Arc::new(Notify::new());
    let flooded = Arc::clone(&over);
    beta.serve(move |session| {
        let (end, flooded) = (end.clone(), Arc::clone(&flooded));
        async move {
            if session.header.source_port != 1 {
                return echo_datagrams(session).await;
            }
            // Takes nothing before the flood is over.
            let (_send, _recv, _to, mut from) = session.accept_datagrams(accepted()).await.unwrap();
            flooded.notified().await;
            let mut taken = 0;
            while let Ok(Some(datagram)) = timeout(Duration::from_millis(300), from.recv()).await {
                assert_eq!(datagram.len(), 1_000);
                taken += 1;
            }
            end.send((taken, from.take_lost())).await.unwrap();
        }
    });
    let header = SessionHeader { source_port: 1, ..udp() };
    let mut flood = alpha.transport.open(beta.name(), &header).await.unwrap();
    let (to, _from) = flood.datagrams.take().unwrap();
    let mut other = open(&alpha, &beta).await;
    let (mut sent, mut refused) = (0_u64, 0_u64);
    let start = Instant::now();
    // The queues of both hosts hold fewer; how many are taken at once depends on how soon those before them have left.
    while sent < 12_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "{sent} sent, {refused} refused");
        for _ in 0..6_000 {
            match to.send(&[7; 1_000]) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert_eq!(error, DatagramError::Congested);
                    refused += 1;
                }
            }
        }
        other.to.send(b"still here").unwrap();
        assert_eq!(within(1, "an answer", other.from.recv()).await.unwrap(), "still here");
    }
    over.notify_one();
    let (taken, lost) = within(5, "the count", ended.recv()).await.unwrap();
    println!("{sent} sent, {refused} refused, {taken} taken, {lost} lost at the receiver");
    assert!(refused > 0, "the sender's queue has an end");
    assert!(taken > 3_500 && lost > 0 && taken + lost <= sent, "the receiver's queue has an end");
}

#[tokio::test]
async fn several_at_once_are_queued_in_order_as_far_as_there_is_room() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve(echo_datagrams);
    let mut session = open(&alpha, &beta).await;
    let all: Vec<_> = (1..=9).map(|length| content(0, length * 100)).collect();
    assert_eq!(session.to.send_all(&all), Ok(9));
    for sent in &all {
        assert_eq!(within(2, "each", session.from.recv()).await.as_ref(), Some(sent));
    }
    let too_long = [Bytes::from_static(b"short"), Bytes::from(vec![0; DATAGRAM_MAX + 1])];
    assert_eq!(session.to.send_all(&too_long), Err(DatagramError::TooLarge(DATAGRAM_MAX + 1)));
    assert_eq!(session.to.send_all(&[] as &[Bytes]), Ok(0));
    session.round_trips(0, &[10]).await;

    // Nothing leaves before this task waits. A burst of 4 MiB may wait, or less where this thread did not run for 20 ms.
    let numbered: Vec<_> = (0..10_000_u32).map(|number| [&number.to_be_bytes()[..], &[0; 996]].concat()).collect();
    let taken = session.to.send_all(&numbered).unwrap();
    assert!((240..3_950).contains(&taken), "{taken}");
    assert_eq!(session.to.send(&numbered[0]), Err(DatagramError::Congested));
    let mut expected = 0;
    while let Ok(Some(datagram)) = timeout(Duration::from_millis(300), session.from.recv()).await {
        let number = datagram.first_chunk().map(|number| u32::from_be_bytes(*number)).unwrap();
        assert!(number >= expected && (number as usize) < taken, "{number} after {expected}");
        expected = number + 1;
    }
    assert!(expected > 0);
}

#[tokio::test]
async fn what_no_agent_would_send_is_counted_and_hurts_nobody() {
    let fabric = Fabric::new("shop.example");
    let mut alpha = fabric.host("alpha");
    alpha.serve(echo_datagrams);
    let beta = fabric.host("beta");
    beta.dial(&[&alpha]);
    beta.up(&alpha).await;
    let mallory = Raw::new(Some(&fabric.issue("mallory"))).connect(alpha.address).await;
    let mut number = 1_u64;
    let mut random = move || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        number.to_be_bytes()
    };
    for length in 0..2_000 {
        let bytes: Vec<u8> = std::iter::repeat_with(&mut random).flatten().take(length % 1_100).collect();
        mallory.send_datagram_wait(bytes.into()).await.unwrap();
    }
    // Messages of every kind, cut anywhere, too long, never finished.
    let mut unfinished = Vec::new();
    for kind in 0..=255_u8 {
        let Ok(stream) = timeout(Duration::from_secs(1), mallory.open_uni()).await else { break };
        let mut stream = stream.unwrap();
        let body: Vec<u8> = std::iter::repeat_with(&mut random).flatten().take(usize::from(kind) * 300).collect();
        let _ = stream.write_all(&[&[kind % 4], &body[..]].concat()).await;
        match kind % 3 {
            0 => stream.finish().unwrap_or_default(),
            1 => drop(stream.reset(9_u32.into())),
            _ if unfinished.len() < 30 => unfinished.push(stream),
            _ => {}
        }
    }
    let mut session = open(&beta, &alpha).await;
    session.round_trips(3, &[0, 1, 5_000, 60_000]).await;
    assert!(alpha.transport.counts().late_datagrams > 500);
    assert!(mallory.close_reason().is_none() && alpha.transport.is_up(&name("mallory")));
}

#[tokio::test]
async fn an_echo_is_answered_and_leaves_nothing() {
    let fabric = Fabric::new("shop.example");
    // Were anything kept, the ninth would wait for ever.
    let settings = Settings { sessions: 8, ..Settings::listen(LOOPBACK) };
    let host = |name: &str| Host::with(settings.clone(), fabric.issue(name).load().unwrap());
    let (alpha, mut beta) = (host("alpha"), host("beta"));
    alpha.dial(&[&beta]);
    alpha.up(&beta).await;
    beta.serve(|session| async {
        assert_eq!(session.header.purpose, Purpose::Echo);
        session.accept_echo(accepted()).await.unwrap();
    });
    let header = SessionHeader { purpose: Purpose::Echo, ..udp() };
    for _ in 0..300 {
        let answer = within(2, "the answer", alpha.transport.echo(beta.name(), &header)).await.unwrap();
        assert_eq!(answer, accepted());
    }
}
