//! Reading nodes as what they should be. Whatever is not so is noted in the report, and reading goes on.

use super::{Key, Mark, Node, Report, Value};
use crate::{name::NameError, suggest::nearest};
use std::{
    collections::{BTreeMap, btree_map},
    fmt::Display,
    str::FromStr,
};

/// The keys that a mapping may have.
pub(crate) struct Shape {
    /// What the mapping describes, with its article.
    pub(crate) what: &'static str,
    /// The keys.
    pub(crate) keys: &'static [&'static str],
    /// Keys that have a meaning but not in this version, with what to do about it.
    pub(crate) later: &'static [(&'static str, &'static str)],
}

/// The entries of a mapping that has a [`Shape`].
pub(crate) struct Fields<'n> {
    what: &'static str,
    mark: Mark,
    found: Vec<(&'n Key, &'n Node)>,
    /// Of each key that was refused, the known one that was probably meant.
    refused: Vec<Option<String>>,
}

impl Shape {
    /// Reads a mapping: unknown and repeated keys are mistakes. `at` is where to say that it is none.
    pub(crate) fn read<'n>(&self, node: &'n Node, at: Mark, report: &mut Report<'_>) -> Option<Fields<'n>> {
        let entries = node.entries(self.what, at, report)?;
        let mut found: Vec<(&Key, &Node)> = Vec::new();
        let mut refused = Vec::new();
        for (key, value) in entries {
            if let Some((earlier, _)) = found.iter().find(|(earlier, _)| earlier.text == key.text) {
                report.error(key.mark, format!("`{}` is already given on line {}", key.text, earlier.mark.line));
            } else if self.keys.contains(&key.text.as_str()) {
                found.push((key, value));
            } else {
                refused.push(self.refuse(key, report));
            }
        }
        Some(Fields { what: self.what, mark: at, found, refused })
    }

    /// Notes a key that is not taken. Returns the one that was probably meant.
    fn refuse(&self, key: &Key, report: &mut Report<'_>) -> Option<String> {
        if let Some((_, hint)) = self.later.iter().find(|(later, _)| *later == key.text) {
            report.hinted(key.mark, format!("`{}` is not supported by this version", key.text), *hint);
            return None;
        }
        let near = nearest(&key.text, self.keys);
        let hint = match &near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("{} has the keys {}", self.what, quoted(self.keys)),
        };
        report.hinted(key.mark, format!("unknown key `{}`", key.text), hint);
        near
    }
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.found.iter().find(|(found, _)| found.text == key).map(|(_, node)| *node)
    }

    /// The value of a key that may be missing: `Some(None)` when it is, `None` when what it has is wrong.
    pub(crate) fn optional<T>(&self, key: &str, read: impl FnOnce(&'n Node) -> Option<T>) -> Option<Option<T>> {
        self.get(key).map_or(Some(None), |node| read(node).map(Some))
    }

    /// The value of a key that must be there; `hint` says how it is written.
    pub(crate) fn require(&self, key: &str, hint: &str, report: &mut Report<'_>) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() && !self.misspelt(key) {
            report.hinted(self.mark, format!("{} needs `{key}`", self.what), hint);
        }
        found
    }

    /// Whether the mapping had no key that was refused: what is missing from it is then worth saying.
    pub(crate) fn is_whole(&self) -> bool {
        self.refused.is_empty()
    }

    /// Whether a key that was refused was probably meant to be this one, so that nothing more need be said.
    pub(crate) fn misspelt(&self, key: &str) -> bool {
        self.refused.iter().flatten().any(|meant| meant == key)
    }
}

impl Node {
    /// What it is, for "expected …, found …".
    fn kind(&self) -> &'static str {
        match self.value {
            Value::Nothing => "nothing",
            Value::Text(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The entries of a mapping, or a mistake at `at`.
    pub(crate) fn entries(&self, what: &str, at: Mark, report: &mut Report<'_>) -> Option<&[(Key, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            Value::Nothing | Value::Text(_) | Value::List(_) => {
                report.error(at, format!("{what} must be a mapping of keys to values, not {}", self.kind()));
                None
            }
        }
    }

