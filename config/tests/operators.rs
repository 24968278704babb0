//! `operators.yaml`: keys, how many must sign, and mistakes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use ripstop_config::{OperatorKey, Operators};

fn key(byte: u8) -> OperatorKey {
    OperatorKey([byte; 32])
}

#[test]
fn what_is_written_is_read_again() {
    let text = format!("need: 2\noperators:\n  alice: {}\n  bob: {}\n  carol: {}\n", key(1), key(0xab), key(3));
    let operators = Operators::parse("operators.yaml", &text).unwrap();
    assert_eq!((operators.need, operators.keys.len()), (2, 3));
    assert_eq!(operators.name_of(&key(0xab)).unwrap().as_str(), "bob");
    assert_eq!(operators.name_of(&key(9)), None);
    assert_eq!(operators.to_string(), text);
    assert!(operators.limited.is_empty());
    let text = format!(
        "need: 1\noperators:\n  alice: {}\n  bob: {{ key: {}, tenants: [billing, shop/eu] }}\n",
        key(1),
        key(2)
    );
    let limited = Operators::parse("operators.yaml", &text).unwrap();
    assert_eq!(limited.to_string(), text);
    let may = |who: &str, tenant: Option<&str>| {
        limited.may_change(&who.parse().unwrap(), tenant.map(|tenant| tenant.parse().unwrap()).as_ref())
    };
    assert!(may("alice", None) && may("alice", Some("shop")) && !may("carol", None) && !may("carol", Some("shop")));
    assert!(may("bob", Some("shop/eu")) && may("bob", Some("shop/eu/west")) && may("bob", Some("billing")));
    assert!(
        !may("bob", Some("shop")) && !may("bob", Some("shop/us")) && !may("bob", Some("billings")) && !may("bob", None)
    );
    let one = Operators::parse("operators.yaml", &format!("operators: {{ alice: {} }}", key(1))).unwrap();
    assert_eq!(one.need, 1);
}

#[test]
fn mistakes_are_named() {
    let one = format!("operators: {{ alice: {} }}", key(1));
    let twice = format!("operators:\n  alice: {}\n  bob: {}\n", key(1), key(1));
    for (text, expected) in [
        ("need: 1", "needs `operators`"),
        ("operators: {}", "1 to 32 operators, not 0"),
        (&format!("{one}\nneed: 0"), "1 to 1"),
        (&format!("{one}\nneed: 2"), "1 to 1"),
        (&format!("{one}\nneed: all"), "invalid digit"),
        (&twice, "already given on line 2"),
        ("operators: { alice: ed25519:00 }", "64 hexadecimal digits"),
        (&format!("operators: {{ alice: ed25519:{} }}", "+f".repeat(32)), "64 hexadecimal digits"),
        (&format!("operators: {{ Alice: {} }}", key(1)), "is not a name"),
        (&format!("{one}\nkeys: []"), "unknown key `keys`"),
        (&format!("operators: {{ alice: {{ key: {} }} }}", key(1)), "needs `tenants`"),
        (
            &format!("operators: {{ alice: {{ key: {}, tenants: [shop] }} }}", key(1)),
            "0 of the operators may change the whole fabric",
        ),
        (&format!("operators: {{ alice: {{ key: {}, tenants: [] }} }}", key(1)), "must not be empty"),
    ] {
        let found = Operators::parse("operators.yaml", text).unwrap_err().to_string();
        assert!(found.contains(expected), "{text}\n{found}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "((need|operators|alice)(: |:\n  )|ed25519:[0-9a-f]{0,64}|\\PC{0,5}|[{}\\[\\],\n -]){0,30}") {
        let _ = Operators::parse("operators.yaml", &text).map_err(|found| found.to_string());
    }

    #[test]
    fn keys_round_trip(bytes: [u8; 32]) {
        prop_assert_eq!(OperatorKey(bytes).to_string().parse(), Ok(OperatorKey(bytes)));
    }
}
