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
    Location, WorkloadId,
    graph::{Edge, Graph, Host, Limits, Ranges, Run, Service, Workload},
};
use ripstop_policy::{Policy, WorkloadIx, compile};
use std::collections::BTreeMap;

/// Workloads as `tenant/name: hosts`, services as `tenant/name: workload, ports, exported to`.
const WORKLOADS: &[(&str, &[&str])] = &[
    ("shop/web", &["alpha"]),
    ("shop/api", &["alpha", "beta"]),
    ("shop/db", &["beta"]),
    ("billing/report", &["alpha"]),
    ("billing/ledger", &["beta"]),
];
const SERVICES: &[(&str, &str, &[&str], &[&str])] = &[
    ("shop/api", "api", &["8080/tcp", "9090/tcp", "53/udp"], &[]),
    ("shop/db", "db", &["5432/tcp"], &["billing"]),
    ("billing/ledger", "ledger", &["7000/tcp"], &[]),
    ("billing/report", "report", &["7001/tcp"], &["shop"]),
];
/// Edges as caller, service, ports (empty for all).
const EDGES: &[(&str, &str, &[&str])] = &[
    ("shop/web", "shop/api", &["8080/tcp", "53/udp"]),
    ("shop/api", "shop/db", &[]),
    ("billing/report", "shop/db", &[]),
    ("billing/report", "billing/ledger", &[]),
];

pub(crate) fn policy() -> Policy {
    compile(graph()).unwrap()
}

pub(crate) fn ranges() -> Ranges {
    Ranges {
        services_v4: "198.18.0.0/16".parse().unwrap(),
        workloads_v4: "198.19.0.0/16".parse().unwrap(),
        v6: "fd5e:1c00:77::/48".parse().unwrap(),
    }
}

fn graph() -> Graph {
    let at = Location { file: "shop.yaml".into(), line: 1, column: 1 };
    let host = |name: &&str| name.parse().unwrap();
    let ports = |list: &[&str]| list.iter().map(|port| port.parse().unwrap()).collect::<Vec<_>>();
    let workloads = WORKLOADS.iter().map(|(id, on)| {
        let run = Run::Netns(id.replace('/', "-"));
        let on = on.iter().map(host).collect();
        (id.parse().unwrap(), Workload { on, run, isolated: false, at: at.clone() })
    });
    let services = SERVICES.iter().map(|(id, by, list, export)| {
        let export = export.iter().map(|tenant| tenant.parse().unwrap()).collect();
        let service = Service { by: by.parse().unwrap(), ports: ports(list), to: None, export, at: at.clone() };
        (id.parse().unwrap(), service)
    });
    let edges = EDGES.iter().map(|(from, to, list)| Edge {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        ports: ports(list),
        limits: Limits::default(),
        at: at.clone(),
    });
    let hosts = ["alpha", "beta"].iter().map(|name| (host(name), Host { zone: None, address: None, at: at.clone() }));
    Graph {
        fabric: "shop.example".parse().unwrap(),
        ranges: ranges(),
        hosts: hosts.collect::<BTreeMap<_, _>>(),
        tenants: ["shop", "billing"].iter().map(|tenant| tenant.parse().unwrap()).collect(),
        workloads: workloads.collect(),
        services: services.collect(),
        edges: edges.collect(),
    }
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
