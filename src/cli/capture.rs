//! `ripstop capture`: packets of workloads on both hosts, in one file.

use super::{
    Exit, args,
    output::{Output, complain},
    shown::bytes,
    socket,
};
use crate::admin::{CaptureQuery, CapturedOn, Capturing, CapturingOn, Client, ClientError, TakeAll};
use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use ripstop_config::{HostName, InterfaceId};
use ripstop_datapath::capture::{PART_MAX, Part, Recording, SNAP_MAX, Total};
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufWriter, ErrorKind, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// How often the agents are asked, so that who looks on sees packets as they pass.
const VISIT: Duration = Duration::from_millis(200);
/// Bytes of a part, in base64, with which it may be that more wait: they are asked for at once.
const MUCH: usize = PART_MAX / 2;
/// How many visits in a row a host may fail before it is given up: its connection may be made anew.
const FAILURES_MAX: u32 = 3;
/// Visits in which the rest may be had at the end.
const REST_MAX: u32 = 64;

/// A host of which packets are awaited.
struct Awaited {
    host: HostName,
    id: u64,
    /// It tells replicas apart.
    by_replica: bool,
    failures: u32,
}

/// What came of it, for programs.
#[derive(Serialize)]
struct Done<'d> {
    file: &'d Path,
    ended: &'static str,
    captured: &'d [Total],
    gaps: &'d [String],
}

/// Captures until the time or the bytes are over, no host has more, somebody ends it, or nobody reads it any more.
pub(super) fn run(asked: &args::Capture, output: &Output) -> anyhow::Result<Exit> {
    let to_stdout = asked.write == Path::new("-");
    check(to_stdout, output)?;
    let client = socket::one(&asked.socket)?;
    let stopped = stop_signals()?;
    // Before that of any host, so that it is this end that says why.
    let until = Instant::now() + asked.time.duration();
    let mut capture = Capture::begin(&client, asked)?;
    let out = match open(&asked.write, to_stdout) {
        Ok(out) => out,
        Err(error) => {
            capture.end()?;
            return Err(error);
        }
    };
    let shown = asked.write.display();
    let recorded = capture.record(out, asked, (until, &stopped));
    let gone = matches!(&recorded, Err(error) if is_broken_pipe(error));
    if gone {
        // Whoever read it has seen enough.
        capture.end()?;
        return Ok(Exit::Ok);
    }
    let (ended, totals) = recorded.with_context(|| format!("cannot capture into {shown}"))?;
    let done = Done { file: &asked.write, ended, captured: &totals, gaps: &capture.gaps };
    if to_stdout {
        complain(&told(&done));
    } else {
        output.show(&done, || told(&done))?;
    }
    Ok(if totals.iter().any(|total| total.packets > 0) { Exit::Ok } else { Exit::Failed })
}

fn check(to_stdout: bool, output: &Output) -> anyhow::Result<()> {
    if to_stdout && output.is_json() {
        bail!("with `-o json` the file needs a name: `--write FILE`");
    }
    if to_stdout && io::stdout().is_terminal() {
        bail!(
            "a terminal cannot show packets: name a file with `--write FILE`, or pipe them into `wireshark -k -i -` or `tcpdump -r -`"
        );
    }
    Ok(())
}

/// A file is made anew, and is its owner's alone: one that is there may be for others to read.
fn open(path: &Path, to_stdout: bool) -> anyhow::Result<Box<dyn Write>> {
    if to_stdout {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot make {}; name another file with --write", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Told once SIGINT or SIGTERM has come: the file is to be ended well.
fn stop_signals() -> anyhow::Result<Receiver<()>> {
    let (stop, stopped) = mpsc::sync_channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let [mut interrupt, mut terminate] = {
        let _inside = runtime.enter();
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        // It may have ended by itself meanwhile.
        let _ = stop.try_send(());
    })?;
    Ok(stopped)
}

/// A capture that runs.
struct Capture<'c> {
    client: &'c Client,
    begun: Capturing,
    awaited: Vec<Awaited>,
    /// What is not seen, and why.
    gaps: Vec<String>,
}

impl<'c> Capture<'c> {
    fn begin(client: &'c Client, asked: &args::Capture) -> anyhow::Result<Self> {
        let begun = client.capture(&CaptureQuery {
            what: asked.what.clone(),
            from: asked.from.clone(),
            seconds: u64::try_from(asked.time.duration().as_millis().div_ceil(1_000)).unwrap_or(u64::MAX),
            bytes: asked.bytes.0,
            snap: asked.snap.unwrap_or(SNAP_MAX),
        })?;
        let taking_part = begun.hosts.iter().filter_map(|on| {
            let (host, by_replica) = (on.host.clone(), on.interfaces.is_some());
            Some(Awaited { host, id: on.id?, by_replica, failures: 0 })
        });
        let awaited = taking_part.collect();
        let mut gaps = Vec::new();
        for on in &begun.hosts {
            gaps.extend(on.error.iter().map(|why| format!("nothing of {}: {why}", on.host)));
            gaps.extend(on.gaps.iter().cloned());
        }
        for on in &begun.hosts {
            let names: Vec<_> = on.workloads.iter().map(ToString::to_string).collect();
            if on.id.is_some() && !names.is_empty() {
                complain(&format!("{}, as seen by {} on {}\n", begun.target, names.join(" and "), on.host));
            }
        }
        gaps.iter().for_each(|gap| complain(&format!("not captured: {gap}\n")));
        Ok(Self { client, begun, awaited, gaps })
    }

