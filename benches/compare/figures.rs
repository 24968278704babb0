//! What is measured, and the figures so far.

use crate::{
    common::{
        link::{Link, MTU},
        stats::{median, spread},
    },
    system::{Class, System},
};
use std::{collections::BTreeMap, time::Duration};

/// Idle sessions beside which new connections are timed, and whose memory is measured.
pub const IDLE: u64 = 10_000;

/// What the link between the hosts is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Plain,
    Jumbo,
    Lossy,
    Slow,
}

impl Condition {
    pub const ALL: [Self; 4] = [Self::Plain, Self::Jumbo, Self::Lossy, Self::Slow];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "MTU 1500",
            Self::Jumbo => "MTU 9000",
            Self::Lossy => "MTU 1500, 1 % of packets lost each way",
            Self::Slow => "MTU 1500, round trip of 20 ms",
        }
    }

    pub fn link(self) -> Link {
        match self {
            Self::Plain => Link::default(),
            Self::Jumbo => Link { mtu: 6 * MTU, ..Link::default() },
            Self::Lossy => Link { lost_per_mille: 10, ..Link::default() },
            Self::Slow => Link { delay: Duration::from_millis(10), ..Link::default() },
        }
    }
}

/// Figures that are taken together; `--only` names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    Bulk,
    Reply,
    Connections,
    Http,
    Udp,
    Memory,
    Dns,
}

/// One figure of one system under one condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    Bulk {
        streams: u32,
        reverse: bool,
    },
    BulkCpu {
        streams: u32,
        reverse: bool,
    },
    /// What so many of a thousand took at most.
    Reply {
        mille: u16,
    },
    Connections {
        parallel: usize,
    },
    ConnectionsP99 {
        parallel: usize,
    },
    /// HTTP requests on connections of their own, or on kept ones.
    Http {
        kept: bool,
    },
    HttpP99 {
        kept: bool,
    },
    HttpCpu {
        kept: bool,
    },
    /// Of datagrams that programs hand to their kernel many together, or each alone.
    Udp {
        together: bool,
    },
    ResidentIdle,
    ResidentLoaded,
    ResidentSession,
    /// With [`IDLE`] sessions open beside it, or none.
    OpenP99 {
        idle: bool,
    },
    Dns,
}

/// How a figure is written.
pub struct Shape {
    pub name: String,
    pub unit: &'static str,
    pub decimals: usize,
    pub more_is_better: bool,
}

impl Figure {
    pub fn shape(self) -> Shape {
        let bulk = |streams: u32, reverse: bool| {
            let plural = if streams == 1 { "" } else { "s" };
            format!("{streams} stream{plural} {}", if reverse { "back" } else { "there" })
        };
        let http = |kept: bool| if kept { "on kept connections" } else { "on a connection each" };
        let more = |name: String, unit, decimals| Shape { name, unit, decimals, more_is_better: true };
        let less = |name: String, unit, decimals| Shape { name, unit, decimals, more_is_better: false };
        match self {
            Self::Bulk { streams, reverse } => more(format!("bulk, {}", bulk(streams, reverse)), "Gbit/s", 2),
            Self::BulkCpu { streams, reverse } => less(format!("CPU, {}", bulk(streams, reverse)), "s/GB", 2),
            Self::Reply { mille } => {
                let percent = f64::from(mille) / 10.0;
                less(format!("request and reply, p{percent}"), "µs", 0)
            }
            Self::Connections { parallel } => more(format!("new connections, {parallel} at a time"), "/s", 0),
            Self::ConnectionsP99 { parallel } => less(format!("new connections, {parallel} at a time, p99"), "µs", 0),
            Self::Http { kept } => more(format!("HTTP requests {}", http(kept)), "/s", 0),
            Self::HttpP99 { kept } => less(format!("HTTP requests {}, p99", http(kept)), "µs", 0),
            Self::HttpCpu { kept } => less(format!("CPU, HTTP request {}", http(kept)), "µs", 1),
            Self::Udp { together } => {
                let how = if together { ", sent together" } else { "" };
                more(format!("UDP without loss, 1 200 bytes{how}"), "Mbit/s", 0)
            }
            Self::ResidentIdle => less("memory, idle".to_owned(), "MB", 1),
            Self::ResidentLoaded => less("memory, after the load".to_owned(), "MB", 1),
            Self::ResidentSession => less("memory of an idle session".to_owned(), "KiB", 1),
            Self::OpenP99 { idle: false } => less("new connection, p99".to_owned(), "µs", 0),
            Self::OpenP99 { idle: true } => less(format!("new connection, p99 beside {IDLE} idle sessions"), "µs", 0),
            Self::Dns => more("DNS answers to one workload".to_owned(), "/s", 0),
        }
    }

