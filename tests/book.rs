//! The book in `docs/`: its chapters, links and commands, and the reference of the graph, which is made of the schema.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use ripstop_config::{Reason, graph::SCHEMA};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const START: &str = "<!-- reference, made of the schema by `RIPSTOP_WRITE=1 cargo test --test book` -->\n";
const END: &str = "<!-- end of the reference -->\n";
/// What `sh` in a fence is followed by: a host of the lab on which `tests/e2e/book.rs` runs it, whether it is to fail, the
/// test that runs it, or that it is of a machine that no test has.
const HOSTS: [&str; 2] = ["lab=alpha", "lab=beta"];
/// Commands that no test has a machine for; they are other programs' own.
const ELSEWHERE: [&str; 2] = ["kubectl ", "spire-server "];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn chapter(name: &str) -> String {
    read(&root().join("docs").join(name))
}

/// The files of `docs/`, as the directory has them.
fn files() -> BTreeSet<String> {
    let names =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect()
}

/// Where the links of a text lead, without those inside of fences.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let outside = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    let of = |line: &str| {
        line.split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(to, _)| to.to_owned())
            .collect::<Vec<_>>()
    };
    outside.flat_map(of).collect()
}

/// The anchor that a heading has.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The fenced blocks of a kind: what follows it on its line, and what is in them.
fn blocks(text: &str, kind: &str) -> Vec<(String, String)> {
    let fences: Vec<_> = text.split("\n```").collect();
    let inside = fences.iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let of_kind = inside.filter_map(|(info, body)| Some((info.strip_prefix(kind)?.trim().to_owned(), body.to_owned())));
    of_kind.collect()
}

#[test]
fn every_chapter_is_in_the_summary_and_every_link_leads_somewhere() {
    let listed: BTreeSet<_> = links(&chapter("SUMMARY.md")).into_iter().collect();
    assert_eq!(listed, files());
    for name in files() {
        let text = chapter(&name);
        for link in links(&text).iter().filter(|link| !link.starts_with("http")) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { text.clone() } else { read(&root().join("docs").join(file)) };
            assert!(fragment.is_empty() || anchors(&target).iter().any(|one| one == fragment), "{name}: {link}");
        }
    }
    for link in links(&read(&root().join("README.md"))).iter().filter(|link| link.starts_with("docs/")) {
        assert!(root().join(link).exists(), "README.md: {link}");
    }
}

/// Each says where it is run, and where that is another test, that test has the command.
#[test]
fn every_command_is_run_by_a_test() {
    let mut in_the_lab = 0;
    for name in files() {
        for (info, body) in blocks(&chapter(&name), "sh") {
            let words: Vec<_> = info.split(' ').collect();
            match words.as_slice() {
                [host] | [host, "fails"] if HOSTS.contains(host) => in_the_lab += 1,
                [by] if by.starts_with("by=") => {
                    let test = read(&root().join(&by["by=".len()..]));
                    for line in body.lines().filter(|line| !line.is_empty()) {
                        let begins: Vec<_> = line.split(' ').skip(1).take(2).collect();
                        assert!(begins.iter().all(|word| test.contains(word)), "{name}: {by} does not run `{line}`");
                    }
                }
                ["elsewhere"] => {
                    let ours = body.lines().find(|line| !ELSEWHERE.iter().any(|program| line.starts_with(program)));
                    assert_eq!(ours, None, "{name}: a test could run it");
                }
                _ => panic!("{name}: ```sh {info}` does not say where it is run"),
            }
        }
    }
    assert!(in_the_lab > 20, "{in_the_lab}");
}

#[cfg(feature = "otel")]
#[test]
fn the_settings_of_traces_are_settings() {
    let settings = blocks(&chapter("tracing.md"), "yaml").remove(0).1;
    let all = format!("host: a\ngraph: g\n{settings}");
    let otel = ripstop_config::AgentConfig::parse("agent.yaml", &all).unwrap().otel.unwrap();
    assert_eq!((otel.sample.to_string().as_str(), otel.records), ("0.1", true));
    assert_eq!(otel.timeout, ripstop_config::agent::OTEL_TIMEOUT);
}

#[test]
fn reasons_are_those_that_there_are() {
    let chapter = chapter("troubleshooting.md");
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let reasons: Vec<_> = rows.map(|(reason, _)| reason.parse::<Reason>().unwrap()).collect();
    assert!(reasons.len() > 3);
}

fn values(schema: &Value) -> String {
    let name = |reference: &str| reference.rsplit('/').next().unwrap().to_owned();
    if let Some(reference) = schema["$ref"].as_str() {
        return format!("[{0}](#{1})", name(reference), anchor(&name(reference)));
    }
    if let Some(all) = schema["enum"].as_array() {
        return all.iter().map(|one| format!("`{}`", one.as_str().unwrap())).collect::<Vec<_>>().join(", ");
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().map(values).collect::<Vec<_>>().join(" or ");
    }
    if let Some(only) = schema["const"].as_str() {
        return format!("`{only}`");
    }
    let kinds: Vec<_> = match &schema["type"] {
        Value::Array(all) => all.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        one => one.as_str().into_iter().collect(),
    };
    match (&schema["items"], &schema["additionalProperties"]) {
        (items @ Value::Object(_), _) => format!("list of {}", values(items)),
        (_, of @ Value::Object(_)) => format!("by name, {}", values(of)),
        (_, _) => kinds.join(" or "),
    }
}

/// One section for each definition with keys, and a list of the forms of the others.
fn reference() -> String {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut text = section("The file", &schema);
    let definitions = schema["definitions"].as_object().unwrap();
    let has_keys = |definition: &Value| definition["properties"].is_object();
    for (name, definition) in definitions.iter().filter(|(_, definition)| has_keys(definition)) {
        text.push_str(&section(name, definition));
    }
    text.push_str("\n## Forms\n");
    for (name, definition) in definitions.iter().filter(|(_, definition)| !has_keys(definition)) {
        let form = if definition["anyOf"].is_array() { format!(": {}", values(definition)) } else { String::new() };
        text.push_str(&format!("\n### {name}\n{}{form}.\n", definition["description"].as_str().unwrap()));
    }
    text
}

fn section(name: &str, mapping: &Value) -> String {
    let required: Vec<_> = mapping["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut text = format!(
        "\n## {name}\n{}.\n\n| key | what | value | default |\n|---|---|---|---|\n",
        mapping["description"].as_str().unwrap().trim_end_matches('.')
    );
    for (key, value) in mapping["properties"].as_object().unwrap() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let referred = value["$ref"].as_str().and_then(|to| schema.pointer(to.trim_start_matches('#')));
        let what = value["description"].as_str().or_else(|| referred?["description"].as_str()).unwrap();
        let default = match &value["default"] {
            Value::Null if required.contains(&key.as_str()) => "required".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        text.push_str(&format!("| `{key}` | {what} | {} | {default} |\n", values(value)));
    }
    text
}

#[test]
fn the_reference_of_the_graph_is_that_of_the_schema() {
    let document = chapter("graph.md");
    let (before, rest) = document.split_once(START).expect("the reference's start");
    let (found, after) = rest.split_once(END).expect("the reference's end");
    let made = reference();
    if std::env::var_os("RIPSTOP_WRITE").is_some() {
        return fs::write(root().join("docs/graph.md"), format!("{before}{START}{made}{END}{after}")).unwrap();
    }
    assert_eq!(found, made, "write it with RIPSTOP_WRITE=1");
}
