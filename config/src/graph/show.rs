//! What the graph says, as text for people and as values for machines.

use super::{Balance, Check, Container, Health, Limits, Run, Source, User};
use crate::units::Span;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt::{self, Display, Formatter};

impl Display for Run {
    /// `netns web`, `user www-data`, `cgroup /system.slice/nginx.service`, `container label app=db`, `host`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(name) => write!(f, "netns {name}"),
            Self::User(User::Name(name)) => write!(f, "user {name}"),
            Self::User(User::Id(id)) => write!(f, "user {id}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Container(container) => write!(f, "container {container}"),
            Self::Pod(pod) => write!(f, "pod {pod}"),
            Self::Host => f.write_str("host"),
        }
    }
}

impl Display for Container {
    /// `name db`, `label app=db`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "name {name}"),
            Self::Label(key, value) => write!(f, "label {key}={value}"),
        }
    }
}

impl Display for Limits {
    /// `50 mbit/s a session each way, 200 sessions at once`, or `none`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let parts = [
            self.session.map(|rate| format!("{rate} a session each way")),
            self.rate.map(|rate| format!("{rate} for all together each way")),
            self.sessions.map(|count| format!("{count} sessions at once")),
            self.open.map(|rate| format!("{rate} new sessions")),
        ];
        let given: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if given.is_empty() { "none".into() } else { given.join(", ") }.as_str())
    }
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Display for Health {
    /// `tcp every 2s`, `http /ready every 2s at port 9000`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.check {
            Check::Tcp => f.write_str("tcp")?,
            Check::Http(path) => write!(f, "http {path}")?,
        }
        if let Some(every) = Span::of(self.every) {
            write!(f, " every {every}")?;
        }
        self.port.map_or(Ok(()), |port| write!(f, " at port {port}"))
    }
}

impl Serialize for Health {
    /// `check` is `tcp` or `http`; `path` is there for the latter.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (check, path) = match &self.check {
            Check::Tcp => ("tcp", None),
            Check::Http(path) => ("http", Some(path)),
        };
        let mut health = to.serialize_struct("Health", 4)?;
        health.serialize_field("check", check)?;
        health.serialize_field("path", &path)?;
        health.serialize_field("every", &Span::of(self.every))?;
        health.serialize_field("port", &self.port)?;
        health.end()
    }
}

impl Source {
    /// `usual`, `preserve` or `proxy-protocol v2`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usual => "usual",
            Self::Preserve => "preserve",
            Self::ProxyV2 => "proxy-protocol v2",
        }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl Display for Balance {
    /// `least-load`, `least-load, sticky, weights beta 3 gamma 1`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("least-load")?;
        if self.sticky {
            f.write_str(", sticky")?;
        }
        if !self.weights.is_empty() {
            f.write_str(", weights")?;
        }
        self.weights.iter().try_for_each(|(host, weight)| write!(f, " {host} {weight}"))
    }
}
