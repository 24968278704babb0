use super::*;
use crate::Rcode;
use hickory_proto::{
    op::{OpCode, ResponseCode},
    rr::{DNSClass, RData},
};
use ripstop_config::Reason;

fn shown(caller: &str, name: &str, kind: RecordType) -> String {
    show(&ask(caller, name, kind).0)
}

#[test]
fn a_visible_service_has_its_addresses_and_the_right_header() {
    let policy = policy();
    let entry = policy.service_entry(policy.service(&"shop/api".parse().unwrap()).unwrap());
    let (message, reply) = ask("shop/web", "api.shop.shop.example.", RecordType::A);
    assert_eq!(show(&message), format!("NoError\nanswer api.shop.shop.example. 5 IN A {}", entry.v4));
    let header = &message.metadata;
    assert!(header.authoritative && header.recursion_available && header.recursion_desired);
    assert!(!header.truncation && !header.authentic_data);
    assert_eq!((reply.rcode, reply.denied), (Rcode::NoError, None));
    let v6 = shown("shop/web", "api.shop.shop.example.", RecordType::AAAA);
    assert_eq!(v6, format!("NoError\nanswer api.shop.shop.example. 5 IN AAAA {}", entry.v6));
    assert_eq!(shown("shop/web", "api.shop.shop.example.", RecordType::ANY), show(&message), "RFC 8482");
}

/// A name follows from the policy alone: a service whose endpoints are unhealthy, drained or weighted away resolves, and
/// the connection is refused with the reason.
#[test]
fn checks_and_weights_do_not_hide_a_name() {
    let text = GRAPH.replace(
        "api: { by: api, ports:",
        "api: { by: api, health: { tcp: 1s, port: 9 }, source: preserve, balance: { weights: { alpha: 0 } }, ports:",
    );
    let checked = compile(Graph::parse("shop.yaml", &text).unwrap()).unwrap();
    let api = checked.service_entry(checked.service(&"shop/api".parse().unwrap()).unwrap());
    assert!(api.health.is_some() && api.balance.weights.len() == 1);
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT] {
        let query = query("api.shop.shop.example.", kind);
        let reply = answer(&checked, who(&checked, "shop/web"), &query.to_vec().unwrap(), Via::Udp);
        let Answer::Reply(reply) = reply else { panic!("{reply:?}") };
        let (plain, _) = reply_to("shop/web", &query, Via::Udp);
        assert!(!plain.answers.is_empty());
        assert_eq!(show(&Message::from_vec(&reply.bytes).unwrap()), show(&plain));
    }
}

#[test]
fn recursion_desired_is_copied_and_case_is_kept() {
    let mut query = query("aPi.SHOP.shop.EXAMPLE.", RecordType::A);
    query.metadata.recursion_desired = false;
    let (message, _) = reply_to("shop/web", &query, Via::Udp);
    assert!(!message.metadata.recursion_desired);
    assert!(message.queries[0].name.eq_case(&query.queries[0].name));
    assert!(message.answers[0].name.eq_case(&query.queries[0].name));
}

#[test]
fn srv_and_txt_name_only_what_the_caller_may_call() {
    assert_eq!(
        shown("shop/web", "api.shop.shop.example.", RecordType::SRV),
        "NoError\n\
         answer api.shop.shop.example. 5 IN SRV 0 0 53 api.shop.shop.example.\n\
         answer api.shop.shop.example. 5 IN SRV 0 0 8080 api.shop.shop.example.\n\
         additional api.shop.shop.example. A\n\
         additional api.shop.shop.example. AAAA"
    );
    assert_eq!(
        shown("shop/web", "api.shop.shop.example.", RecordType::TXT),
        "NoError\n\
         answer api.shop.shop.example. 5 IN TXT port=53/udp\n\
         answer api.shop.shop.example. 5 IN TXT port=8080/tcp\n\
         answer api.shop.shop.example. 5 IN TXT host=alpha\n\
         answer api.shop.shop.example. 5 IN TXT host=beta"
    );
    let (one, _) = ask("shop/web", "_8080._tcp.api.shop.shop.example.", RecordType::SRV);
    assert_eq!(one.answers.len(), 1);
    assert_eq!(
        shown("shop/web", "_tcp.api.shop.shop.example.", RecordType::SRV),
        "NoError\nauthority shop.example. SOA"
    );
    let (hidden, reply) = ask("shop/web", "_9090._tcp.api.shop.shop.example.", RecordType::SRV);
    assert_eq!((hidden.metadata.response_code, reply.denied), (ResponseCode::NXDomain, Some(Reason::NoPort)));
    let (absent, _) = ask("shop/web", "_9091._tcp.api.shop.shop.example.", RecordType::SRV);
    assert_eq!(show(&absent), show(&hidden), "a port that is not allowed looks like one that is not there");
}