    /// Its name and unit, and whether more of it is better.
    pub fn title(self) -> String {
        let Shape { name, unit, more_is_better, .. } = self.shape();
        format!("{name}, {unit} {}", if more_is_better { '↑' } else { '↓' })
    }

    /// The better of two values.
    pub fn better(self, one: f64, other: f64) -> f64 {
        if self.shape().more_is_better { one.max(other) } else { one.min(other) }
    }
}

/// The figures of all rounds so far, and what could not be taken.
#[derive(Default)]
pub struct Results {
    samples: BTreeMap<(Condition, Figure), BTreeMap<System, Vec<f64>>>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    /// Systems that are not there, and why.
    pub absent: Vec<(System, String)>,
    /// Systems that were not asked for.
    pub left_out: Vec<System>,
}

impl Results {
    pub fn add(&mut self, condition: Condition, figure: Figure, system: System, value: f64) {
        let shape = figure.shape();
        eprintln!("  {:<44} {system:<14} {value:>10.*} {}", shape.name, shape.decimals, shape.unit);
        self.samples.entry((condition, figure)).or_default().entry(system).or_default().push(value);
    }

    pub fn fail(&mut self, why: String) {
        eprintln!("  FAILED: {why}");
        self.failures.push(why);
    }

    /// The figures that were taken under a condition, in the order of the table.
    pub fn figures(&self, condition: Condition) -> impl Iterator<Item = Figure> {
        self.samples.keys().filter(move |(under, _)| *under == condition).map(|(_, figure)| *figure)
    }

    /// The systems that have figures, and those that are missed, in the order of the columns.
    pub fn systems(&self) -> impl Iterator<Item = System> {
        let has_figures = |system: &System| self.samples.values().any(|row| row.contains_key(system));
        System::ALL
            .into_iter()
            .filter(move |system| has_figures(system) || self.is_absent(*system) && !system.by_path_only())
    }

    /// Whether it could not be measured because it is not there.
    pub fn is_absent(&self, system: System) -> bool {
        self.absent.iter().any(|(absent, _)| *absent == system)
    }

    pub fn median(&self, condition: Condition, figure: Figure, system: System) -> Option<f64> {
        median(self.samples.get(&(condition, figure))?.get(&system)?)
    }

    pub fn spread(&self, condition: Condition, figure: Figure, system: System) -> Option<f64> {
        let all = self.samples.get(&(condition, figure))?.get(&system)?;
        if all.len() > 1 { spread(all) } else { None }
    }

    /// The best of a class, or of all peers for `None`.
    pub fn best(&self, condition: Condition, figure: Figure, class: Option<Class>) -> Option<(System, f64)> {
        let wanted = |system: &System| match class {
            Some(class) => system.class() == class,
            None => matches!(system.class(), Class::Vpn | Class::Sidecar),
        };
        let all = System::ALL.into_iter().filter(wanted);
        let all = all.filter_map(|system| Some((system, self.median(condition, figure, system)?)));
        all.reduce(|one, other| if figure.better(one.1, other.1) == one.1 { one } else { other })
    }
}
