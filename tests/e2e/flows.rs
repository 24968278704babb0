//! What the tests of bad paths have in common: sessions with patience, and transfers that are watched.

use crate::{lab::Lab, pattern, servers::echo};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Whether the long variants run: `RIPSTOP_LAB_LONG=1`.
pub fn long() -> bool {
    std::env::var_os("RIPSTOP_LAB_LONG").is_some_and(|value| value == "1")
}

/// The size of a run: a long one where it is asked for, else a short one, and says which.
pub fn sized<T: std::fmt::Display>(what: &str, short: T, long_form: T) -> T {
    if long() {
        return long_form;
    }
    println!("SHORT FORM: {what} {short}; RIPSTOP_LAB_LONG=1 runs {long_form}");
    short
}

/// A session of `web` to the service, whose reads and writes fail after so long.
pub fn session(lab: &Lab, patience: Duration) -> TcpStream {
    try_session(lab, lab.service("shop/api", 8080), patience).expect("allowed and served")
}

/// The same, for what may fail.
pub fn try_session(lab: &Lab, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let stream = lab.workload("web").inside(|| TcpStream::connect_timeout(&to, patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// How a transfer went.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    pub bytes: u64,
    pub took: Duration,
    /// The longest time in which nothing arrived.
    pub gap: Duration,
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.bytes as f64 * 8.0 / self.took.as_secs_f64() / 1e6;
        let (megabytes, took) = (self.bytes as f64 / 1e6, self.took.as_secs_f64());
        write!(f, "{megabytes:.0} MB in {took:.1} s ({rate:.0} Mbit/s), longest gap {} ms", self.gap.as_millis())
    }
}

/// Bytes of a transfer that have arrived.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes have arrived.
    pub fn wait(&self, bytes: u64) {
        let start = Instant::now();
        while self.bytes() < bytes {
            assert!(start.elapsed() < Duration::from_secs(60), "{} of {bytes} bytes after a minute", self.bytes());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Notes the longest pause between reads.
struct Watching<R> {
    from: R,
    last: Instant,
    gap: Duration,
    progress: Progress,
}

impl<R: Read> Read for Watching<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.gap = self.gap.max(self.last.elapsed());
        self.last = Instant::now();
        self.progress.0.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Reads a pattern to its end, compares every byte, and notes how it went.
fn watch(from: impl Read, seed: u64, progress: Progress) -> std::io::Result<Watched> {
    let start = Instant::now();
    let mut watching = Watching { from, last: start, gap: Duration::ZERO, progress };
    let bytes = pattern::read_to_end(&mut watching, seed)?;
    Ok(Watched { bytes, took: start.elapsed(), gap: watching.gap })
}

/// Sends so many bytes through an echoing endpoint and back at once, while `meanwhile` happens, which must be before the
/// last byte has arrived; every byte is compared.
pub fn there_and_back(stream: TcpStream, bytes: u64, meanwhile: impl FnOnce(&Progress)) -> Watched {
    let mut writer = stream.try_clone().unwrap();
    let up = thread::spawn(move || {
        pattern::write(&mut writer, bytes, bytes)?;
        writer.shutdown(Shutdown::Write)
    });
    let progress = Progress::default();
    let down = thread::spawn({
        let progress = progress.clone();
        move || watch(stream, bytes, progress)
    });
    meanwhile(&progress);
    assert!(progress.bytes() < bytes, "the transfer was over too soon");
    let watched = down.join().unwrap().expect("the session lives to its end");
    up.join().unwrap().expect("the session lives to its end");
    assert_eq!(watched.bytes, bytes);
    watched
}

/// One small request and its answer on an open session to an echoing endpoint.
pub fn exchange(stream: &mut TcpStream, number: u32) -> std::io::Result<Duration> {
    let start = Instant::now();
    stream.write_all(&number.to_be_bytes())?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    assert_eq!(u32::from_be_bytes(back), number);
    Ok(start.elapsed())
}

/// Opens so many sessions, `at_once` at a time, makes an exchange on each, and returns how long each opening took and
/// what failed.
pub fn open_many(lab: &Lab, count: u32, at_once: u32, patience: Duration) -> (Vec<Duration>, Vec<String>) {
    let to = lab.service("shop/api", 8080);
    let web = lab.workload("web");
    let share = |first: u32| {
        web.thread(move || {
            let one = |number| {
                let start = Instant::now();
                let mut stream =
                    TcpStream::connect_timeout(&to, patience).map_err(|e| format!("{number}: open: {e}"))?;
                let took = start.elapsed();
                stream.set_read_timeout(Some(patience)).unwrap();
                exchange(&mut stream, number).map_err(|error| format!("{number}: exchange: {error}"))?;
                Ok::<_, String>(took)
            };
            (first..count).step_by(at_once as usize).map(one).collect::<Vec<_>>()
        })
    };
    let threads: Vec<_> = (0..at_once).map(share).collect();
    let results = threads.into_iter().flat_map(|thread| thread.join().unwrap());
    let (good, bad): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
    let mut took: Vec<_> = good.into_iter().map(Result::unwrap).collect();
    took.sort();
    (took, bad.into_iter().map(Result::unwrap_err).collect())
}

/// The value below which so many of a hundred sorted ones are.
pub fn percentile(sorted: &[Duration], of_hundred: usize) -> Duration {
    sorted[(sorted.len() * of_hundred / 100).min(sorted.len() - 1)]
}

/// A lab with a relay and an echoing endpoint: what most tests of bad paths need.
pub fn echoing() -> (Lab, crate::lab::Listening) {
    let lab = Lab::of(&["alpha", "beta"]).through_relay().start();
    let server = lab.workload("api").serve(8080, echo);
    (lab, server)
}
