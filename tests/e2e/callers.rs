//! Callers that go on calling while a test changes something.

use crate::lab::Place;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Longest wait of a caller for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// What became of one call: who answered, or what went wrong; when it began, and how long it took.
#[derive(Debug, Clone)]
pub struct Call {
    pub began: Duration,
    pub took: Duration,
    pub answer: Result<String, String>,
}

/// Connects, asks over HTTP, and returns the body of the answer.
pub fn ask(to: SocketAddr) -> Result<String, String> {
    let asking = || {
        let mut stream = TcpStream::connect_timeout(&to, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer: std::io::Result<String> = asking();
    let answer = answer.map_err(|error| format!("{:?}: {error}", error.kind()))?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(format!("no answer: {answer}"))
}

/// One caller after another, without a pause, until it is stopped.
pub struct Steady {
    stop: Arc<AtomicBool>,
    caller: Option<JoinHandle<Vec<Call>>>,
}

impl Steady {
    pub fn start(place: &Place, to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, start) = (Arc::clone(&stop), Instant::now());
        let caller = place.thread(move || {
            let mut calls = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                calls.push(call(start, to));
                thread::sleep(Duration::from_millis(1));
            }
            calls
        });
        Self { stop, caller: Some(caller) }
    }

    /// Every call that was made.
    pub fn stop(mut self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        self.caller.take().unwrap().join().unwrap()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn call(start: Instant, to: SocketAddr) -> Call {
    let began = start.elapsed();
    let answer = ask(to);
    Call { began, took: start.elapsed() - began, answer }
}

/// So many calls a second for so long, however long each takes.
pub fn rate(place: &Place, to: SocketAddr, per_second: u32, during: Duration) -> JoinHandle<Vec<Call>> {
    place.thread(move || {
        let (start, pause) = (Instant::now(), Duration::from_secs(1) / per_second);
        let mut callers = Vec::new();
        for index in 0.. {
            let due = pause * index;
            if due >= during {
                break;
            }
            thread::sleep(due.saturating_sub(start.elapsed()));
            callers.push(thread::spawn(move || call(start, to)));
        }
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    })
}

/// Who answered how often; fails if anybody was not answered.
pub fn tally(calls: &[Call]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for call in calls {
        let who = call.answer.as_ref().unwrap_or_else(|error| panic!("{error} ({call:?})"));
        *tally.entry(who.clone()).or_default() += 1;
    }
    tally
}

/// So many calls, one after the other.
pub fn calls(place: &Place, to: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let start = Instant::now();
    tally(&place.inside(|| (0..count).map(|_| call(start, to)).collect::<Vec<_>>()))
}