#[test]
fn no_data_is_not_no_name() {
    for (name, kind) in [
        ("api.shop.shop.example.", RecordType::HTTPS),
        ("api.shop.shop.example.", RecordType::MX),
        ("shop.shop.example.", RecordType::A),
        ("shop.example.", RecordType::AAAA),
        ("resolver.shop.example.", RecordType::TXT),
        ("workloads.shop.example.", RecordType::A),
        ("anything.workloads.shop.example.", RecordType::A),
        ("_8080._tcp.api.shop.shop.example.", RecordType::A),
    ] {
        assert_eq!(shown("shop/web", name, kind), "NoError\nauthority shop.example. SOA", "{name} {kind}");
    }
}

#[test]
fn negative_answers_are_kept_for_seconds() {
    let (message, _) = ask("shop/web", "nothing.shop.shop.example.", RecordType::A);
    let RData::SOA(soa) = &message.authorities[0].data else { panic!("{message}") };
    assert!((1..=5).contains(&soa.minimum) && message.authorities[0].ttl == soa.minimum, "{soa}");
}

#[test]
fn a_hidden_service_of_the_own_tenant_names_the_missing_edge() {
    let (message, reply) = ask("shop/web", "db.shop.shop.example.", RecordType::A);
    assert_eq!(
        show(&message),
        "NXDomain\nauthority shop.example. SOA\nerror 18 no allow edge from shop/web to shop/db in the graph; \
         add { from: web, to: db } under tenants.shop.allow"
    );
    assert_eq!((reply.rcode, reply.denied), (Rcode::NxDomain, Some(Reason::NoEdge)));
    let (below, _) = ask("shop/web", "_5432._tcp.db.shop.shop.example.", RecordType::SRV);
    assert_eq!(ede(&below), ede(&message));
    let (typo, reply) = ask("shop/web", "bd.shop.shop.example.", RecordType::A);
    assert_eq!(ede(&typo).unwrap(), (0, "tenant shop has no service `bd` in the graph".into()));
    assert_eq!(reply.denied, Some(Reason::NoService));
}

#[test]
fn other_tenants_services_are_hidden_whether_they_exist_or_not() {
    let cases = [
        ("ledger.billing.shop.example.", Reason::NotExported),
        ("report.billing.shop.example.", Reason::NoEdge),
        ("absent.billing.shop.example.", Reason::NoService),
        ("absent.nobody.shop.example.", Reason::NoService),
        ("*.billing.shop.example.", Reason::NoService),
    ];
    for (name, reason) in cases {
        let (message, reply) = ask("shop/web", name, RecordType::A);
        assert_eq!(show(&message), "NXDomain\nauthority shop.example. SOA\nerror 0 no such service for this workload");
        assert_eq!(reply.denied, Some(reason), "{name}");
    }
    let tenants = ["billing.shop.example.", "nobody.shop.example."].map(|name| shown("shop/web", name, RecordType::A));
    assert_eq!(tenants[0].replace("billing", "X"), tenants[1].replace("nobody", "X"));
    assert!(tenants[0].starts_with("NXDomain"), "{}", tenants[0]);
}

#[test]
fn an_edge_across_tenants_shows_the_service_and_its_tenant() {
    assert_eq!(ask("billing/report", "db.shop.shop.example.", RecordType::A).0.answers.len(), 1);
    assert!(shown("billing/report", "shop.shop.example.", RecordType::A).starts_with("NoError"));
    assert!(shown("billing/report", "api.shop.shop.example.", RecordType::A).starts_with("NXDomain"));
}

