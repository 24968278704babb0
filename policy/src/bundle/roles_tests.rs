//! Operators who are limited to tenants: what each of them may sign.

use super::{
    Bundle, Content, RoleError,
    tests::{fabric, open, signed, trusting},
};
use crate::Addresses;
use ripstop_config::Operators;

/// Two tenants, one of them with another below it, and a call between them.
const TENANTS: &str = "\
fabric: shop.example
hosts: { alpha: {} }
tenants:
  shop:
    workloads:
      db: { on: [alpha], run: { netns: db } }
    services:
      db: { by: db, port: 5432/tcp, export: [billing] }
  shop/eu:
    limit: { sessions: 9 }
    workloads:
      web: { on: [alpha], run: { netns: web } }
  billing:
    workloads:
      bill: { on: [alpha], run: { netns: bill } }
    allow:
      - { from: bill, to: shop/db }
";

/// A policy of [`TENANTS`], changed and signed by some.
fn made(version_of: &str, seeds: &[u8], operators: &Operators, change: impl Fn(&mut Content)) -> Bundle {
    let mut content = Content::of(&fabric(), "g", TENANTS, &Addresses::default()).unwrap();
    change(&mut content);
    open(&signed(version_of, &content, seeds), operators).unwrap()
}

/// Operators 1 and 2 may change everything, 3 `shop`, 4 `shop/eu`, 5 `billing`.
fn limited(need: usize) -> Operators {
    let mut operators = trusting(need, &[1, 2, 3, 4, 5]);
    for (name, tenant) in [("op3", "shop"), ("op4", "shop/eu"), ("op5", "billing")] {
        operators.limited.insert(name.parse().unwrap(), [tenant.parse().unwrap()].into());
    }
    operators
}

fn graph(from: &'static str, to: &'static str) -> impl Fn(&mut Content) {
    assert!(TENANTS.contains(from), "{from}");
    move |content| {
        let graph = content.graph.replacen(from, to, 1);
        *content = Content::of(&fabric(), "g", &graph, &content.addresses).unwrap();
    }
}

/// A part, a change of it, and who may sign that.
type Case<'c> = (&'c str, &'c dyn Fn(&mut Content), &'c [u8]);

#[test]
fn an_operator_of_a_tenant_changes_its_part_and_no_other() {
    let operators = limited(1);
    let before = made("1.1", &[1], &operators, |_| {});
    let outside = |seed: u8, change: &dyn Fn(&mut Content)| {
        let after = made("1.2", &[seed], &operators, change);
        match after.check_roles(Some(&before), &operators) {
            Ok(()) => String::new(),
            Err(RoleError::Outside { parts, .. }) => parts,
            Err(other) => panic!("{other}"),
        }
    };
    let web = graph("netns: web }", "netns: web }, limit: { sessions: 7 }");
    let may = graph("netns: web }", "netns: web }, may: [path]");
    let placed = graph("netns: web", "user: 1000");
    let sub = graph("  billing:\n", "  shop/us: {}\n  billing:\n");
    let export = graph(", export: [billing]", "");
    let edge = graph("to: shop/db }", "to: shop/db, port: 5432 }");
    let limit = graph("sessions: 9", "sessions: 99");
    let cases: [Case<'_>; 14] = [
        ("", &|_| {}, &[1, 3, 4, 5]),
        ("", &|content| content.graph.insert_str(0, "# a word\n"), &[1, 3, 4, 5]),
        ("workload shop/eu/web (g:12)", &web, &[1, 3, 4]),
        ("workload shop/eu/web (g:12)", &may, &[1, 3, 4]),
        ("where workload shop/eu/web runs (g:12)", &placed, &[1]),
        ("tenant shop/us (g:13)", &sub, &[1, 3]),
        ("service shop/db (g:8)", &export, &[1, 3]),
        ("tenant shop/eu (g:9)", &limit, &[1, 3]),
        ("edge billing/bill -> shop/db (g:17)", &edge, &[1, 5]),
        ("host beta (g:2)", &graph("alpha: {} }", "alpha: {}, beta: {} }"), &[1]),
        ("host alpha (g:2)", &graph("alpha: {} }", "alpha: { zone: z } }"), &[1]),
        ("tenant new (g:13)", &graph("  billing:\n", "  new: {}\n  billing:\n"), &[1]),
        (
            "never between billing and shop/eu (g:3)",
            &graph("tenants:\n", "never: [{ between: [shop/eu, billing] }]\ntenants:\n"),
            &[1],
        ),
        ("who is shut out", &|content| assert!(content.revoked.hosts.insert("alpha".parse().unwrap())), &[1]),
    ];
    for (part, change, may) in cases {
        for seed in [1, 3, 4, 5] {
            let expected = if may.contains(&seed) { "" } else { part };
            assert_eq!(outside(seed, change), expected, "{part}, signed by {seed}");
        }
    }
    let test = graph("hosts:", "tests: { allow: [{ from: billing/bill, to: shop/db }] }\nhosts:");
    assert_eq!(outside(3, &test), "test of billing/bill -> shop/db (g:2)");
    let moved = |content: &mut Content| {
        let id: ripstop_config::ServiceId = "shop/db".parse().unwrap();
        content.addresses.services.get_mut(&id).unwrap().0 = "198.18.0.77".parse().unwrap();
    };
    assert_eq!((outside(5, &moved).as_str(), outside(3, &moved).as_str()), ("addresses of service shop/db", ""));
    // Tenants whose whole part is gone, or taken over.
    let gone = graph(
        "  shop/eu:\n    limit: { sessions: 9 }\n    workloads:\n      web: { on: [alpha], run: { netns: web } }\n",
        "",
    );
    let runs = "where workload shop/eu/web runs (g:12)";
    let left = format!("addresses of workload shop/eu/web, tenant shop/eu (g:9), {runs}, workload shop/eu/web (g:12)");
    assert_eq!((outside(5, &gone), outside(4, &gone)), (left, format!("tenant shop/eu (g:9), {runs}")));
}

#[test]
fn as_many_as_must_sign_must_be_allowed_to_change_each_part() {
    let operators = limited(2);
    let before = made("1.1", &[1, 2], &operators, |_| {});
    let web = graph("netns: web }", "netns: web }, limit: { sessions: 7 }");
    let host = graph("alpha: {} }", "alpha: {}, beta: {} }");
    let check = |seeds: &[u8], change: &dyn Fn(&mut Content)| {
        made("1.2", seeds, &operators, change).check_roles(Some(&before), &operators)
    };
    for good in [[1, 2], [1, 3], [1, 4], [3, 4]] {
        assert_eq!(check(&good, &web), Ok(()), "{good:?}");
    }
    assert_eq!(check(&[1, 2], &host), Ok(()));
    let refused = check(&[1, 4], &host).unwrap_err().to_string();
    assert_eq!(
        refused,
        "op1, op4 (limited to shop/eu) signed it, and it changes host beta (g:2): 2 of its signers must be operators who may \
         change that"
    );
    assert!(check(&[4, 5], &web).is_err() && check(&[1, 5], &web).is_err());
    let fresh = made("1.2", &[1, 4], &operators, |_| {});
    assert_eq!(fresh.check_roles(None, &operators), Err(RoleError::NoPolicy), "nothing to hold it against");
    assert_eq!(before.check_roles(None, &operators), Ok(()));
}
