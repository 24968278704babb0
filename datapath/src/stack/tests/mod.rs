//! A workload's kernel played by hand, segment by segment, and what the endpoint makes of it.

mod first_word;
mod held;
mod hostile;

use super::{Endpoint, FirstWord, PacketSink, TunPort, VNET_HEADER};
use crate::packet::{FlowKey, Payload, Segment, TCP, checksum, parse};
use ripstop_config::Reason;
use std::{
    cell::RefCell,
    io::{self, IoSlice},
    net::Ipv4Addr,
    rc::Rc,
    time::Duration,
};

const WORKLOAD: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 19, 0, 9), 40_000);
const FABRIC: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 18, 0, 1), 53);
const ISN: u32 = 1_000;

fn flow() -> FlowKey {
    FlowKey { workload: WORKLOAD.into(), fabric: FABRIC.into() }
}

/// What the endpoint keeps for its reader.
const BUFFER: u32 = 256 << 10;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Keeps what the endpoint sent.
#[derive(Default)]
pub(super) struct Kept(pub(super) RefCell<Vec<Vec<u8>>>);

impl PacketSink for Kept {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let packet: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.0.borrow_mut().push(packet[VNET_HEADER..].to_vec());
        Ok(())
    }
}

/// A segment from the workload, by hand; checksums are not looked at.
fn segment(flags: u8, sequence: u32, acknowledgement: u32, window: u16, options: &[u8], data: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(20 + header + data.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, TCP, 0, 0];
    packet.extend_from_slice(&WORKLOAD.0.octets());
    packet.extend_from_slice(&FABRIC.0.octets());
    let sum = !checksum::fold(checksum::add(0, &packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&WORKLOAD.1.to_be_bytes());
    packet.extend_from_slice(&FABRIC.1.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&acknowledgement.to_be_bytes());
    packet.extend_from_slice(&[u8::try_from(header / 4).unwrap() << 4, flags]);
    packet.extend_from_slice(&window.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(options);
    packet.extend_from_slice(data);
    packet
}

struct Talk {
    kept: Rc<Kept>,
    port: TunPort,
    endpoint: Rc<Endpoint>,
    /// The endpoint's initial sequence number.
    isn: u32,
}

impl Talk {
    /// Answers a SYN with these options; the handshake is left open. None when they make it no segment at all.
    fn try_start(options: &[u8]) -> Option<Self> {
        let kept = Rc::new(Kept::default());
        let port = TunPort::new(Rc::clone(&kept) as _);
        let syn = segment(SYN, ISN, 0, 65_535, options, &[]);
        let endpoint = Endpoint::accept(&port, &flow(), &syn, 7);
        let mut talk = Self { kept, port, endpoint, isn: 0 };
        let answer = talk.sent().pop()?;
        assert!(answer.syn && answer.ack && answer.acknowledgement == ISN + 1);
        talk.isn = answer.sequence;
        Some(talk)
    }

    fn start(options: &[u8]) -> Self {
        Self::try_start(options).expect("a SYN-ACK")
    }

    /// Calls the workload, whose kernel has the SYN and has not answered it.
    fn call(first_word: Option<Rc<FirstWord>>) -> (Self, Segment) {
        let kept = Rc::new(Kept::default());
        let port = TunPort::new(Rc::clone(&kept) as _);
        let endpoint = Endpoint::connect(&port, &flow(), 7, first_word);
        let mut talk = Self { kept, port, endpoint, isn: 0 };
        let syn = talk.sent().pop().expect("a SYN");
        assert!(syn.syn && !syn.ack);
        talk.isn = syn.sequence;
        (talk, syn)
    }

    /// The workload's kernel answers the SYN; what that has sent at once.
    fn answer(&self) -> Vec<Segment> {
        self.endpoint.ingest(&segment(SYN | ACK, ISN, self.isn.wrapping_add(1), 65_535, OPTIONS, &[]), None);
        self.sent()
    }

    fn sent(&self) -> Vec<Segment> {
        let packets = self.kept.0.take();
        let read = |packet: &Vec<u8>| match parse(packet).unwrap().payload {
            Payload::Tcp(segment) => segment,
            other => panic!("not TCP: {other:?}"),
        };
        packets.iter().map(read).collect()
    }

    /// What was sent when acknowledgements had waited for long enough.
    async fn sent_soon(&self) -> Vec<Segment> {
        drop(tokio::time::timeout(Duration::from_millis(15), self.port.run()).await);
        self.sent()
    }

    fn send(&self, flags: u8, offset: u32, acknowledged: u32, window: u16, data: &[u8]) {
        let sequence = ISN.wrapping_add(1).wrapping_add(offset);
        let acknowledgement = self.isn.wrapping_add(1).wrapping_add(acknowledged);
        self.endpoint.ingest(&segment(flags, sequence, acknowledgement, window, &[], data), None);
    }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// Window scale 7, as Linux offers it, and a maximum segment size.
const OPTIONS: &[u8] = &[2, 4, 0xff, 0xd7, 1, 3, 3, 7];

#[test]
fn bytes_come_out_as_they_went_in_whatever_their_order() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.send(ACK, 3, 0, 65_535, b"def");
        talk.send(ACK, 0, 0, 65_535, b"abc");
        talk.send(ACK | FIN, 6, 0, 65_535, b"g");
        let mut read = Vec::new();
        while let Some(piece) = talk.endpoint.read(100, Reason::CallerReset).await.unwrap() {
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, b"abcdefg");
    });
}

