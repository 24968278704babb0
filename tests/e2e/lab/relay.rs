//! A bad path between hosts: a relay of UDP on the wire, whose impairments are named and changed in the middle of a test.
//!
//! Each host has a door: an address on the wire at which the others find it, because their graphs say so. What comes in
//! at beta's door from alpha leaves through alpha's door toward beta, so that each host sees the others at their doors
//! and nowhere else. Impairments hold for all datagrams, each of which is judged by itself.

use super::place::Place;
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Buffers of a door's socket: what 1 Gbit/s brings while the relay's thread waits 100 ms for a processor.
const BUFFER: usize = 16 << 20;
/// How often a door looks whether the lab ends.
const LOOK: Duration = Duration::from_millis(100);
/// How long a datagram that others are to overtake is held back.
const HOLD: Duration = Duration::from_millis(4);
/// Longest queue of a limited rate, as time; what would wait longer is dropped, as by a router.
const QUEUE: Duration = Duration::from_millis(50);
/// What IPv4 and UDP add to a datagram's payload.
const HEADERS: usize = 28;

/// What the path does to datagrams.
#[derive(Clone, Copy, Default)]
struct Impairments {
    delay: Duration,
    jitter: Duration,
    reorder: u64,
    duplicate: u64,
    corrupt: u64,
    lose: u64,
    dark: Option<Dark>,
    mtu: Option<usize>,
    bytes_per_second: Option<f64>,
}

/// The path carries nothing for a part of each period.
#[derive(Clone, Copy)]
struct Dark {
    since: Instant,
    lasts: Duration,
    every: Duration,
}

impl Dark {
    fn is_so(&self) -> bool {
        let into = self.since.elapsed().as_nanos() % self.every.as_nanos().max(1);
        into < self.lasts.as_nanos()
    }
}

