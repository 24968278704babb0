//! The filter: a form that is sent by GET, so that its answer has an address.

use super::{
    super::{asked::Asked, facts::Facts},
    command,
};
use maud::{Markup, html};
use ripstop_config::{Reason, TenantName};
use std::collections::BTreeSet;

/// Names that a field offers: more is no help, and part of every answer.
const OFFERED_MAX: usize = 300;

pub(super) fn form(facts: &Facts, asked: &Asked) -> Markup {
    let policy = facts.policy.graph();
    let callers: BTreeSet<_> = policy.workloads.keys().take(OFFERED_MAX).map(ToString::to_string).collect();
    let services: BTreeSet<_> = policy.services.keys().take(OFFERED_MAX).map(ToString::to_string).collect();
    html! {
        form class="filter" method="get" action="/" role="search" aria-label="Filter" {
            (text("from", "From", &asked.from, "any workload", Some("callers")))
            (text("to", "To", &asked.to, "any service", Some("services")))
            (choice("tenant", "Tenant", &asked.tenant, policy.tenants.keys().take(OFFERED_MAX).map(TenantName::as_str)))
            (choice("verdict", "Verdict", &asked.verdict, ["allow", "deny"].into_iter()))
            (choice("reason", "Reason", &asked.reason, Reason::ALL.iter().filter(|reason| of_sessions(**reason)).map(|reason| reason.as_str())))
            @if asked.is_whole() { input type="hidden" name="graph" value=(asked.graph); }
            button type="submit" { "Filter" }
            @if asked.is_filtered() { a class="button" href=(asked.with(cleared)) { "Clear" } }
            datalist id="callers" { @for name in &callers { option value=(name) {} } }
            datalist id="services" { @for name in &services { option value=(name) {} } }
        }
        p class="same" { span { "The same in a terminal" } (command(&asked.command())) }
    }
}

fn cleared(asked: &mut Asked) {
    *asked = Asked { graph: std::mem::take(&mut asked.graph), ..Asked::default() };
}

/// The others are of packets.
fn of_sessions(reason: Reason) -> bool {
    reason.code() < Reason::Malformed.code()
}

fn text(name: &str, label: &str, value: &str, hint: &str, list: Option<&str>) -> Markup {
    html! {
        label { span { (label) } input type="text" name=(name) value=(value) placeholder=(hint) list=[list] autocomplete="off" spellcheck="false"; }
    }
}

fn choice<'c>(name: &str, label: &str, value: &str, choices: impl Iterator<Item = &'c str>) -> Markup {
    html! {
        label {
            span { (label) }
            select name=(name) {
                option value="" { "any" }
                @for one in choices { option value=(one) selected[one == value] { (one) } }
            }
        }
    }
}
