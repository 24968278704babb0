//! What crosses tenants: by the consent of both sides, and never where a rule keeps them apart.

use crate::{
    diagnostic::Location,
    graph::{Graph, Service},
    name::{ServiceId, TenantName, WorkloadId},
};
use std::fmt::{self, Display, Formatter};

/// The consent of a service's tenant: workloads of another one may call it, where that tenant has an edge to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The other tenant, with all below it.
    pub to: TenantName,
    /// Where the graph says so.
    pub at: Location,
}

impl Display for Export {
    /// The tenant.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.to.fmt(f)
    }
}

/// Two tenants between which nothing connects, whatever else is allowed; the same holds for all below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Never {
    /// Which. One may be below the other: it is then kept apart from the rest of that one.
    pub between: [TenantName; 2],
    /// Where the graph says so: the rule's name.
    pub at: Location,
}

impl Never {
    /// Whether it keeps two tenants apart, in either direction.
    #[must_use]
    pub fn holds(&self, one: &TenantName, other: &TenantName) -> bool {
        let [first, second] = &self.between;
        let (outer, inner) = if first.is_within(second) { (second, first) } else { (first, second) };
        // What is within the inner one is, where that is below the outer one, in both.
        let across = |a: &TenantName, b: &TenantName| a.is_within(inner) && b.is_within(outer) && !b.is_within(inner);
        across(one, other) || across(other, one)
    }
}

impl Service {
    /// The consent of the service's side for a tenant; the first that is given, if any is.
    #[must_use]
    pub fn exported_to(&self, tenant: &TenantName) -> Option<&Export> {
        exported_to(&self.export, tenant)
    }
}

/// The first of these consents that is for a tenant or one above it.
#[must_use]
pub fn exported_to<'e>(exports: &'e [Export], tenant: &TenantName) -> Option<&'e Export> {
    exports.iter().find(|export| tenant.is_within(&export.to))
}

impl Graph {
    /// The first rule that keeps a caller and a service apart, if any does.
    #[must_use]
    pub fn never(&self, from: &WorkloadId, to: &ServiceId) -> Option<&Never> {
        self.never.iter().find(|never| never.holds(&from.tenant, &to.tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(text: &str) -> TenantName {
        TenantName::new(text).unwrap()
    }

    fn holds(between: [&str; 2], pairs: &[(&str, &str)]) -> Vec<bool> {
        let never = Never { between: between.map(tenant), at: Location { file: "f".into(), line: 1, column: 1 } };
        pairs
            .iter()
            .map(|(one, other)| {
                let found = never.holds(&tenant(one), &tenant(other));
                assert_eq!(found, never.holds(&tenant(other), &tenant(one)), "both ways");
                found
            })
            .collect()
    }

    #[test]
    fn a_rule_holds_for_all_below_its_tenants() {
        let pairs = [("a", "b"), ("a/x", "b"), ("a", "b/y"), ("a/x", "b/y/z"), ("a", "a/x"), ("b", "b"), ("a", "c")];
        let expected = [true, true, true, true, false, false, false];
        assert_eq!(holds(["a", "b"], &pairs), expected);
        assert_eq!(holds(["b", "a"], &pairs), expected);
    }

    #[test]
    fn a_tenant_below_the_other_is_kept_apart_from_its_rest() {
        let pairs = [
            ("a/x", "a"),
            ("a/x", "a/y"),
            ("a/x/1", "a/y/2"),
            ("a/x", "a/x/1"),
            ("a/x/1", "a/x/2"),
            ("a", "a/y"),
            ("a/x", "b"),
        ];
        let expected = [true, true, true, false, false, false, false];
        assert_eq!(holds(["a", "a/x"], &pairs), expected);
        assert_eq!(holds(["a/x", "a"], &pairs), expected);
    }
}
