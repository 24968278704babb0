//! Manifests as trees in which every node knows its file and line, with merge keys resolved.

use super::ImportError;
use crate::{
    diagnostic::Location,
    graph::GRAPH_MAX,
    yaml::{self, Key, Node, Report, Value},
};
use std::collections::HashMap;

/// The key that merges other mappings into its own (https://yaml.org/type/merge.html).
const MERGE: &str = "<<";

/// A node of a manifest.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) at: Location,
    pub(super) value: Branch,
}

#[derive(Debug, Clone)]
pub(super) enum Branch {
    Nothing,
    Text(String),
    List(Vec<Tree>),
    /// No key twice.
    Map(Vec<(Word, Tree)>),
}

/// A key.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) at: Location,
    pub(super) text: String,
}

impl Tree {
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(word, _)| word.text == key).map(|(_, tree)| tree)
    }

    /// The node at the end of a path of keys.
    pub(super) fn path(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |tree, key| tree.get(key))
    }

    /// The entries of a mapping; of anything else none.
    pub(super) fn entries(&self) -> &[(Word, Self)] {
        match &self.value {
            Branch::Map(entries) => entries,
            Branch::Nothing | Branch::Text(_) | Branch::List(_) => &[],
        }
    }

    /// The items of a list; of anything else none.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Branch::List(items) => items,
            Branch::Nothing | Branch::Text(_) | Branch::Map(_) => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Branch::Text(text) => Some(text),
            Branch::Nothing | Branch::List(_) | Branch::Map(_) => None,
        }
    }

    /// The scalar at the end of a path of keys.
    pub(super) fn text_at(&self, keys: &[&str]) -> Option<&str> {
        self.path(keys).and_then(Self::text)
    }

    /// Nodes in it, itself included. Recursion is bounded by the depth that is read.
    pub(super) fn size(&self) -> usize {
        match &self.value {
            Branch::Nothing | Branch::Text(_) => 1,
            Branch::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Branch::Map(entries) => 1 + entries.iter().map(|(_, tree)| 1 + tree.size()).sum::<usize>(),
        }
    }
}

/// Reads all documents of a file; empty ones are left out.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Tree>, ImportError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file, text);
    let nodes = yaml::parse_documents(text, GRAPH_MAX, &mut report).unwrap_or_default();
    let trees = nodes.into_iter().map(|node| tree(node, &mut report)).collect();
    report.finish().map_err(ImportError::Manifest)?;
    Ok(trees)
}

fn tree(node: Node, report: &mut Report<'_>) -> Tree {
    let at = report.location(node.mark);
    let value = match node.value {
        Value::Nothing => Branch::Nothing,
        Value::Text(text) => Branch::Text(text),
        Value::List(items) => Branch::List(items.into_iter().map(|item| tree(item, report)).collect()),
        Value::Map(entries) => Branch::Map(map(entries, report)),
    };
    Tree { at, value }
}

/// A mapping's own keys, then those that are merged into it and that it does not have: of several, the first has it.
fn map(entries: Vec<(Key, Node)>, report: &mut Report<'_>) -> Vec<(Word, Tree)> {
    let mut lines: HashMap<String, u32> = HashMap::new();
    let (mut own, mut merged) = (Vec::new(), Vec::new());
    for (key, node) in entries {
        if key.text == MERGE {
            merged.extend(sources(tree(node, report), report));
            continue;
        }
        if let Some(line) = lines.insert(key.text.clone(), key.mark.line) {
            report.error(key.mark, format!("`{}` is already given on line {line}", key.text));
        }
        own.push((Word { at: report.location(key.mark), text: key.text }, tree(node, report)));
    }
    for (word, tree) in merged {
        if lines.insert(word.text.clone(), word.at.line).is_none() {
            own.push((word, tree));
        }
    }
    own
}

/// The entries that a merge key brings: those of a mapping, or of several in a list.
fn sources(tree: Tree, report: &mut Report<'_>) -> Vec<(Word, Tree)> {
    let at = yaml::Mark { line: tree.at.line, column: tree.at.column, width: 1 };
    let maps = match tree.value {
        Branch::Map(entries) => return entries,
        Branch::List(items) => items,
        Branch::Nothing | Branch::Text(_) => Vec::new(),
    };
    let mut all = Vec::new();
    let mut wrong = maps.is_empty();
    for item in maps {
        match item.value {
            Branch::Map(entries) => all.extend(entries),
            Branch::Nothing | Branch::Text(_) | Branch::List(_) => wrong = true,
        }
    }
    if wrong {
        report.error(at, "`<<` merges a mapping, or a list of mappings");
    }
    all
}