#[test]
fn a_burst_far_beyond_the_buffer_is_not_taken() {
    let talk = Talk::start(OPTIONS);
    let piece = vec![7; 65_000];
    for offset in [262_000, 0, 65_000, 65_535, 130_000, 195_000, 260_000, 325_000] {
        talk.send(ACK, offset, 0, 65_535, &piece);
    }
    let last = talk.sent().pop().expect("an acknowledgement");
    assert_eq!(last.acknowledgement, ISN + 1 + BUFFER);
}

#[test]
fn acknowledging_what_was_never_sent_does_not_keep_the_thread_busy() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 0, b"question");
        let mut answer = vec![bytes::Bytes::from_static(b"answer")];
        talk.endpoint.write(&mut answer, Reason::CallerReset).await.unwrap();
        talk.endpoint.finish();
        talk.send(ACK, 8, 7, 0, &[]);
        talk.sent();
        // In real time it would be an endless loop; here a bounded number of turns passes.
        let turns = tokio::time::timeout(Duration::from_millis(200), talk.endpoint.drive());
        assert!(turns.await.is_err());
        assert!(talk.sent().len() <= 200 * 64);
    });
}

#[test]
fn a_kernel_that_has_the_last_connection_in_mind_is_called_again_at_once() {
    run(async {
        let (mut talk, first) = Talk::call(None);
        let of_time_wait = || segment(ACK, 5_000, 9_000, 65_535, &[], &[]);
        talk.endpoint.ingest(&of_time_wait(), None);
        let [reset, again] = talk.sent().try_into().expect("a reset and another SYN");
        assert!(reset.rst && reset.sequence == 9_000, "of the connection before: {reset:?}");
        assert!(again.syn && !again.ack && again.sequence != first.sequence, "{again:?}");
        talk.endpoint.ingest(&of_time_wait(), None);
        assert_eq!(talk.sent().iter().filter(|segment| segment.syn).count(), 0, "once");
        talk.isn = again.sequence;
        talk.endpoint.ingest(&segment(SYN | ACK, ISN, again.sequence.wrapping_add(1), 65_535, OPTIONS, &[]), None);
        talk.endpoint.established().await.unwrap();
        talk.send(ACK, 0, 0, 65_535, b"hello");
        let read = talk.endpoint.read(100, Reason::EndpointReset).await.unwrap().expect("bytes");
        assert_eq!(&read[..], b"hello");
    });
}

#[test]
fn a_caller_that_is_gone_before_the_handshake_is_done_leaves_no_place_for_another() {
    run(async {
        let talk = Talk::start(OPTIONS);
        assert!(!talk.endpoint.is_gone());
        talk.send(RST, 0, 0, 0, &[]);
        assert!(talk.endpoint.is_gone(), "the next SYN of its flow is another session");
        talk.endpoint.established().await.unwrap_err();
    });
}

#[test]
fn a_closed_connection_waits_for_its_reader() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.endpoint.finish();
        talk.send(ACK | FIN, 0, 1, 65_535, b"last words");
        assert!(talk.endpoint.is_gone());
        let never = tokio::time::timeout(Duration::from_secs(60), talk.endpoint.drive());
        assert!(never.await.is_err());
        let read = talk.endpoint.read(100, Reason::CallerReset).await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"last words"[..]));
    });
}

#[test]
fn a_reset_breaks_both_directions() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.send(RST, 0, 0, 0, &[]);
        assert!(talk.endpoint.read(100, Reason::CallerReset).await.is_err());
        assert!(talk.endpoint.write(&mut vec![bytes::Bytes::from_static(b"x")], Reason::CallerReset).await.is_err());
        assert_eq!(talk.endpoint.broken(Reason::CallerReset).await.0, Reason::CallerReset);
    });
}