macro_rules! tally {
    ($($name:ident),*) => {
        #[derive(Default)]
        struct Counters { $($name: AtomicU64),* }
        /// What became of the datagrams so far.
        #[derive(Debug, Clone, Copy)]
        pub struct Tally { $(pub $name: u64),* }
        impl Counters {
            fn read(&self) -> Tally {
                Tally { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}
tally!(forwarded, lost, darkened, too_large, queue_full, reordered, duplicated, corrupted, strangers);

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Where one host is found by the others, and where it really is.
struct Door {
    socket: UdpSocket,
    host: SocketAddr,
}

/// A datagram under way: out through one door toward the host behind another.
struct Parcel {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

struct Shared {
    doors: Vec<Door>,
    impairments: Mutex<Impairments>,
    counters: Counters,
    waiting: Mutex<BinaryHeap<Reverse<Waiting>>>,
    woken: Condvar,
    stop: AtomicBool,
}

/// A parcel and when it is due; the number keeps those in order that are due at once.
struct Waiting(Instant, u64, Parcel);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// The relay of a lab; ends with it.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Opens a door for each host: the door's address on the wire, and the host's own.
    pub(super) fn start(wire: &Place, hosts: &[(SocketAddr, SocketAddr)]) -> Self {
        let door = |(door, host): &(SocketAddr, SocketAddr)| {
            let socket = wire.inside(|| UdpSocket::bind(door)).unwrap_or_else(|error| panic!("{door}: {error}"));
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).unwrap();
            setsockopt(&socket, sockopt::SndBufForce, &BUFFER).unwrap();
            socket.set_read_timeout(Some(LOOK)).unwrap();
            Door { socket, host: *host }
        };
        let shared = Arc::new(Shared {
            doors: hosts.iter().map(door).collect(),
            impairments: Mutex::default(),
            counters: Counters::default(),
            waiting: Mutex::default(),
            woken: Condvar::new(),
            stop: AtomicBool::default(),
        });
        let spawn = |work: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        };
        let doors = (0..hosts.len()).map(|to| Box::new(move |shared: &Shared| attend(shared, to)) as Box<_>);
        let threads = doors.chain([Box::new(deliver) as Box<_>]).map(spawn).collect();
        Self { shared, threads }
    }

    fn set(&self, change: impl FnOnce(&mut Impairments)) -> &Self {
        change(&mut self.shared.impairments.lock().unwrap());
        self
    }

    /// Every datagram takes so much longer, each way.
    pub fn delay_ms(&self, delay: u64) -> &Self {
        self.set(|path| path.delay = Duration::from_millis(delay))
    }

    /// Up to so much is added to each datagram's delay, at random: those close together change places.
    pub fn jitter_ms(&self, jitter: u64) -> &Self {
        self.set(|path| path.jitter = Duration::from_millis(jitter))
    }

    /// So many of a thousand datagrams are held back until later ones have passed.
    pub fn reorder_per_mille(&self, share: u64) -> &Self {
        self.set(|path| path.reorder = share)
    }

    /// So many of a thousand datagrams arrive twice.
    pub fn duplicate_per_mille(&self, share: u64) -> &Self {
        self.set(|path| path.duplicate = share)
    }

    /// So many of a thousand datagrams arrive with one byte changed and a checksum that fits.
    pub fn corrupt_per_mille(&self, share: u64) -> &Self {
        self.set(|path| path.corrupt = share)
    }

    /// So many of a thousand datagrams are lost.
    pub fn lose_per_mille(&self, share: u64) -> &Self {
        self.set(|path| path.lose = share)
    }

    /// Nothing passes for `lasts` of every `every`, beginning with darkness.
    pub fn dark(&self, lasts: Duration, every: Duration) -> &Self {
        self.set(|path| path.dark = Some(Dark { since: Instant::now(), lasts, every }))
    }

    /// Nothing passes any more.
    pub fn blackhole(&self) -> &Self {
        self.dark(Duration::MAX, Duration::MAX)
    }

    /// IP packets larger than so many bytes vanish, and nobody is told.
    pub fn mtu(&self, bytes: usize) -> &Self {
        self.set(|path| path.mtu = Some(bytes))
    }

    /// Each way carries so many Mbit/s, behind a short queue.
    pub fn rate_mbit(&self, rate: u32) -> &Self {
        self.set(|path| path.bytes_per_second = Some(f64::from(rate) * 125_000.0))
    }

    /// Takes every impairment away.
    pub fn heal(&self) -> &Self {
        self.set(|path| *path = Impairments::default())
    }

    pub fn tally(&self) -> Tally {
        self.shared.counters.read()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.woken.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Takes what comes in at one host's door until the lab ends.
fn attend(shared: &Shared, to: usize) {
    let mut line = Line { random: Random(0x9E37_79B9_7F4A_7C15 ^ (to as u64 + 1)), free_at: Instant::now(), number: 0 };
    let mut buffer = vec![0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, source)) = shared.doors[to].socket.recv_from(&mut buffer) else { continue };
        match shared.doors.iter().position(|door| door.host == source) {
            Some(from) => line.judge(shared, from, to, &mut buffer[..length]),
            None => count(&shared.counters.strangers),
        }
    }
}

/// What one door remembers of the way to its host.
struct Line {
    random: Random,
    free_at: Instant,
    number: u64,
}

impl Line {
    fn judge(&mut self, shared: &Shared, from: usize, to: usize, bytes: &mut [u8]) {
        let path = *shared.impairments.lock().unwrap();
        let counters = &shared.counters;
        let now = Instant::now();
        if path.dark.is_some_and(|dark| dark.is_so()) {
            return count(&counters.darkened);
        }
        if path.mtu.is_some_and(|mtu| bytes.len() + HEADERS > mtu) {
            return count(&counters.too_large);
        }
        if self.random.hits(path.lose) {
            return count(&counters.lost);
        }
        let Some(queued) = self.queued(&path, now, bytes.len()) else { return count(&counters.queue_full) };
        if self.random.hits(path.corrupt) && !bytes.is_empty() {
            count(&counters.corrupted);
            let at = self.random.below(bytes.len() as u64);
            bytes[usize::try_from(at).unwrap()] ^= 1 << self.random.below(8);
        }
        let copies = if self.random.hits(path.duplicate) { 2 } else { 1 };
        if copies == 2 {
            count(&counters.duplicated);
        }
        for _ in 0..copies {
            let mut late = queued + path.delay + path.jitter.mul_f64(self.random.share());
            if self.random.hits(path.reorder) {
                count(&counters.reordered);
                late += HOLD;
            }
            if late.is_zero() {
                shared.send(from, to, bytes);
            } else {
                self.number += 1;
                shared.later(Waiting(now + late, self.number, Parcel { from, to, bytes: bytes.into() }));
            }
        }
    }

    /// How long a datagram waits for those before it at a limited rate; `None` when the queue is full.
    fn queued(&mut self, path: &Impairments, now: Instant, length: usize) -> Option<Duration> {
        let Some(rate) = path.bytes_per_second else { return Some(Duration::ZERO) };
        let start = self.free_at.max(now);
        let waits = start - now;
        if waits > QUEUE {
            return None;
        }
        self.free_at = start + Duration::from_secs_f64((length + HEADERS) as f64 / rate);
        Some(self.free_at - now)
    }
}

impl Shared {
    /// A full socket or a host that is gone loses it, as a wire would.
    fn send(&self, from: usize, to: usize, bytes: &[u8]) {
        if self.doors[from].socket.send_to(bytes, self.doors[to].host).is_ok() {
            count(&self.counters.forwarded);
        }
    }

    fn later(&self, waiting: Waiting) {
        let mut all = self.waiting.lock().unwrap();
        let is_next = all.peek().is_none_or(|first| waiting.0 < first.0.0);
        all.push(Reverse(waiting));
        if is_next {
            self.woken.notify_all();
        }
    }
}

/// Sends what was delayed when it is due, until the lab ends.
fn deliver(shared: &Shared) {
    let mut all = shared.waiting.lock().unwrap();
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wait = all.peek().map_or(LOOK, |first| first.0.0.saturating_duration_since(now));
        if !wait.is_zero() {
            all = shared.woken.wait_timeout(all, wait.min(LOOK)).unwrap().0;
            continue;
        }
        let Some(Reverse(Waiting(_, _, parcel))) = all.pop() else { continue };
        drop(all);
        shared.send(parcel.from, parcel.to, &parcel.bytes);
        all = shared.waiting.lock().unwrap();
    }
}

/// A xorshift generator with a fixed start, so that a path treats a run like the one before.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    fn hits(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    fn share(&mut self) -> f64 {
        self.below(1 << 20) as f64 / f64::from(1 << 20)
    }
}
