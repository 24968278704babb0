//! Reading the session records that the agents write: where the demo takes rule, endpoint and cipher from.

use super::cast::Host;
use anyhow::anyhow;
use serde::Deserialize;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// A record is written when its session ends, which a client sees at the same moment.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);

/// What the demo shows of a record.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Record {
    pub(super) side: String,
    pub(super) caller: String,
    pub(super) service: Option<String>,
    pub(super) endpoint_host: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) verdict: String,
    pub(super) rule: Option<String>,
    pub(super) reason: String,
    pub(super) cipher: Option<String>,
    pub(super) waited_s: f64,
}

impl Record {
    /// `rule graph.yaml:20, endpoint gamma 127.0.0.1:8080, TLS13_AES_128_GCM_SHA256`.
    pub(super) fn describe(&self) -> String {
        let endpoint = self.endpoint.as_deref().or(self.endpoint_host.as_deref());
        let rule = self.rule.as_deref().map(|rule| rule.rsplit('/').next().unwrap_or(rule));
        let parts = [rule.map(|rule| format!("rule {rule}")), endpoint.map(|endpoint| format!("endpoint {endpoint}"))];
        let parts = parts.into_iter().chain([self.cipher.clone()]).flatten();
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// The records of one host, from where it was last read.
#[derive(Debug)]
pub(super) struct Records {
    file: PathBuf,
    read: u64,
}

impl Records {
    pub(super) fn of(host: Host) -> Self {
        Self { file: file_of(host), read: 0 }
    }

    /// Forgets what was written until now.
    pub(super) fn skip(&mut self) {
        self.read = std::fs::metadata(&self.file).map_or(0, |found| found.len());
    }

    /// Waits for the record of a call seen from the caller's side; records read on the way are passed over.
    pub(super) fn wait(&mut self, caller: &str, service: &str) -> anyhow::Result<Record> {
        self.wait_for_side("caller", caller, service)
    }

    /// Waits for the record that the caller's or the server's side wrote of a call.
    pub(super) fn wait_for_side(&mut self, side: &str, caller: &str, service: &str) -> anyhow::Result<Record> {
        let (caller, service) = (format!("shop/{caller}"), format!("shop/{service}"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_it =
                |one: &Record| one.side == side && one.caller == caller && one.service.as_ref() == Some(&service);
            if let Some(record) = self.next_lines().into_iter().find(is_it) {
                return Ok(record);
            }
            if Instant::now() > deadline {
                return Err(anyhow!(
                    "{} has no record of {caller} calling {service} from the {side}'s side",
                    self.file.display()
                ));
            }
            thread::sleep(PAUSE);
        }
    }

    /// The last record of a call seen from the caller's side that one of these hosts has written.
    pub(super) fn last_on(hosts: &[Host], caller: &str, service: &str) -> Option<Record> {
        let (caller, service) = (format!("shop/{caller}"), format!("shop/{service}"));
        let is_it =
            |one: &Record| one.side == "caller" && one.caller == caller && one.service.as_ref() == Some(&service);
        hosts.iter().flat_map(|host| Self::of(*host).next_lines()).rfind(is_it)
    }

    /// The records of whole lines that came since; a line still being written stays for the next time.
    fn next_lines(&mut self) -> Vec<Record> {
        let mut text = String::new();
        let read = File::open(&self.file).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_string(&mut text)
        });
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if read.is_err() || whole == 0 {
            return Vec::new();
        }
        self.read += whole as u64;
        text[..whole].lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Where a host's agent writes its session records.
pub(super) fn file_of(host: Host) -> PathBuf {
    host.directory().join("sessions.jsonl")
}
