//! YAML as a tree of nodes with their places.

use super::{Mark, Report};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    Location, Spanned,
    budget::BudgetBreach,
    options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy},
};
use std::fmt;

/// Collections within collections: the deepest file has seven.
const DEPTH_MAX: usize = 16;
/// Collections within collections of a file that others wrote: schemas in Kubernetes manifests have some forty.
const FOREIGN_DEPTH_MAX: usize = 64;
/// Documents of one such file: each object of a Kubernetes manifest is one.
const DOCUMENTS_MAX: usize = 100_000;
/// Nodes of one file: a graph of 16 MiB has fewer, a bomb of aliases more.
const NODES_MAX: usize = 4_000_000;
/// Aliases of one file, and the parser's events that they may stand for altogether: enough for a shared `limit:` in
/// each of 25 000 edges, and refused within a second.
const ALIASES_MAX: usize = 25_000;
const ALIASED_EVENTS_MAX: usize = 200_000;

/// A value with its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) value: Value,
}

/// What a node is. Numbers and booleans are kept as they are written: their meaning depends on where they are.
#[derive(Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Nothing,
    /// A scalar.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file, with repeated keys.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key with its place.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) mark: Mark,
    pub(crate) text: String,
}

/// Parses YAML of at most `size_max` bytes. On a mistake of syntax, or when a limit is passed, notes it and returns
/// nothing.
pub(crate) fn parse(text: &str, size_max: usize, report: &mut Report<'_>) -> Option<Node> {
    fits(text, size_max, report)?;
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options(DEPTH_MAX, 1)) {
        Ok(root) => Some(node(root, text, report)),
        Err(error) => refuse(&error, report),
    }
}

/// Parses all documents of a file that others wrote, which may be deeper; otherwise as [`parse`] does. Empty ones are left
/// out.
pub(crate) fn parse_documents(text: &str, size_max: usize, report: &mut Report<'_>) -> Option<Vec<Node>> {
    fits(text, size_max, report)?;
    let options = options(FOREIGN_DEPTH_MAX, DOCUMENTS_MAX);
    match serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options) {
        Ok(roots) => Some(roots.into_iter().map(|root| node(root, text, report)).collect()),
        Err(error) => refuse(&error, report),
    }
}

fn fits(text: &str, size_max: usize, report: &mut Report<'_>) -> Option<()> {
    if text.len() > size_max {
        let message = format!("the file has {} bytes, more than the {size_max} that are read", text.len());
        report.error(Mark::START, message);
        return None;
    }
    Some(())
}

fn refuse<T>(error: &serde_saphyr::Error, report: &mut Report<'_>) -> Option<T> {
    let error = error.without_snippet();
    let at = error.location().map_or(Mark::START, mark);
    report.error(at, message(error));
    None
}

fn options(depth: usize, documents: usize) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: depth,
            flow_nesting_limit: depth,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
            max_documents: documents,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_recorded_anchor_events: ALIASED_EVENTS_MAX,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_EVENTS_MAX,
            max_replay_stack_depth: DEPTH_MAX,
        },
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// What is wrong with a text that is no YAML, or more than is read.
fn message(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            "the file has more than one document: keep what is before the first `---`".into()
        }
        _ => syntax(error),
    }
}

/// How the parser's message begins when a limit is passed; the rest is for programmers.
const TOO_MUCH: &str = "YAML document too large or too complex";

/// The parser's message without its "at line …", which is shown apart.
fn syntax(error: &serde_saphyr::Error) -> String {
    let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let text = text.lines().next().unwrap_or("not well-formed YAML");
    if text.starts_with(TOO_MUCH) {
        return "the file is larger, deeper or says more through its aliases than is read".into();
    }
    text.split(" at line ").next().unwrap_or(text).trim_end_matches([',', ':', ' ']).to_owned()
}

fn mark(at: Location) -> Mark {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Mark { line: small(at.line()), column: small(at.column()), width: small(at.span().len()) }
}