#[test]
fn the_error_goes_only_to_those_who_sent_edns() {
    let mut plain = query("db.shop.shop.example.", RecordType::A);
    plain.edns = None;
    let (message, reply) = reply_to("shop/web", &plain, Via::Udp);
    assert!(message.edns.is_none());
    assert_eq!(reply.rcode, Rcode::NxDomain);
    let (message, _) = ask("shop/web", "db.shop.shop.example.", RecordType::A);
    assert_eq!(message.edns.unwrap().max_payload(), 1232);
}

#[test]
fn the_errors_text_is_printable_and_short() {
    let mut bytes = query("abcdefg.shop.shop.example.", RecordType::A).to_vec().unwrap();
    bytes[13..16].copy_from_slice(b"\x1b[\xff");
    let policy = policy();
    let Answer::Reply(reply) = answer(&policy, who(&policy, "shop/web"), &bytes, Via::Udp) else { panic!() };
    let (_, text) = ede(&Message::from_vec(&reply.bytes).unwrap()).unwrap();
    assert_eq!(text, "tenant shop has no service `?[?defg` in the graph");
    let long = format!("{}.{}.shop.example.", "s".repeat(63), "t".repeat(63));
    assert!(ede(&ask("shop/web", &long, RecordType::A).0).unwrap().1.len() <= 200);
}

#[test]
fn the_zone_describes_itself() {
    assert!(
        shown("shop/web", "shop.example.", RecordType::SOA)
            .contains("SOA resolver.shop.example. hostmaster.shop.example.")
    );
    assert_eq!(
        shown("shop/web", "shop.example.", RecordType::NS),
        "NoError\nanswer shop.example. 5 IN NS resolver.shop.example.\n\
         additional resolver.shop.example. A\nadditional resolver.shop.example. AAAA"
    );
    let (v4, _) = policy().resolver();
    assert!(shown("shop/web", "resolver.shop.example.", RecordType::A).ends_with(&format!("A {v4}")));
}

#[test]
fn names_for_no_resolver_stay_here() {
    assert_eq!(shown("shop/web", "localhost.", RecordType::A), "NoError\nanswer localhost. 5 IN A 127.0.0.1");
    assert_eq!(shown("shop/web", "a.localhost.", RecordType::AAAA), "NoError\nanswer a.localhost. 5 IN AAAA ::1");
    assert_eq!(shown("shop/web", "localhost.", RecordType::MX), "NoError\nauthority localhost. SOA");
    assert!(shown("shop/web", "x.invalid.", RecordType::A).starts_with("NXDomain\nauthority invalid. SOA\nerror 0"));
    assert!(shown("shop/web", "x.ONION.", RecordType::A).starts_with("NXDomain\nauthority onion. SOA\nerror 0"));
    assert_eq!(shown("shop/web", "_dns.resolver.arpa.", RecordType::SVCB), "NoError\nauthority resolver.arpa. SOA");
}

#[test]
fn everything_else_is_forwarded() {
    let policy = policy();
    for name in
        ["example.", "www.example.com.", "xshop.example.", "shop.example.com.", "api.", ".", "svc.cluster.local."]
    {
        let query = query(name, RecordType::A).to_vec().unwrap();
        assert_eq!(answer(&policy, who(&policy, "shop/web"), &query, Via::Udp), Answer::Forward, "{name}");
    }
}