    /// A scalar, or a mistake.
    pub(crate) fn text(&self, what: &str, report: &mut Report<'_>) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Nothing | Value::List(_) | Value::Map(_) => {
                report.error(self.mark, format!("expected {what}, found {}", self.kind()));
                None
            }
        }
    }

    /// A scalar that reads as `T`, or a mistake.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&self, what: &str, report: &mut Report<'_>) -> Option<T> {
        let text = self.text(what, report)?;
        text.parse().map_err(|error: T::Err| report.error(self.mark, error.to_string())).ok()
    }

    /// The items of a list. A single value is a list of one; nothing at all is a mistake.
    pub(crate) fn items(&self, what: &str, report: &mut Report<'_>) -> Vec<&Self> {
        match &self.value {
            Value::List(items) if !items.is_empty() => items.iter().collect(),
            Value::Text(_) => vec![self],
            Value::List(_) | Value::Nothing => {
                report.error(self.mark, format!("{what} must not be empty"));
                Vec::new()
            }
            Value::Map(_) => {
                report.error(self.mark, format!("{what} must be a list, not {}", self.kind()));
                Vec::new()
            }
        }
    }

    /// The items of a list, each read as `T` and given once; the rest are mistakes. An empty list is one, too.
    pub(crate) fn set<T>(&self, what: &str, one: &str, report: &mut Report<'_>) -> Vec<(T, Mark)>
    where
        T: FromStr<Err: Display> + Ord + Display + Clone,
    {
        let mut seen = BTreeMap::new();
        let mut found = Vec::new();
        for item in self.items(what, report) {
            let Some(value) = item.parse::<T>(one, report) else { continue };
            match seen.entry(value.clone()) {
                btree_map::Entry::Occupied(_) => report.error(item.mark, format!("`{value}` is given twice")),
                btree_map::Entry::Vacant(free) => {
                    free.insert(());
                    found.push((value, item.mark));
                }
            }
        }
        found
    }

    /// `true` or `false`, or a mistake.
    pub(crate) fn flag(&self, report: &mut Report<'_>) -> Option<bool> {
        match self.text("true or false", report)? {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                report.error(self.mark, format!("expected true or false, found `{other}`"));
                None
            }
        }
    }
}

/// One named entry of a mapping of names.
pub(crate) struct Entry<'n, N> {
    pub(crate) name: N,
    pub(crate) key: Mark,
    pub(crate) node: &'n Node,
}

/// Reads a mapping whose keys are names. Nothing at all is an empty mapping.
pub(crate) fn names<'n, N>(node: &'n Node, what: &str, report: &mut Report<'_>) -> Vec<Entry<'n, N>>
where
    N: FromStr<Err = NameError> + Ord + Clone,
{
    if matches!(node.value, Value::Nothing) {
        return Vec::new();
    }
    let mut seen: BTreeMap<N, u32> = BTreeMap::new();
    let mut found = Vec::new();
    for (key, value) in node.entries(what, node.mark, report).unwrap_or_default() {
        match key.text.parse::<N>() {
            Err(error) => report.error(key.mark, error.to_string()),
            Ok(name) => match seen.entry(name.clone()) {
                btree_map::Entry::Occupied(earlier) => {
                    report.error(key.mark, format!("`{}` is already given on line {}", key.text, earlier.get()));
                }
                btree_map::Entry::Vacant(free) => {
                    free.insert(key.mark.line);
                    found.push(Entry { name, key: key.mark, node: value });
                }
            },
        }
    }
    found
}

/// Notes a reference to something that is not there, with the nearest name that is.
pub(crate) fn reference<S: AsRef<str>>(
    kind: &str,
    wanted: &str,
    at: Mark,
    known: impl Iterator<Item = S>,
    report: &mut Report<'_>,
) {
    // Comparing with every name costs time; a mistake that is not shown is not worth it.
    let near = if report.is_full() { None } else { nearest(wanted, known) };
    let hint = near.map(|near| format!("did you mean `{near}`?"));
    report.note(at, &format!("there is no {kind} `{wanted}`"), hint);
}

fn quoted(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
