//! Arguments of the commands with which an agent is looked at.

use super::Socket;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use ripstop_config::{HostName, Reason, Span};
use ripstop_datapath::capture::{BYTES_MAX, LONGEST, SNAP_MAX};
use std::{
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// The agent's settings
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "/etc/ripstop/agent.yaml")]
    pub(in crate::cli) config: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Observe {
    /// Go on: show records as sessions end
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
    /// Show the newest N of those that fit [default: 20; all that are kept with --since]
    #[arg(short = 'n', long, value_name = "N")]
    pub(in crate::cli) last: Option<usize>,
    /// Only of this calling workload: TENANT/NAME, or NAME
    #[arg(long, value_name = "WORKLOAD")]
    pub(in crate::cli) from: Option<String>,
    /// Only to this service: TENANT/NAME, NAME, or the address that was called
    #[arg(long, value_name = "SERVICE")]
    pub(in crate::cli) to: Option<String>,
    /// Only of this pod or container: the beginning of its id, as `ripstop workloads` shows it
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) replica: Option<String>,
    /// Only with a caller or a service of this tenant
    #[arg(long, value_name = "TENANT")]
    pub(in crate::cli) tenant: Option<String>,
    /// Only with this verdict
    #[arg(long, value_enum)]
    pub(in crate::cli) verdict: Option<Verdict>,
    /// Only with this reason, such as `no_edge` or `closed`
    #[arg(long, value_name = "REASON")]
    pub(in crate::cli) reason: Option<Reason>,
    /// Only sessions that ended since: a time ago, such as `5m`, or a time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub(in crate::cli) since: Option<Since>,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Verdict {
    Allow,
    Deny,
}

impl Verdict {
    pub(in crate::cli) fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A time, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Since(pub(in crate::cli) i64);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self(time.unix_timestamp()));
        }
        let ago: Span = text.parse().map_err(|error| format!("{error}, or a time such as 2026-01-31T12:00:00Z"))?;
        let now = OffsetDateTime::from(SystemTime::now());
        let since = now.checked_sub(ago.duration().try_into().map_err(|_| "that is too long ago")?);
        Ok(Self(since.ok_or("that is too long ago")?.unix_timestamp()))
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Services {
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Capture {
    /// A service: TENANT/NAME, or NAME where only one tenant has it; or the id of an open session, as the page and records show it
    #[arg(value_name = "SERVICE|SESSION")]
    pub(in crate::cli) what: String,
    /// Only calls of this workload: TENANT/NAME, or NAME where only one tenant has it
    #[arg(long, value_name = "WORKLOAD")]
    pub(in crate::cli) from: Option<String>,
    /// The file to make, or `-` for standard output, as for `wireshark -k -i -`
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "-")]
    pub(in crate::cli) write: PathBuf,
    /// For how long, an hour at most
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = capture_time)]
    pub(in crate::cli) time: Span,
    /// At most so many bytes of packets, such as 500k, 64m or 1g
    #[arg(long, value_name = "SIZE", default_value = "64m")]
    pub(in crate::cli) bytes: Size,
    /// Only the first so many bytes of each packet
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(SNAP_MAX)))]
    pub(in crate::cli) snap: Option<u32>,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

fn capture_time(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    let fits = (Duration::from_secs(1)..=LONGEST).contains(&span.duration());
    if fits { Ok(span) } else { Err("a capture takes a second to an hour".into()) }
}

/// A number of bytes: `4096`, `500k`, `64m`, `1g`, in powers of 1 024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Size(pub(in crate::cli) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, shift) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 10),
            Some((at, 'm' | 'M')) => (&text[..at], 20),
            Some((at, 'g' | 'G')) => (&text[..at], 30),
            Some(_) | None => (text, 0),
        };
        let digits = number.bytes().all(|digit| digit.is_ascii_digit());
        let bytes = number.parse::<u64>().ok().filter(|_| digits).and_then(|number| number.checked_mul(1 << shift));
        let fits = bytes.filter(|bytes| (1..=BYTES_MAX).contains(bytes));
        fits.map(Self).ok_or_else(|| "write 1 byte to 1g, such as `4096`, `500k` or `64m`".into())
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [("g", 30), ("m", 20), ("k", 10)];
        let unit = units.into_iter().find(|(_, shift)| self.0.is_multiple_of(1 << shift));
        let (name, shift) = unit.unwrap_or(("", 0));
        write!(f, "{}{name}", self.0 >> shift)
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Page {
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Peers {
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Ping {
    /// The other host
    #[arg(value_name = "PEER")]
    pub(in crate::cli) peer: HostName,
    /// How many times
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) count: u32,
    /// The pause between two, such as `200ms`
    #[arg(short, long, value_name = "DURATION", default_value = "1s")]
    pub(in crate::cli) interval: Span,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DnsCommand {
    /// Ask for a name as a workload
    ///
    /// Exits with 3 when the fabric hides the name from it, and with 1 for every other answer without records.
    Query(DnsQuery),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DnsQuery {
    /// The name; one without a dot is a service of the workload's tenant
    pub(in crate::cli) name: String,
    /// The type of records
    #[arg(value_name = "TYPE", default_value = "A")]
    pub(in crate::cli) kind: String,
    /// Who asks: TENANT/NAME, or NAME where only one tenant has it
    #[arg(long = "as", value_name = "WORKLOAD")]
    pub(in crate::cli) workload: String,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Top {
    /// The pause between two looks, such as `500ms`
    #[arg(short, long, value_name = "DURATION", default_value = "1s")]
    pub(in crate::cli) interval: Span,
    /// By what to sort
    #[arg(short, long, value_enum, default_value_t)]
    pub(in crate::cli) sort: Sort,
    /// Look so often and end [default: until `q` on a terminal, else once]
    #[arg(short = 'n', long, value_name = "N")]
    pub(in crate::cli) count: Option<u32>,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Sort {
    /// Bytes a second, both ways
    #[default]
    Rate,
    /// Open sessions
    Sessions,
    /// Denied sessions a second
    Denied,
    /// Caller and service
    Name,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Bugreport {
    /// The agent's settings
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "/etc/ripstop/agent.yaml")]
    pub(in crate::cli) config: PathBuf,
    /// The archive to write [default: ripstop-bugreport-TIME.tar.gz]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) out: Option<PathBuf>,
    /// The agent's log, where it is a file; else systemd's journal is asked
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) log: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) socket: Socket,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Man {
    /// Where to put them
    #[arg(value_hint = ValueHint::DirPath)]
    pub(in crate::cli) directory: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, bytes, shown) in [
            ("1", 1, "1"),
            ("500k", 500 << 10, "500k"),
            ("64M", 64 << 20, "64m"),
            ("1g", 1 << 30, "1g"),
            ("1025", 1025, "1025"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
        for bad in ["", "k", "0", "-1", "+1", "1.5m", "2g", "1kb", "é", "99999999999999999999"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