/// What the deserializer hands over, before scalars are read as they are written.
enum Raw {
    Nothing,
    /// A plain scalar that looks like a number or boolean.
    Plain,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

/// Recursion is bounded by [`DEPTH_MAX`] or [`FOREIGN_DEPTH_MAX`].
fn node(raw: Spanned<Raw>, source: &str, report: &mut Report<'_>) -> Node {
    let at = mark(raw.defined);
    let value = match raw.value {
        Raw::Nothing => Value::Nothing,
        Raw::Plain => Value::Text(written(raw.defined, source).to_owned()),
        Raw::Text(text) => Value::Text(text),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source, report)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .filter_map(|(key, value)| Some((self::key(key, source, report)?, node(value, source, report))))
                .collect(),
        ),
    };
    Node { mark: at, value }
}

fn key(raw: Spanned<Raw>, source: &str, report: &mut Report<'_>) -> Option<Key> {
    let at = mark(raw.defined);
    let text = match raw.value {
        Raw::Nothing | Raw::Plain => written(raw.defined, source).to_owned(),
        Raw::Text(text) => text,
        Raw::List(_) | Raw::Map(_) => {
            report.error(at, "a key must be a word");
            return None;
        }
    };
    Some(Key { mark: at, text })
}

/// A scalar as it stands in the file.
fn written(at: Location, source: &str) -> &str {
    let start = at.span().byte_offset().and_then(|start| usize::try_from(start).ok());
    let length = at.span().byte_len().and_then(|length| usize::try_from(length).ok());
    let slice = start.zip(length).and_then(|(start, length)| source.get(start..start.checked_add(length)?));
    slice.unwrap_or_default().trim()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Nothing => "~".into(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Map(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|(key, node)| format!("{}={}", key.text, show(node))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    fn tree(text: &str) -> Result<String, String> {
        let mut report = Report::new("f", text);
        let shown = parse(text, 1 << 20, &mut report).map(|node| show(&node));
        report.finish().map_err(|found| found.to_string())?;
        Ok(shown.unwrap())
    }

    #[test]
    fn scalars_stay_as_they_are_written() {
        for (text, shown) in [
            ("a: 0x10\nb: 010\nc: 1e3\nd: .nan", r#"{a="0x10" b="010" c="1e3" d=".nan"}"#),
            ("on: off\nyes: true\nnull: 1_000", r#"{on="off" yes="true" null="1_000"}"#),
            ("é: 'ü'\n1e3: 2 # b\n", r#"{é="ü" 1e3="2"}"#),
            ("a: {b: 1, b: 2}\na: [x, ~, null, '']", r#"{a={b="1" b="2"} a=["x" ~ ~ ""]}"#),
            ("a: &x {s: 1}\nb: *x\n<<: *x", r#"{a={s="1"} b={s="1"} <<={s="1"}}"#),
            ("\u{feff}a: 17", r#"{a="17"}"#),
            ("", "~"),
        ] {
            assert_eq!(tree(text).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn places_are_exact() {
        let text = "a:\n  - b: 12\n    cé: {d: true}\n";
        let root = parse(text, 100, &mut Report::new("f", text)).unwrap();
        let Value::Map(top) = root.value else { panic!("a map") };
        let Value::List(items) = &top[0].1.value else { panic!("a list") };
        let Value::Map(inner) = &items[0].value else { panic!("a map") };
        assert_eq!(items[0].mark.line, 2);
        assert_eq!(inner[0].1.mark, Mark { line: 2, column: 8, width: 2 });
        assert_eq!(inner[1].0.mark, Mark { line: 3, column: 5, width: 2 });
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            bomb += &format!("a{level}: &a{level} [{}]\n", below.trim_end_matches(", "));
        }
        let deep = "[".repeat(2000);
        let documents = "a: 1\n---\n".repeat(10);
        let texts = [bomb, deep, documents, "x".repeat(2 << 20), "a: &a [*a]".into(), "a: !!x b".into()];
        let messages = texts.map(|text| tree(&text).unwrap_err().lines().next().unwrap_or_default().to_owned());
        insta::assert_snapshot!(messages.join("\n"));
    }

    #[test]
    fn syntax_mistakes_have_their_place() {
        let shown = tree("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        insta::assert_snapshot!(shown);
    }
}
