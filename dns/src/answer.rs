//! The answer to one workload's query, from the policy alone.

use crate::{
    query::{self, Asked, Via},
    records::{self, Found},
    reply::{Draft, Ede, EdeCode, Rcode, Reply},
    view::{Missing, Node, View},
    zone::{self, Place, Reverse, ReverseAt, Special},
};
use hickory_proto::rr::Name;
use ripstop_config::Reason;
use ripstop_policy::{Policy, WorkloadIx};
use std::net::IpAddr;

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send this back.
    Reply(Reply),
    /// The name is none of the fabric's: ask upstream ([`crate::Forwarder::resolve`]).
    Forward,
    /// Send nothing, and count it.
    Drop(Reason),
}

/// Answers a query of a workload, which is known from the interface that the query came from.
///
/// Pure: no I/O, no clock. `query` is the message without TCP's length before it. Messages that cannot be replied to
/// are [`Answer::Drop`]; every other mistake gets a reply that says so.
#[must_use]
pub fn answer(policy: &Policy, caller: WorkloadIx, query: &[u8], via: Via) -> Answer {
    let asked = match query::parse(query, via) {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let view = View { policy, caller };
    let draft = match zone::place(policy, &asked.question.name) {
        Place::Fabric(labels) => fabric(view, &asked, &view.name(&labels)),
        Place::Reverse(reverse) => reverse_zone(view, &asked, reverse),
        Place::Localhost(address) => localhost(policy, &asked, address),
        Place::Never(special) => never(policy, special),
        Place::Outside => return Answer::Forward,
    };
    Answer::Reply(draft.finish(&asked))
}

fn fabric(view: View<'_>, asked: &Asked, node: &Node) -> Draft {
    let found = records::by_name(view, &asked.question.name, node, asked.question.query_type);
    answered(view.policy, found, node, || records::suffix(view.policy))
}

fn reverse_zone(view: View<'_>, asked: &Asked, reverse: Reverse) -> Draft {
    let node = match reverse.at {
        ReverseAt::Address(address) => view.address(address),
        ReverseAt::Block => Node::Empty,
        ReverseAt::Other => Node::Missing(Missing {
            reason: Reason::NoService,
            hidden: None,
            prohibited: false,
            why: "not the name of an address".into(),
        }),
    };
    let found = records::by_address(view, &asked.question.name, &node, asked.question.query_type);
    answered(view.policy, found, &node, || reverse.zone)
}

fn localhost(policy: &Policy, asked: &Asked, address: Option<IpAddr>) -> Draft {
    let (name, wanted) = (&asked.question.name, asked.question.query_type);
    let found = match address {
        Some(_) => records::localhost_pointer(name, wanted),
        None => records::localhost(name, wanted),
    };
    // The zones of RFC 6303 sections 4.2 and 4.5, or `localhost` itself.
    let depth = match address {
        Some(IpAddr::V4(_)) => 3,
        Some(IpAddr::V6(_)) => 34,
        None => 1,
    };
    answered(policy, found.into(), &Node::Empty, || name.trim_to(depth))
}

fn never(policy: &Policy, special: &Special) -> Draft {
    let mut draft = Draft::authoritative(if special.exists { Rcode::NoError } else { Rcode::NxDomain });
    draft.authorities.extend(records::full(special.zone).map(|zone| records::soa(policy, zone)));
    draft.ede = (!special.exists).then(|| Ede { code: EdeCode::Other, text: special.why.into() });
    draft
}

/// Records; or none of the type, or no such name, both with the SOA record that says for how long (RFC 2308 section 2).
fn answered(policy: &Policy, found: Found, node: &Node, zone: impl FnOnce() -> Name) -> Draft {
    let mut draft = Draft::authoritative(Rcode::NoError);
    if let Node::Missing(missing) = node {
        draft = Draft::authoritative(Rcode::NxDomain);
        draft.denied = Some(missing.reason);
        draft.hidden = missing.hidden;
        let code = if missing.prohibited { EdeCode::Prohibited } else { EdeCode::Other };
        draft.ede = Some(Ede { code, text: missing.why.clone() });
    }
    if found.answers.is_empty() {
        draft.authorities.push(records::soa(policy, zone()));
    }
    draft.answers = found.answers;
    draft.additionals = found.additionals;
    draft
}
