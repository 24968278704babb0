//! `ripstop bugreport`: what a developer needs to know, in one archive.
//!
//! What is read can hold no secret: keys are never opened. All the same every text is looked through for what looks like
//! one ([`without_secrets`]), as people paste things into settings and logs.

use super::{Exit, args, output::Output, socket};
use crate::{
    admin::{Client, RecordsQuery, SOCKET},
    check, files,
};
use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use ripstop_config::{AgentConfig, agent::PolicySource};
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    net::TcpStream,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use time::{OffsetDateTime, macros::format_description};

/// Bytes of a log that are taken, from its end.
const LOG_BYTES: u64 = 4 << 20;
/// Lines of the journal that are taken.
const JOURNAL_LINES: &str = "20000";
/// Bytes of metrics that are taken.
const METRICS_BYTES: u64 = 16 << 20;
/// How long the metrics may take.
const METRICS_WAIT: Duration = Duration::from_secs(5);
/// What a token to join begins with; see [`ripstop_transport::enrol::Token`].
const TOKEN: &str = "rsj1_";
/// Commands that only look.
const LOOKS: [(&str, &[&str]); 5] = [
    ("addresses", &["ip", "-details", "address"]),
    ("rules-v4", &["ip", "rule"]),
    ("rules-v6", &["ip", "-6", "rule"]),
    ("routes", &["ip", "route", "show", "table", "all"]),
    ("tables", &["nft", "list", "tables"]),
];

/// What goes into the archive: names and texts, and what could not be had.
#[derive(Default)]
struct Parts {
    texts: Vec<(String, String)>,
    missing: Vec<String>,
}

/// Writes the archive, with mode 0600, where there is no file yet.
pub(super) fn run(asked: &args::Bugreport, output: &Output) -> anyhow::Result<Exit> {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    let name = format!("ripstop-bugreport-{}", OffsetDateTime::now_utc().format(form)?);
    let path = asked.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let shown = path.display();
    let parts = gather(asked);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot make {shown}; name another file with --out"))?;
    archive(file, &name, &parts).with_context(|| format!("cannot write {shown}"))?;
    let value = serde_json::json!({ "file": path, "missing": parts.missing });
    output.show(&value, || {
        let missing: String = parts.missing.iter().map(|one| format!("  not in it: {one}\n")).collect();
        format!("{shown}: {} files\n{missing}", parts.texts.len())
    })?;
    Ok(Exit::Ok)
}

fn gather(asked: &args::Bugreport) -> Parts {
    let mut parts = Parts::default();
    let settings = files::read(&asked.config);
    let config =
        settings.as_ref().ok().and_then(|text| AgentConfig::parse(&asked.config.display().to_string(), text).ok());
    parts.add("agent.yaml", settings);
    if let Some(PolicySource::File(graph)) = config.as_ref().map(|config| &config.policy) {
        parts.add("graph.yaml", files::read(graph));
    }
    let client = match (&asked.socket.socket, &config) {
        (Some(socket), _) => Client::new(socket),
        (None, Some(config)) => Client::new(&config.run.join(SOCKET)),
        // Never empty.
        (None, None) => socket::clients(&asked.socket).swap_remove(0),
    };
    parts.add("version.txt", version());
    parts.json("check.json", Ok(check::check(&asked.config, |_| client.clone())));
    let status = client.status();
    let metrics = status.as_ref().ok().and_then(|status| status.metrics.clone());
    parts.json("status.json", status.map_err(Into::into));
    parts.json("services.json", client.services().map_err(Into::into));
    parts.json("sessions.json", client.sessions().map_err(Into::into));
    parts.json("records.json", client.records(&RecordsQuery::default()).map_err(Into::into));
    if let Some(address) = metrics {
        parts.add("metrics.txt", scrape(&address));
    }
    parts.add("log.txt", log(asked.log.as_deref()));
    for (name, line) in LOOKS {
        parts.add(&format!("{name}.txt"), said(line));
    }
    parts
}

impl Parts {
    fn add(&mut self, name: &str, text: anyhow::Result<String>) {
        match text {
            Ok(text) => self.texts.push((name.into(), without_secrets(&text))),
            Err(error) => self.missing.push(format!("{name}: {error:#}")),
        }
    }

    fn json(&mut self, name: &str, value: anyhow::Result<impl Serialize>) {
        self.add(name, value.and_then(|value| Ok(serde_json::to_string_pretty(&value)?)));
    }
}

fn version() -> anyhow::Result<String> {
    let kernel = files::read(Path::new("/proc/version"))?;
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    Ok(format!("ripstop {}\n{kernel}{system}", env!("CARGO_PKG_VERSION")))
}

fn scrape(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(METRICS_WAIT))?;
    // HTTP/1.0: the answer ends with the connection (RFC 1945 section 7.2.2).
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(METRICS_BYTES).read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer))
}

fn log(file: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = file else {
        return said(&["journalctl", "--unit=ripstop", "--no-pager", "--output=short-iso", "--lines", JOURNAL_LINES]);
    };
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a command says, on both channels.
fn said(line: &[&str]) -> anyhow::Result<String> {
    let (program, arguments) = line.split_first().context("there is no command")?;
    let ran = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let ran = ran.with_context(|| format!("cannot run {program}"))?;
    let text = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    anyhow::ensure!(ran.status.success(), "`{}` failed: {}", line.join(" "), text.trim_end());
    Ok(text)
}

fn archive(file: File, name: &str, parts: &Parts) -> io::Result<()> {
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
    for (part, text) in &parts.texts {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        tar.append_data(&mut header, format!("{name}/{part}"), text.as_bytes())?;
    }
    tar.into_inner()?.finish()?.sync_all()
}

/// The text without tokens and private keys.
fn without_secrets(text: &str) -> String {
    let (mut out, mut in_key) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        let begins = line.find("-----BEGIN ").filter(|at| line[*at..].contains("PRIVATE KEY"));
        if let Some(at) = begins {
            // In JSON all of a key may stand on one line.
            in_key = !line[at..].contains("-----END ");
            out.push_str(&line[..at]);
            out.push_str("(a private key was here)\n");
        } else if in_key {
            in_key = !line.contains("-----END ");
        } else {
            push_without_tokens(&mut out, line);
        }
    }
    out
}

fn push_without_tokens(out: &mut String, mut line: &str) {
    while let Some(at) = line.find(TOKEN) {
        out.push_str(&line[..at]);
        out.push_str("(a token was here)");
        let rest = &line[at + TOKEN.len()..];
        let end = rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_' && char != '-');
        line = end.map_or("", |end| &rest[end..]);
    }
    out.push_str(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_the_rest_stays() {
        let key = "-----BEGIN PRIVATE KEY-----\nCANARY1\nCANARY2\n-----END PRIVATE KEY-----\n";
        let text = format!(
            "a: 1\n# rsj1_CANARY3-x_y, b\n{key}c: 2\n\"-----BEGIN EC PRIVATE KEY-----\\nCANARY4\\n-----END EC PRIVATE KEY-----\"\nd rsj1_CANARY5"
        );
        let clean = without_secrets(&text);
        assert!(!clean.contains("CANARY"), "{clean}");
        for kept in ["a: 1\n", ", b\n", "c: 2\n", "\nd (a token was here)"] {
            assert!(clean.contains(kept), "`{kept}` is not in {clean}");
        }
    }

    #[test]
    fn what_begins_a_token_is_what_tokens_begin_with() {
        let token = ripstop_transport::enrol::Token::generate(ripstop_transport::enrol::Pin([3; 32])).unwrap();
        assert!(token.reveal().starts_with(TOKEN));
    }
}
