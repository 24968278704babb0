//! Tests of what workloads are answered, against a compiled policy.

mod hostile;
mod names;
mod reverse;
mod sizes;

use crate::{Answer, Reply, Via, answer};
use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RecordType, rdata::opt::EdnsOption},
};
use ripstop_config::{
    WorkloadId,
    graph::{Graph, Ranges},
};
use ripstop_policy::{Policy, WorkloadIx, compile};

const GRAPH: &str = r#"
fabric: shop.example
ranges: { v6: "fd5e:1c00:77::/48" }
hosts: { alpha: {}, beta: {} }
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [alpha, beta], run: { netns: api } }
      db: { on: [beta], run: { netns: db } }
    services:
      api: { by: api, ports: [8080/tcp, 9090/tcp, 53/udp] }
      db: { by: db, port: 5432/tcp, export: [billing] }
    allow:
      - { from: web, to: api, ports: [8080/tcp, 53/udp] }
      - { from: api, to: db }
  billing:
    workloads:
      report: { on: [alpha], run: { netns: report } }
      ledger: { on: [beta], run: { netns: ledger } }
    services:
      ledger: { by: ledger, port: 7000/tcp }
      report: { by: report, port: 7001/tcp, export: [shop] }
    allow:
      - { from: report, to: ledger }
      - { from: report, to: shop/db }
"#;

pub(crate) fn policy() -> Policy {
    compile(graph()).unwrap()
}

pub(crate) fn ranges() -> Ranges {
    graph().ranges
}

fn graph() -> Graph {
    Graph::parse("shop.yaml", GRAPH).unwrap()
}

pub(crate) fn id(text: &str) -> WorkloadId {
    text.parse().unwrap()
}

fn who(policy: &Policy, text: &str) -> WorkloadIx {
    policy.workload(&id(text)).unwrap()
}

/// A query with EDNS and room for 1232 bytes.
pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns);
    message
}

fn reply_to(caller: &str, query: &Message, via: Via) -> (Message, Reply) {
    let policy = policy();
    match answer(&policy, who(&policy, caller), &query.to_vec().unwrap(), via) {
        Answer::Reply(reply) => (Message::from_vec(&reply.bytes).unwrap(), reply),
        other => panic!("{other:?} to {query}"),
    }
}

fn ask(caller: &str, name: &str, kind: RecordType) -> (Message, Reply) {
    reply_to(caller, &query(name, kind), Via::Udp)
}

/// The code and text of the Extended DNS Error.
pub(crate) fn ede(message: &Message) -> Option<(u16, String)> {
    match message.edns.as_ref()?.option(15.into())? {
        EdnsOption::Unknown(15, data) => {
            Some((u16::from_be_bytes([data[0], data[1]]), String::from_utf8(data[2..].to_vec()).unwrap()))
        }
        other => panic!("{other:?}"),
    }
}

/// The reply in lines: result, then the records of each section, then the error.
fn show(message: &Message) -> String {
    let mut lines = vec![format!("{:?}", message.metadata.response_code)];
    lines.extend(message.answers.iter().map(|record| format!("answer {record}")));
    lines
        .extend(message.authorities.iter().map(|record| format!("authority {} {}", record.name, record.record_type())));
    lines.extend(
        message.additionals.iter().map(|record| format!("additional {} {}", record.name, record.record_type())),
    );
    lines.extend(ede(message).map(|(code, text)| format!("error {code} {text}")));
    lines.join("\n")
}