/// Lets so much time pass, answering every packet as told: an acknowledgement, a reset, or nothing.
async fn pass(talk: &Talk, time: Duration, answer: impl Fn(&Segment)) -> usize {
    let mut asked = 0;
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        let step = tokio::time::Instant::now() + Duration::from_millis(100);
        drop(tokio::time::timeout_at(step, talk.endpoint.drive()).await);
        for segment in talk.sent() {
            asked += 1;
            answer(&segment);
        }
    }
    asked
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_idle_kernel_is_asked_once_in_a_while_and_kept_while_it_answers() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        assert_eq!(pass(&talk, 39 * SECOND, |_| {}).await, 0, "nobody is asked too soon");
        let isn = talk.isn;
        let answer = |probe: &Segment| {
            assert_eq!((probe.sequence, probe.acknowledgement), (isn, ISN + 1), "{probe:?}");
            talk.send(ACK, 0, 0, 65_535, &[]);
        };
        assert_eq!(pass(&talk, 7 * SECOND, answer).await, 1);
        let asked = pass(&talk, 3_600 * SECOND, answer).await;
        assert!((79..=91).contains(&asked), "{asked} times in an hour");
        talk.send(ACK, 0, 0, 65_535, b"still here");
        assert!(talk.endpoint.read(100, Reason::CallerReset).await.is_ok());
    });
}

#[test]
fn a_kernel_that_forgot_the_connection_says_so_when_asked() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        // As Linux answers for a socket that it does not have (RFC 9293 section 3.10.7.1).
        let reset = |_: &Segment| talk.send(RST, 0, 0, 0, &[]);
        assert_eq!(pass(&talk, 46 * SECOND, reset).await, 1);
        assert_eq!(talk.endpoint.broken(Reason::CallerReset).await.0, Reason::CallerReset);
    });
}

#[test]
fn a_silent_kernel_is_given_up_after_a_minute_idle_or_not() {
    for write in [false, true] {
        run(async {
            let talk = Talk::start(OPTIONS);
            talk.send(ACK, 0, 0, 65_535, &[]);
            talk.sent();
            if write {
                talk.endpoint
                    .write(&mut vec![bytes::Bytes::from_static(b"hello?")], Reason::CallerReset)
                    .await
                    .unwrap();
            }
            let asked = pass(&talk, 59 * SECOND, |segment| assert!(!segment.rst)).await;
            assert!((3..14).contains(&asked), "asked {asked} times");
            let last = std::cell::Cell::new(false);
            pass(&talk, 2 * SECOND, |segment| last.set(segment.rst)).await;
            assert!(last.get(), "it is told, if it can hear");
            assert_eq!(talk.endpoint.broken(Reason::CallerReset).await.0, Reason::CallerTimeout);
            let read = talk.endpoint.read(100, Reason::EndpointReset).await;
            assert_eq!(read.unwrap_err().0, Reason::EndpointTimeout);
        });
    }
}

#[test]
fn a_kernel_that_took_nothing_obeys_the_reset() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.endpoint.write(&mut vec![bytes::Bytes::from_static(b"no room")], Reason::CallerReset).await.unwrap();
        talk.endpoint.abort();
        let resets: Vec<_> =
            talk.sent().into_iter().filter(|segment| segment.rst).map(|segment| segment.sequence).collect();
        assert_eq!(resets, [talk.isn + 8, talk.isn + 1], "one behind all, one with what it expects");
    });
}

#[test]
fn what_was_sent_before_a_reset_is_read_even_if_nobody_looked_in_between() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.send(ACK, 0, 0, 65_535, b"before");
        talk.send(RST, 6, 0, 0, &[]);
        talk.endpoint.established().await.unwrap();
        let read = talk.endpoint.read(100, Reason::CallerReset).await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"before"[..]));
        assert_eq!(talk.endpoint.read(100, Reason::CallerReset).await, Err(crate::stack::Broken(Reason::CallerReset)));
    });
}

#[test]
fn a_reset_behind_the_window_is_obeyed() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, b"before");
        talk.send(RST, 1_000_000, 0, 0, &[]);
        let read = talk.endpoint.read(100, Reason::CallerReset).await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"before"[..]));
        assert_eq!(talk.endpoint.read(100, Reason::CallerReset).await, Err(crate::stack::Broken(Reason::CallerReset)));
    });
}

#[test]
fn a_closed_connection_has_its_kernel_forget_it() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.endpoint.abort();
        talk.sent();
        talk.send(ACK, 0, 0, 65_535, b"did it miss that?");
        let [reset] = &talk.sent()[..] else { panic!("one reset") };
        assert!(reset.rst && reset.sequence == talk.isn + 1);
        talk.send(RST, 0, 0, 0, &[]);
        assert!(talk.sent().is_empty(), "a reset is not answered");
    });
}

