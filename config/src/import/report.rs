//! What became of a manifest: every part of it that was used, inferred or left out, with its place.

use crate::{diagnostic::Location, yaml::printable};
use std::fmt;

/// Findings that are kept; those beyond are counted. More than anybody reads, and a manifest of 16 MiB cannot grow it.
const FINDINGS_MAX: usize = 10_000;

/// What became of a part of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It says so, and so does the graph.
    Used,
    /// The graph says what follows from it by a rule.
    Inferred,
    /// It hints at something that the graph does not say; the line that would say it is there.
    Suggested,
    /// It says something that the graph cannot say.
    NotCarried,
}

impl Kind {
    /// `used`, `inferred`, `suggested` or `not carried`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Inferred => "inferred",
            Self::Suggested => "suggested",
            Self::NotCarried => "not carried",
        }
    }
}

/// One part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// Where it stands.
    pub at: Location,
    /// What became of it.
    pub kind: Kind,
    /// Which part, and what came of it or why nothing did.
    pub what: String,
}

/// What became of all parts, in the order of files and lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The parts.
    pub findings: Vec<Finding>,
    /// How many more there are than are kept.
    pub more: usize,
}

impl Report {
    pub(super) fn note(&mut self, kind: Kind, at: &Location, what: impl AsRef<str>) {
        if self.findings.len() >= FINDINGS_MAX {
            self.more += 1;
            return;
        }
        // It quotes the manifest, and goes to a terminal.
        let what = what.as_ref().chars().map(printable).collect();
        self.findings.push(Finding { at: at.clone(), kind, what });
    }

    pub(super) fn used(&mut self, at: &Location, what: impl AsRef<str>) {
        self.note(Kind::Used, at, what);
    }

    pub(super) fn inferred(&mut self, at: &Location, what: impl AsRef<str>) {
        self.note(Kind::Inferred, at, what);
    }

    pub(super) fn suggested(&mut self, at: &Location, what: impl AsRef<str>) {
        self.note(Kind::Suggested, at, what);
    }

    pub(super) fn not_carried(&mut self, at: &Location, what: impl AsRef<str>) {
        self.note(Kind::NotCarried, at, what);
    }

    /// In the order of the files, each once: what is shared by aliases or merge keys is read as often as it is used.
    pub(super) fn sorted(mut self) -> Self {
        self.findings.sort();
        self.findings.dedup();
        self
    }

    /// How many parts became that.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.findings.iter().filter(|one| one.kind == kind).count()
    }
}

impl fmt::Display for Report {
    /// A line for each part, then the sums.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |one: &Finding| one.at.to_string().chars().map(printable).collect::<String>();
        let width = self.findings.iter().map(|one| place(one).chars().count()).max().unwrap_or_default();
        for one in &self.findings {
            writeln!(f, "{:<11}  {:<width$}  {}", one.kind.as_str(), place(one), one.what)?;
        }
        let sums = [Kind::Used, Kind::Inferred, Kind::Suggested, Kind::NotCarried];
        let sums: Vec<String> = sums.iter().map(|kind| format!("{} {}", self.count(*kind), kind.as_str())).collect();
        write!(f, "{}", sums.join(", "))?;
        if self.more > 0 {
            write!(f, ", and {} more", self.more)?;
        }
        writeln!(f)
    }
}
