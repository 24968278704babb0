//! The objects in manifests.

use crate::{
    Location,
    import::{
        report::Report,
        tree::{Branch, Tree},
    },
};

/// The namespace of what names none.
const DEFAULT_NAMESPACE: &str = "default";
/// Lists within lists that are followed.
const LISTS_MAX: usize = 4;

/// An object, as far as all of them are alike.
#[derive(Debug, Clone)]
pub(super) struct Object<'t> {
    pub(super) kind: &'t str,
    pub(super) name: &'t str,
    pub(super) namespace: &'t str,
    /// Where its kind stands.
    pub(super) at: &'t Location,
    pub(super) tree: &'t Tree,
}

impl Object<'_> {
    /// `Service shop/web`.
    pub(super) fn shown(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// All objects of a document, those in lists too. What is none is reported.
pub(super) fn of<'t>(tree: &'t Tree, report: &mut Report, into: &mut Vec<Object<'t>>) {
    collect(tree, 0, report, into);
}

fn collect<'t>(tree: &'t Tree, depth: usize, report: &mut Report, into: &mut Vec<Object<'t>>) {
    let kind = tree.get("kind").and_then(|kind| Some((kind.text()?, &kind.at)));
    let Some((kind, at)) = kind else {
        if !matches!(tree.value, Branch::Nothing) {
            report.not_carried(&tree.at, "no object of Kubernetes: it has no `kind`");
        }
        return;
    };
    let items = tree.get("items");
    if let (true, Some(items), true) = (kind.ends_with("List"), items, depth < LISTS_MAX) {
        items.items().iter().for_each(|item| collect(item, depth + 1, report, into));
        return;
    }
    let name = tree.text_at(&["metadata", "name"]);
    let Some(name) = name else {
        let why = if kind == "Kustomization" { "give the output of `kustomize build`" } else { "it has no name" };
        report.not_carried(at, format!("{kind}: {why}"));
        return;
    };
    let namespace = tree.text_at(&["metadata", "namespace"]).unwrap_or(DEFAULT_NAMESPACE);
    into.push(Object { kind, name, namespace, at, tree });
}
