//! The `never` rules as tables: for each tenant, with which others nothing connects.
//!
//! Tenants are numbered so that each stands right before those below it: "it and all below it" is a range of numbers, and
//! so a rule is one range, or two, in each tenant under it. To decide is to search a few ranges, however many rules and
//! tenants there are.

use crate::CompileError;
use ripstop_config::{Graph, TenantName, graph::Never};
use rustc_hash::FxHashMap;
use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

/// Tenants by number, each before those below it.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    numbers: FxHashMap<TenantName, u32>,
    /// Of each, itself and those below it.
    within: Vec<Range<u32>>,
}

/// With which tenants nothing connects, by the number of the other; the ranges of each are in order, and do not meet.
#[derive(Debug, Default)]
pub(crate) struct Apart(FxHashMap<u32, Box<[Range<u32>]>>);

impl Tenants {
    /// Numbers every tenant that a graph speaks of.
    ///
    /// # Errors
    /// [`CompileError::TooLarge`].
    pub(crate) fn of(graph: &Graph) -> Result<Self, CompileError> {
        // By label, as `shop-x` sorts before `shop/eu` by character.
        let by_label = |tenant: &TenantName| tenant.as_str().split('/').map(str::to_owned).collect::<Vec<_>>();
        let named = graph.tenants.keys().chain(graph.workloads.keys().map(|id| &id.tenant));
        let named = named.chain(graph.services.keys().map(|id| &id.tenant));
        let mut all: Vec<&TenantName> = named
            .chain(graph.never.iter().flat_map(|never| &never.between))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        all.sort_by_cached_key(|tenant| by_label(tenant));
        let count = u32::try_from(all.len()).map_err(|_| CompileError::TooLarge)?;
        let below = |at: usize| all[at..].partition_point(|tenant| tenant.is_within(all[at]));
        // Not more than were just counted.
        let within = (0..all.len()).map(|at| at as u32..(at + below(at)) as u32).collect();
        Ok(Self { numbers: all.into_iter().cloned().zip(0..count).collect(), within })
    }

    /// The number of a tenant that the graph speaks of.
    pub(crate) fn number(&self, tenant: &TenantName) -> Option<u32> {
        self.numbers.get(tenant).copied()
    }

    fn within(&self, tenant: &TenantName) -> Range<u32> {
        self.number(tenant).map_or(0..0, |number| self.within[number as usize].clone())
    }
}

impl Apart {
    /// Tables of the rules.
    pub(crate) fn of(tenants: &Tenants, rules: &[Never]) -> Self {
        let mut apart: HashMap<u32, Vec<Range<u32>>> = HashMap::new();
        let mut keep = |these: Range<u32>, from: &Range<u32>| {
            these.for_each(|tenant| apart.entry(tenant).or_default().push(from.clone()));
        };
        for Never { between: [first, second], .. } in rules {
            let (first, second) = (tenants.within(first), tenants.within(second));
            let (outer, inner) = if second.contains(&first.start) { (second, first) } else { (first, second) };
            if !outer.contains(&inner.start) {
                keep(outer.clone(), &inner);
                keep(inner, &outer);
                continue;
            }
            // One is below the other: it is apart from what is before and behind it there.
            for rest in [outer.start..inner.start, inner.end..outer.end] {
                keep(inner.clone(), &rest);
                keep(rest, &inner);
            }
        }
        Self(apart.into_iter().map(|(tenant, ranges)| (tenant, merged(ranges))).collect())
    }

    /// Whether nothing connects between two tenants.
    pub(crate) fn holds(&self, one: u32, other: u32) -> bool {
        let Some(ranges) = self.0.get(&one) else { return false };
        let at = ranges.partition_point(|range| range.end <= other);
        ranges.get(at).is_some_and(|range| range.contains(&other))
    }
}

fn merged(mut ranges: Vec<Range<u32>>) -> Box<[Range<u32>]> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u32>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            Some(_) | None => merged.push(range),
        }
    }
    merged.into()
}