    fn record(
        &mut self,
        out: Box<dyn Write>,
        asked: &args::Capture,
        (until, stopped): (Instant, &Receiver<()>),
    ) -> anyhow::Result<(&'static str, Vec<Total>)> {
        let mut recording = Recording::begin(out, asked.bytes.0, &self.comment())?;
        for on in &self.begun.hosts {
            interfaces(on).iter().try_for_each(|interface| recording.expect(&on.host, interface))?;
        }
        let ended = loop {
            let is_much = self.visit(&mut recording, false)?;
            recording.settle()?;
            let now = Instant::now();
            if recording.is_full() {
                break "all the bytes that were asked for are there";
            }
            if now >= until {
                break "the time is over";
            }
            if self.awaited.is_empty() {
                break "no host captures any more: the bytes or the time are over there, or it was lost";
            }
            let pause = if is_much { Duration::ZERO } else { VISIT.min(until.saturating_duration_since(now)) };
            match stopped.recv_timeout(pause) {
                Ok(()) => break "it was ended",
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(pause),
            }
        };
        self.rest(&mut recording)?;
        Ok((ended, recording.finish()?))
    }

    /// Has every host stop, after what it still has.
    fn rest(&mut self, recording: &mut Recording<Box<dyn Write>>) -> anyhow::Result<()> {
        for _ in 0..REST_MAX {
            if self.awaited.is_empty() || recording.is_full() || !self.visit(recording, false)? {
                break;
            }
            recording.settle()?;
        }
        self.visit(recording, true).map(drop)
    }

    /// Takes what hosts have; whether any may have more.
    fn visit(&mut self, recording: &mut Recording<Box<dyn Write>>, end: bool) -> anyhow::Result<bool> {
        let taken = match self.take(end) {
            Ok(taken) => taken,
            Err(why) => {
                self.lost(&why);
                return Ok(false);
            }
        };
        let mut is_much = false;
        for CapturedOn { host, part, error } in taken {
            let Some(at) = self.awaited.iter().position(|one| one.host == host) else { continue };
            let part = match (part, error) {
                (Some(part), _) => {
                    is_much |= part.len() >= MUCH;
                    STANDARD.decode(part).map_err(anyhow::Error::new).and_then(|bytes| Ok(Part::decode(&bytes)?))
                }
                (None, error) => Err(anyhow::anyhow!(error.unwrap_or_default())),
            };
            match part {
                Ok(part) => {
                    let over = part.over || end;
                    self.awaited[at].failures = 0;
                    recording.add(&host, part)?;
                    if over {
                        self.awaited.remove(at);
                    }
                }
                Err(why) => self.failed(at, &why, end),
            }
        }
        Ok(is_much)
    }

    fn failed(&mut self, at: usize, why: &anyhow::Error, end: bool) {
        self.awaited[at].failures += 1;
        if end || self.awaited[at].failures >= FAILURES_MAX {
            let Awaited { host, .. } = self.awaited.remove(at);
            self.miss(format!("the rest of {host}: {why}"));
        }
    }

    /// The agent of this host is gone, or another one; what is here is worth having all the same.
    fn lost(&mut self, why: &ClientError) {
        self.awaited.clear();
        self.miss(format!("the rest: {why}"));
    }

    fn miss(&mut self, gap: String) {
        complain(&format!("not captured: {gap}\n"));
        self.gaps.push(gap);
    }

    fn take(&self, end: bool) -> Result<Vec<CapturedOn>, ClientError> {
        let captures = self.awaited.iter().map(|one| (one.host.clone(), one.id)).collect();
        let by_replica = self.awaited.iter().filter(|one| one.by_replica).map(|one| one.host.clone()).collect();
        self.client.captured(&TakeAll { captures, end, by_replica })
    }

    /// Ends it, whatever it has.
    fn end(&self) -> Result<(), ClientError> {
        self.take(true).map(drop)
    }

    /// What the file says of itself.
    fn comment(&self) -> String {
        let gaps: String = self.gaps.iter().map(|gap| format!("\nnot captured: {gap}")).collect();
        format!("{}; each host's packets by its own clock{gaps}", self.begun.target)
    }
}

/// Those of a host from which packets may come, as far as it says.
fn interfaces(on: &CapturingOn) -> Vec<InterfaceId> {
    match &on.interfaces {
        Some(interfaces) => interfaces.clone(),
        None => on.workloads.iter().cloned().map(InterfaceId::only).collect(),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn told(done: &Done<'_>) -> String {
    let line = |total: &Total| {
        let Total { host, workload, replica, packets, missed, .. } = total;
        let id = InterfaceId { workload: workload.clone(), replica: replica.clone() };
        let missed = if *missed > 0 { format!(", {missed} more did not fit") } else { String::new() };
        format!("{host} {id}: {packets} packets, {}{missed}\n", bytes(total.bytes as f64))
    };
    let lines: String = done.captured.iter().map(line).collect();
    let to = if done.file == Path::new("-") { String::new() } else { format!("{}: ", done.file.display()) };
    format!("{lines}{to}{}\n", done.ended)
}