#[test]
fn kinds_of_query_that_are_not_served() {
    let mut update = query("api.shop.shop.example.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(reply_to("shop/web", &update, Via::Udp).1.rcode, Rcode::NotImp);
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(reply_to("shop/web", &chaos, Via::Udp).1.rcode, Rcode::NotImp);
    for (kind, rcode) in [(RecordType::AXFR, Rcode::NotImp), (RecordType::OPT, Rcode::FormErr)] {
        assert_eq!(ask("shop/web", "shop.example.", kind).1.rcode, rcode, "{kind}");
    }
    let mut newer = query("api.shop.shop.example.", RecordType::A);
    newer.edns.as_mut().unwrap().set_version(1);
    let (message, reply) = reply_to("shop/web", &newer, Via::Udp);
    assert_eq!((reply.rcode, u16::from(message.metadata.response_code)), (Rcode::BadVers, 16));
    assert_eq!(message.edns.unwrap().version(), 0);
    let mut twice = query("api.shop.shop.example.", RecordType::A);
    twice.queries.push(twice.queries[0].clone());
    assert_eq!(reply_to("shop/web", &twice, Via::Udp).1.rcode, Rcode::FormErr);
}

/// Tenants below each other: a service's labels stand from its own to the outermost tenant's.
const NESTED: &str = r#"
fabric: shop.example
hosts: { alpha: {} }
tenants:
  shop:
    workloads:
      top: { on: [alpha], run: { netns: top } }
    services:
      top: { by: top, port: 1, export: [shop/eu] }
  shop/eu:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [alpha], run: { netns: api } }
    services:
      api: { by: api, port: 80, export: [shop/eu/west] }
      db: { by: api, port: 81 }
    allow:
      - { from: web, to: api }
      - { from: web, to: shop/top }
  shop/eu/west:
    workloads:
      far: { on: [alpha], run: { netns: far } }
    services:
      far: { by: far, port: 1 }
    allow:
      - { from: far, to: shop/eu/api }
"#;

#[test]
fn names_of_tenants_below_each_other_are_answered_to_who_may_call_them() {
    let policy = compile(Graph::parse("shop.yaml", NESTED).unwrap_or_else(|found| panic!("{found}"))).unwrap();
    let asked = |caller: &str, name: &str| {
        let query = query(name, RecordType::A).to_vec().unwrap();
        let Answer::Reply(reply) = answer(&policy, who(&policy, caller), &query, Via::Udp) else { panic!("{name}") };
        let message = Message::from_vec(&reply.bytes).unwrap();
        (message.metadata.response_code, message.answers.len(), ede(&message).unwrap_or_default().1, reply.denied)
    };
    for (caller, name) in [
        ("shop/eu/web", "api.eu.shop.shop.example."),
        ("shop/eu/web", "top.shop.shop.example."),
        ("shop/eu/west/far", "api.eu.shop.shop.example."),
        ("shop/eu/web", "web.eu.shop.workloads.shop.example."),
        ("shop/eu/api", "far.west.eu.shop.workloads.shop.example."),
    ] {
        let (code, answers, ..) = asked(caller, name);
        assert_eq!((code, answers), (ResponseCode::NoError, 1), "{caller} {name}");
    }
    // RFC 8020: what has names below it is there.
    for (caller, name) in [
        ("shop/eu/web", "shop.shop.example."),
        ("shop/eu/web", "eu.shop.shop.example."),
        ("shop/eu/web", "eu.shop.workloads.shop.example."),
        ("shop/eu/web", "_tcp.api.eu.shop.shop.example."),
    ] {
        let (code, answers, ..) = asked(caller, name);
        assert_eq!((code, answers), (ResponseCode::NoError, 0), "{caller} {name}");
    }
    let (code, _, why, denied) = asked("shop/eu/web", "db.eu.shop.shop.example.");
    assert_eq!((code, denied), (ResponseCode::NXDomain, Some(Reason::NoEdge)));
    assert!(why.contains("add { from: web, to: db } under tenants.shop/eu.allow"), "{why}");
    // Of other tenants, above and below as well, the same is said of what is there and of what is not. What is exported to a
    // tenant is exported to those below it: there the edge is missing.
    for (caller, there, not, reason) in [
        ("shop/eu/web", "far.west.eu.shop", "none.west.eu.shop", Reason::NotExported),
        ("shop/eu/west/far", "top.shop", "pot.shop", Reason::NoEdge),
        ("shop/top", "api.eu.shop", "ipa.eu.shop", Reason::NotExported),
    ] {
        let [hidden, none] = [there, not].map(|name| asked(caller, &format!("{name}.shop.example.")));
        assert_eq!((hidden.0, hidden.1, &hidden.2), (ResponseCode::NXDomain, 0, &none.2), "{caller} {there}");
        assert_eq!((hidden.3, none.3), (Some(reason), Some(Reason::NoService)), "{caller} {there}");
    }
}