#[test]
fn what_a_kernel_had_no_room_for_goes_again_as_soon_as_it_has() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.endpoint.write(&mut vec![bytes::Bytes::from(vec![7; 100_000])], Reason::CallerReset).await.unwrap();
        talk.endpoint.finish();
        assert_eq!(talk.sent().iter().map(|sent| sent.length).collect::<Vec<_>>(), [65_495, 34_505, 0]);
        talk.send(ACK, 0, 65_495, 0, &[]);
        assert!(pass(&talk, 20 * SECOND, |_| talk.send(ACK, 0, 65_495, 0, &[])).await > 3, "it is asked for room");
        talk.send(ACK, 0, 65_495, 65_535, &[]);
        let [again] = &talk.sent()[..] else { panic!("one segment") };
        assert_eq!((again.sequence, again.length, again.fin), (talk.isn + 1 + 65_495, 34_505, true));
        assert_eq!(
            pass(&talk, SECOND, |_| {}).await,
            1,
            "and again after 400 ms, not as late as it was asked for room last"
        );
    });
}

#[test]
fn a_closed_window_is_not_silence() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 0, &[]);
        talk.endpoint.write(&mut vec![bytes::Bytes::from_static(b"wait")], Reason::CallerReset).await.unwrap();
        let asked = pass(&talk, 3_600 * SECOND, |_| talk.send(ACK, 0, 0, 0, &[])).await;
        assert!((60..160).contains(&asked), "{asked} probes of the window and of the kernel in an hour");
        talk.send(ACK, 0, 4, 65_535, b"go on");
        assert!(talk.endpoint.read(100, Reason::CallerReset).await.is_ok());
    });
}

#[test]
fn an_acknowledgement_goes_with_the_answer_or_a_moment_later() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.send(ACK, 0, 0, 65_535, b"question");
        assert_eq!(talk.sent().len(), 0, "it waits");
        talk.endpoint.write(&mut vec![bytes::Bytes::from_static(b"answer")], Reason::CallerReset).await.unwrap();
        let [answer] = &talk.sent()[..] else { panic!("one packet") };
        assert_eq!((answer.length, answer.acknowledgement), (6, ISN + 1 + 8));
        talk.send(ACK, 8, 6, 65_535, b"thanks");
        let sent = talk.sent_soon().await;
        let [alone] = &sent[..] else { panic!("one acknowledgement: {sent:?}") };
        assert_eq!((alone.length, alone.acknowledgement), (0, ISN + 1 + 14));
        assert!(talk.sent_soon().await.is_empty(), "once");
        talk.send(ACK | FIN, 14, 6, 65_535, &[]);
        assert!(talk.sent().is_empty(), "that of the FIN waits as well");
        talk.endpoint.finish();
        let [both] = &talk.sent()[..] else { panic!("one FIN") };
        assert_eq!((both.fin, both.acknowledgement), (true, ISN + 1 + 15));
    });
}

#[test]
fn the_last_acknowledgement_waits_for_nothing() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        talk.endpoint.finish();
        talk.sent();
        talk.send(ACK | FIN, 0, 1, 65_535, b"");
        assert!(talk.endpoint.is_gone());
        assert_eq!(talk.sent().pop().map(|last| last.acknowledgement), Some(ISN + 2));
    });
}

#[test]
fn what_is_acknowledged_from_beyond_a_closed_window_counts() {
    run(async {
        let talk = Talk::start(OPTIONS);
        talk.send(ACK, 0, 0, 65_535, &[]);
        let mut told = Vec::new();
        for offset in (0..BUFFER).step_by(32_768) {
            talk.send(ACK, offset, 0, 65_535, &[7; 32_768]);
            told.extend(talk.sent_soon().await);
        }
        let full = ISN + 1 + BUFFER;
        assert_eq!(told.pop().map(|last| last.acknowledgement), Some(full), "the buffer is full");
        talk.endpoint.write(&mut vec![bytes::Bytes::from_static(b"answer")], Reason::CallerReset).await.unwrap();
        talk.sent();
        // A byte into the closed window, as its kernel may have sent it before it was told, is asked for again.
        talk.send(ACK, BUFFER, 0, 65_535, b"x");
        assert_eq!(talk.sent().pop().map(|last| last.acknowledgement), Some(full));
        talk.send(ACK, BUFFER + 1, 6, 65_535, &[]);
        let taken = tokio::time::timeout(Duration::from_millis(10), talk.endpoint.taken());
        assert!(taken.await.is_ok(), "the kernel has it all, and said so");
    });
}
