//! Small sessions: requests and replies at a steady pace, and how each fared.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// Bytes of a request and of its reply.
pub const MESSAGE: usize = 200;
/// From one request of a session to its next.
pub const PACE: Duration = Duration::from_millis(20);
/// The longest that a connection, or an answer, may take.
const ANSWER: Duration = Duration::from_secs(20);

/// How small sessions fared beside each other.
pub struct Fared {
    /// What each exchange took, from the shortest to the longest.
    times: Vec<Duration>,
    /// Exchanges of each session.
    counts: Vec<f64>,
}

impl Fared {
    /// What so many percent of the exchanges took at most.
    pub fn percentile(&self, percent: usize) -> Duration {
        self.times[(self.times.len() * percent / 100).min(self.times.len() - 1)]
    }

    /// Jain's index of the exchanges that the sessions had.
    pub fn jain(&self) -> f64 {
        jain(&self.counts)
    }

    /// Exchanges of the session that had fewest, of those that it wanted.
    pub fn least(&self, length: Duration) -> f64 {
        let wanted = length.as_secs_f64() / PACE.as_secs_f64();
        self.counts.iter().copied().fold(f64::INFINITY, f64::min) / wanted
    }
}

/// Jain's index: 1 when all got the same, 1/n when one got all.
pub fn jain(got: &[f64]) -> f64 {
    let (sum, squares) = got.iter().fold((0.0, 0.0), |(sum, squares), one| (sum + one, squares + one * one));
    sum * sum / (got.len() as f64 * squares)
}

/// So many sessions from where the calling thread is, to each address in turn: a request each [`PACE`], or when the reply
/// to the last is there if that is later.
///
/// # Errors
/// When a session cannot be opened or ends.
pub fn sessions(to: &[SocketAddr], count: usize, length: Duration) -> io::Result<Fared> {
    let streams: Vec<_> = to.iter().cycle().take(count).map(open).collect::<io::Result<_>>()?;
    let together = Barrier::new(count);
    let each: Vec<Vec<Duration>> = thread::scope(|scope| {
        let start = |(number, stream)| {
            let (together, offset) = (&together, PACE.mul_f64(number as f64 / count as f64));
            scope.spawn(move || {
                together.wait();
                thread::sleep(offset);
                exchanges(stream, length)
            })
        };
        let sessions: Vec<_> = streams.into_iter().enumerate().map(start).collect();
        let ended =
            sessions.into_iter().map(|session| session.join().unwrap_or_else(|_| Err(io::Error::other("panic"))));
        ended.collect::<io::Result<_>>()
    })?;
    let counts = each.iter().map(|times| times.len() as f64).collect();
    let mut times: Vec<_> = each.into_iter().flatten().collect();
    times.sort_unstable();
    Ok(Fared { times, counts })
}

fn open(to: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(to, ANSWER)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}

fn exchanges(mut stream: TcpStream, length: Duration) -> io::Result<Vec<Duration>> {
    let (mut message, start, mut times) = ([b'x'; MESSAGE], Instant::now(), Vec::new());
    let mut due = start;
    while start.elapsed() < length {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(asked.elapsed());
        due = (due + PACE).max(Instant::now());
    }
    Ok(times)
}
