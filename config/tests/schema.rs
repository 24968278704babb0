//! The JSON schema of a graph says the same as what reads one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use ripstop_config::{Graph, graph::SCHEMA};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A graph with a key that nothing has in each of its mappings; `|` and what follows are of a form that stands in another's place.
const UNKNOWN: &str = "
zzzzzzzz: 1
fabric: f
ranges: { zzzzzzzz: 1 }
hosts: { a: { zzzzzzzz: 1 } }
tenants:
  t:
    zzzzzzzz: 1
    limit: { zzzzzzzz: 1 }
    workloads:
      w: { zzzzzzzz: 1, on: [a], run: { zzzzzzzz: 1 } }
      v: { on: [a], run: { container: { zzzzzzzz: 1 } } }
      u: { on: [a], run: { netns: u } }
    services:
      s: { zzzzzzzz: 1, by: u, port: 1, health: { zzzzzzzz: 1 }, balance: { zzzzzzzz: 1 } }
    allow:
      - { zzzzzzzz: 1 }
never: [{ zzzzzzzz: 1 }]
tests: { zzzzzzzz: 1, allow: [{ zzzzzzzz: 1 }] }
";

/// What reading calls a mapping, and what the schema does.
const MAPPINGS: [(&str, &str); 15] = [
    ("the graph", ""),
    ("`ranges`", "ranges"),
    ("a host", "host"),
    ("a tenant", "tenant"),
    ("`limit`", "limit"),
    ("a workload", "workload"),
    ("`run`", "runForm"),
    ("`container`", "container"),
    ("a service", "service"),
    ("`health`", "health"),
    ("`balance`", "balanceForm"),
    ("an edge", "edge"),
    ("a rule of `never`", "never"),
    ("`tests`", "tests"),
    ("a test", "test"),
];

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// The keys of each mapping, as reading says them of a key that it does not know.
fn read_keys() -> BTreeMap<String, BTreeSet<String>> {
    let said = Graph::parse("g", UNKNOWN).unwrap_err().to_string();
    let hints = said.lines().filter_map(|line| line.trim().trim_start_matches("= ").strip_prefix("hint: "));
    let keys = hints.filter_map(|hint| hint.split_once(" has the keys "));
    keys.map(|(what, keys)| {
        let keys = keys.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (what.to_owned(), keys)
    })
    .collect()
}

#[test]
fn its_keys_are_those_that_are_read() {
    let (schema, read) = (schema(), read_keys());
    assert_eq!(
        read.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        MAPPINGS.iter().map(|(what, _)| *what).collect()
    );
    for (what, name) in MAPPINGS {
        let mapping = if name.is_empty() { &schema } else { &schema["definitions"][name] };
        let keys: BTreeSet<String> = mapping["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, read[what], "{what}");
        assert_eq!(mapping["additionalProperties"], false, "{what}");
    }
}

/// What of a schema is used here, held against a value; says where it does not fit.
fn misfit(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let definition = root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"));
        return misfit(root, definition, value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let misfits: Option<Vec<_>> = any.iter().map(|one| misfit(root, one, value, at)).collect();
        return misfits.map(|all| all.join(" and "));
    }
    let allowed = |types: &Value| match types {
        Value::Array(all) => all.iter().any(|one| is(value, one)),
        one => is(value, one),
    };
    let wrong = schema.get("type").is_some_and(|types| !allowed(types))
        || schema.get("const").is_some_and(|only| only != value)
        || schema["enum"].as_array().is_some_and(|all| !all.contains(value));
    if wrong {
        return Some(format!("{at}: {value}"));
    }
    let required = schema["required"].as_array().into_iter().flatten();
    if let (Some(missing), true) =
        (required.clone().find(|key| value.get(key.as_str().unwrap()).is_none()), value.is_object())
    {
        return Some(format!("{at} lacks {missing}"));
    }
    let items = value.as_array().into_iter().flatten().map(|item| (format!("{at}[]"), &schema["items"], item));
    let fields = value.as_object().into_iter().flatten().map(|(key, value)| {
        let known = schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
        (format!("{at}.{key}"), known, value)
    });
    items.chain(fields).find_map(|(at, schema, value)| match schema {
        Value::Bool(false) => Some(format!("{at} is no key")),
        schema => misfit(root, schema, value, &at),
    })
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("null") => value.is_null(),
        other => panic!("{other:?}"),
    }
}

fn fits(text: &str) -> Option<String> {
    let schema = schema();
    misfit(&schema, &schema, &serde_saphyr::from_str(text).unwrap(), "")
}

#[test]
fn graphs_fit_it_and_mistakes_do_not() {
    let shop = include_str!("data/shop.yaml");
    for graph in [shop, include_str!("../../packaging/graph.yaml"), include_str!("../../policy/tests/data/shop.yaml")] {
        Graph::parse("g", graph).unwrap();
        assert_eq!(fits(graph), None);
    }
    for (text, instead, told) in [
        ("run: { netns: web }", "run: { nets: web }", "nets is no key"),
        ("by: api, port: 8080/tcp", "port: 8080/tcp", "lacks \"by\""),
        ("balance: least-load", "balance: best", "balance"),
        ("isolated: true", "isolated: yes please", "isolated"),
    ] {
        let wrong = shop.replacen(text, instead, 1);
        assert!(
            Graph::parse("g", &wrong).is_err() && fits(&wrong).is_some_and(|said| said.contains(told)),
            "{instead}: {:?}",
            fits(&wrong)
        );
    }
}
