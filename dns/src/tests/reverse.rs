use super::*;
use ripstop_config::{Reason, ServiceId};
use std::net::IpAddr;

fn pointer(caller: &str, address: IpAddr) -> Result<String, Option<Reason>> {
    let (message, reply) = ask(caller, &Name::from(address).to_string(), RecordType::PTR);
    match message.answers.as_slice() {
        [] => Err(reply.denied),
        [one] => Ok(one.data.to_string()),
        more => panic!("{more:?}"),
    }
}

#[test]
fn addresses_have_names_for_those_who_may_know_them() {
    let policy = policy();
    let service = |id: &str| policy.service_entry(policy.service(&id.parse().unwrap()).unwrap());
    let workload = |id: &str| policy.workload_entry(who(&policy, id));
    for v6 in [false, true] {
        let pick = |v4: std::net::Ipv4Addr, addr6: std::net::Ipv6Addr| if v6 { addr6.into() } else { v4.into() };
        let of_service = |id: &str| pick(service(id).v4, service(id).v6);
        let of_workload = |id: &str| pick(workload(id).v4, workload(id).v6);
        let cases = [
            ("shop/web", of_service("shop/api"), Ok("api.shop.shop.example.")),
            ("shop/web", of_service("shop/db"), Err(Reason::NoService)),
            ("shop/web", of_workload("shop/web"), Ok("web.shop.workloads.shop.example.")),
            // The server sees its callers' addresses; nobody else does, the callers of its callers included.
            ("shop/api", of_workload("shop/web"), Ok("web.shop.workloads.shop.example.")),
            ("shop/db", of_workload("billing/report"), Ok("report.billing.workloads.shop.example.")),
            ("shop/db", of_workload("shop/web"), Err(Reason::NoService)),
            ("shop/web", of_workload("shop/api"), Err(Reason::NoService)),
            ("shop/web", pick(policy.resolver().0, policy.resolver().1), Ok("resolver.shop.example.")),
        ];
        for (caller, address, expected) in cases {
            let expected = expected.map(String::from).map_err(Some);
            assert_eq!(pointer(caller, address), expected, "{caller} asks for {address}");
        }
    }
}

#[test]
fn a_name_of_a_workload_leads_back_to_its_address() {
    let policy = policy();
    let web = policy.workload_entry(who(&policy, "shop/web")).v4;
    let (message, _) = ask("shop/api", "web.shop.workloads.shop.example.", RecordType::A);
    assert_eq!(message.answers[0].data.to_string(), web.to_string());
    let (hidden, _) = ask("shop/db", "web.shop.workloads.shop.example.", RecordType::A);
    let (absent, _) = ask("shop/db", "wob.shop.workloads.shop.example.", RecordType::A);
    assert_eq!(show(&hidden), show(&absent));
}

/// Who sees a caller's address may know its name, and that the name is that address's; nobody else may know either.
#[test]
fn names_of_callers_are_for_themselves_and_for_those_whom_they_may_call() {
    let policy = policy();
    let edges = &policy.graph().edges;
    let mut known = 0;
    for (asker, asked) in policy.workloads().flat_map(|asker| policy.workloads().map(move |asked| (asker, asked))) {
        let (from, to) = (policy.workload_entry(asker), policy.workload_entry(asked));
        let served = |service: &ServiceId| policy.service_entry(policy.service(service).unwrap()).by;
        let calls = edges.iter().any(|edge| edge.from == to.id && served(&edge.to) == asker);
        let name = format!("{}.{}.workloads.shop.example.", to.id.name, to.id.tenant);
        let asker = from.id.to_string();
        for (address, kind) in [(IpAddr::V4(to.v4), RecordType::A), (IpAddr::V6(to.v6), RecordType::AAAA)] {
            let forward = ask(&asker, &name, kind).0.answers;
            if from.id == to.id || calls {
                known += 1;
                assert_eq!(pointer(&asker, address), Ok(name.clone()), "{asker} asks for {address}");
                assert_eq!(forward.len(), 1, "{asker} asks for {name}");
                assert_eq!(forward[0].data.to_string(), address.to_string());
            } else {
                assert_eq!(pointer(&asker, address), Err(Some(Reason::NoService)), "{asker} asks for {address}");
                assert!(forward.is_empty(), "{asker} asks for {name}: {forward:?}");
            }
        }
    }
    // Five workloads know themselves, and four edges show a caller to the one that serves, in both families.
    assert_eq!(known, 2 * (5 + 4));
}

#[test]
fn reverse_zones_of_the_ranges_are_never_forwarded() {
    for (name, zone) in [
        ("18.198.in-addr.arpa.", "18.198.in-addr.arpa."),
        ("7.19.198.in-addr.arpa.", "19.198.in-addr.arpa."),
        ("lb._dns-sd._udp.0.0.18.198.in-addr.arpa.", "18.198.in-addr.arpa."),
        ("_x.18.198.in-addr.arpa.", "18.198.in-addr.arpa."),
        ("9.9.9.9.9.18.198.in-addr.arpa.", "18.198.in-addr.arpa."),
        ("7.7.0.0.0.0.c.1.e.5.d.f.ip6.arpa.", "7.7.0.0.0.0.c.1.e.5.d.f.ip6.arpa."),
        ("zz.7.7.0.0.0.0.c.1.e.5.d.f.ip6.arpa.", "7.7.0.0.0.0.c.1.e.5.d.f.ip6.arpa."),
    ] {
        let (message, _) = ask("shop/web", name, RecordType::PTR);
        assert!(message.answers.is_empty(), "{message}");
        assert_eq!(message.authorities[0].name.to_string(), zone, "{name}");
        assert_eq!(
            message.metadata.response_code.to_string() == "No Error",
            name == zone || name.starts_with("7.19"),
            "{name}"
        );
    }
}

#[test]
fn what_lies_above_or_beside_is_forwarded() {
    let policy = policy();
    for name in [
        "198.in-addr.arpa.",
        "in-addr.arpa.",
        "20.198.in-addr.arpa.",
        "1.0.20.198.in-addr.arpa.",
        "8.e.f.ip6.arpa.",
        "x.20.198.in-addr.arpa.",
    ] {
        let query = query(name, RecordType::PTR).to_vec().unwrap();
        assert_eq!(answer(&policy, who(&policy, "shop/web"), &query, Via::Udp), Answer::Forward, "{name}");
    }
    assert_eq!(
        show(&ask("shop/web", "1.0.0.127.in-addr.arpa.", RecordType::PTR).0),
        "NoError\nanswer 1.0.0.127.in-addr.arpa. 5 IN PTR localhost."
    );
}

#[test]
fn a_range_that_ends_within_a_byte_has_a_zone_of_its_own() {
    let mut graph = graph();
    graph.ranges.services_v4 = "10.1.16.0/20".parse().unwrap();
    let policy = compile(graph).unwrap();
    let at = |name: &str| {
        let query = query(name, RecordType::PTR).to_vec().unwrap();
        match answer(&policy, who(&policy, "shop/web"), &query, Via::Udp) {
            Answer::Reply(reply) => Message::from_vec(&reply.bytes).unwrap().authorities[0].name.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(at("9.31.1.10.in-addr.arpa."), "31.1.10.in-addr.arpa.");
    assert_eq!(at("9.32.1.10.in-addr.arpa."), "Forward");
    assert_eq!(at("1.10.in-addr.arpa."), "Forward");
}
