//! An explanation as text for people: one line for the verdict, then the chain, then what to change.

use crate::{Explanation, PortAnswer, Serves};
use ripstop_config::{
    Reason,
    graph::{Balance, Source},
};
use std::fmt::{self, Display, Formatter};

/// Width of the labels when no port is among them.
const LABEL_WIDTH: usize = 9;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for answer in &self.ports {
            verdict(self, answer, f)?;
        }
        let chain = chain(self);
        let width = chain.iter().map(|(label, _)| label.len()).max().unwrap_or_default().max(LABEL_WIDTH);
        for (label, value) in chain {
            writeln!(f, "  {label:<width$} {value}")?;
        }
        if let Some(name) = &self.did_you_mean {
            writeln!(f, "\n  did you mean `{name}`?")?;
        }
        self.changes
            .iter()
            .try_for_each(|change| writeln!(f, "\n  to allow it, write under {}:\n    {}", change.under, change.line))
    }
}

/// Name, address, caller, rule, consents, endpoints with what is not usual of them, and limits, each with its label.
fn chain(explanation: &Explanation) -> Vec<(String, String)> {
    let from = list(&explanation.from, "no host");
    let who = format!("{} on {from} ({})", explanation.who, list(&explanation.who_addresses, "no address"));
    let mut chain = vec![
        ("name".into(), explanation.name.clone()),
        ("address".into(), list(&explanation.addresses, "none")),
        ("who".into(), who),
    ];
    let answers = explanation.ports.iter();
    chain.extend(answers.clone().map(|answer| (labelled(explanation, answer, "rule"), rule(answer))));
    chain.extend(explanation.never.iter().map(|never| ("never".into(), never.to_string())));
    chain.extend(explanation.consents.iter().map(|consent| (consent.side.to_string(), consent.to_string())));
    chain.push(("endpoint".into(), list(&explanation.endpoints, "none")));
    let allowed: Vec<&PortAnswer> = answers.filter(|answer| answer.allowed).collect();
    if let Some(first) = allowed.first() {
        chain.extend(settings(explanation));
        let edge = |answer: &&PortAnswer| (labelled(explanation, answer, "limits"), answer.limits.edge.to_string());
        chain.extend(allowed.iter().map(edge));
        // They are the same for each port.
        let limits = &first.limits;
        let around = [("service", limits.service), ("workload", limits.workload), ("tenant", limits.tenant)];
        let given = around.into_iter().filter(|(_, limits)| !limits.is_none());
        chain.extend(given.map(|(whose, limits)| (format!("of {whose}"), limits.to_string())));
        chain.extend(limits.above.iter().map(|tenant| (format!("of {}", tenant.name), tenant.limits.to_string())));
    }
    chain
}

/// What the graph says of the service's endpoints, where that is not the default.
fn settings(explanation: &Explanation) -> impl Iterator<Item = (String, String)> {
    let Explanation { health, source, balance, idle, .. } = explanation;
    let source = Some(source).filter(|source| **source != Source::default());
    let balance = Some(balance).filter(|balance| **balance != Balance::default());
    let rows = [
        ("health", health.as_ref().map(ToString::to_string)),
        ("source", source.map(ToString::to_string)),
        ("balance", balance.map(ToString::to_string)),
        ("idle", idle.map(|idle| idle.to_string())),
    ];
    rows.into_iter().filter_map(|(label, value)| Some((label.to_owned(), value?)))
}

fn verdict(explanation: &Explanation, answer: &PortAnswer, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "{} -> {}", explanation.who, explanation.service)?;
    if let Some(port) = answer.port {
        write!(f, ":{port}")?;
    }
    match answer.reason {
        None => writeln!(f, ": allowed"),
        Some(reason) => writeln!(f, ": denied ({reason}): {}", reason.describe()),
    }
}

fn rule(answer: &PortAnswer) -> String {
    match (&answer.rule, answer.reason) {
        (Some(at), _) => at.to_string(),
        (None, Some(Reason::NoPort)) => "an edge, but the service does not have the port".into(),
        (None, _) => "none".into(),
    }
}

/// A label, with the port when there are several.
fn labelled(explanation: &Explanation, answer: &PortAnswer, label: &str) -> String {
    match answer.port {
        Some(port) if explanation.ports.len() > 1 => format!("{label} {port}"),
        Some(_) | None => label.to_owned(),
    }
}

impl Display for Serves {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        match (&self.zone, self.address) {
            (Some(zone), Some(address)) => write!(f, " ({zone}, {address})"),
            (Some(zone), None) => write!(f, " ({zone})"),
            (None, Some(address)) => write!(f, " ({address})"),
            (None, None) => Ok(()),
        }
    }
}

fn list<T: Display>(values: &[T], none: &str) -> String {
    if values.is_empty() {
        return none.to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
