//! Label selectors (Kubernetes API, "LabelSelector").

use crate::import::tree::Tree;
use std::collections::BTreeMap;

pub(super) type Labels = BTreeMap<String, String>;

/// What labels must be like. Without conditions all are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// `matchLabels` and `matchExpressions`. `None` for an operator that is not known, as nothing can be said of what it
    /// selects.
    pub(super) fn read(tree: &Tree) -> Option<Self> {
        let mut selector = tree.get("matchLabels").map(Self::labels).unwrap_or_default();
        for expression in tree.get("matchExpressions").map(Tree::items).unwrap_or_default() {
            let key = expression.text_at(&["key"])?.to_owned();
            let values = expression.get("values").map(Tree::items).unwrap_or_default();
            let values = values.iter().filter_map(|value| value.text().map(str::to_owned)).collect();
            selector.conditions.push(match expression.text_at(&["operator"])? {
                "In" => Condition::In(key, values),
                "NotIn" => Condition::NotIn(key, values),
                "Exists" => Condition::Exists(key),
                "DoesNotExist" => Condition::Missing(key),
                _ => return None,
            });
        }
        Some(selector)
    }

    /// Labels and their values, as in a Service's `selector`.
    pub(super) fn labels(tree: &Tree) -> Self {
        let conditions = labels(tree).into_iter().map(|(key, value)| Condition::In(key, vec![value])).collect();
        Self { conditions }
    }

    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Condition::NotIn(key, values) => !labels.get(key).is_some_and(|value| values.contains(value)),
            Condition::Exists(key) => labels.contains_key(key),
            Condition::Missing(key) => !labels.contains_key(key),
        })
    }
}

pub(super) fn labels(tree: &Tree) -> Labels {
    let label = |(word, tree): &(_, Tree)| {
        let word: &crate::import::tree::Word = word;
        Some((word.text.clone(), tree.text().unwrap_or_default().to_owned()))
    };
    tree.entries().iter().filter_map(label).collect()
}
