//! What commands print: tables or JSON on standard output, errors on standard error.

use super::{args::Format, socket::Said};
use anyhow::Context;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, IsTerminal, Write},
};

/// The version of what programs read: a number that grows when a field goes or means something else. New fields do not
/// change it.
const SCHEMA: u32 = 1;

/// What programs read, with its version.
#[derive(Serialize)]
struct Versioned<'v, T> {
    schema: u32,
    #[serde(flatten)]
    value: &'v T,
}

/// How a command prints.
pub(super) struct Output {
    format: Format,
    colours: bool,
}

/// How a cell is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Doubtful,
    Bad,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        // https://no-color.org: set and not empty means no colours.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { format, colours: io::stdout().is_terminal() && !unwanted }
    }

    /// Whether programs read it.
    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints a value with fields as JSON with its version, or the text made for people. For lists, [`Output::show_list`].
    pub(super) fn show(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self.format {
            Format::Table => print(&text())?,
            Format::Json => {
                print(&format!("{}\n", serde_json::to_string_pretty(&Versioned { schema: SCHEMA, value })?))?;
            }
        }
        Ok(())
    }

    /// As [`Output::show`], for a list: in JSON the field `name` of an object.
    pub(super) fn show_list(
        &self,
        name: &str,
        values: &[impl Serialize],
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        self.show(&BTreeMap::from([(name, values)]), text)
    }

    /// A table without rules, which `cut` and `awk` can read as well.
    pub(super) fn table(&self, head: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.iter().map(|title| {
            if self.colours { Cell::new(title).add_attribute(Attribute::Bold) } else { Cell::new(title) }
        }));
        table
    }

    /// A table of what agents say; where several were asked, its first column is whose word each row is.
    pub(super) fn table_of<T>(&self, head: &[&str], said: &[Said<T>], row: impl Fn(&T) -> Vec<Cell>) -> String {
        let several = said.iter().any(|one| one.agent.is_some());
        let whose: &[&str] = if several { &["AGENT"] } else { &[] };
        let mut table = self.table(&[whose, head].concat());
        for one in said {
            let agent = one.agent.iter().map(Cell::new);
            table.add_row(agent.chain(row(&one.value)).collect::<Vec<_>>());
        }
        lines(&table)
    }

    /// Text that is green, yellow or red where there are colours.
    pub(super) fn paint(&self, text: &str, tone: Tone) -> String {
        // SGR 32, 33 and 31 (ECMA-48).
        let colour = match tone {
            Tone::Good => 32,
            Tone::Doubtful => 33,
            Tone::Bad => 31,
        };
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.into() }
    }

    /// A cell that is green, yellow or red where there are colours.
    pub(super) fn cell(&self, text: &str, tone: Tone) -> Cell {
        let colour = match tone {
            Tone::Good => Color::Green,
            Tone::Doubtful => Color::Yellow,
            Tone::Bad => Color::Red,
        };
        if self.colours { Cell::new(text).fg(colour) } else { Cell::new(text) }
    }
}

/// The table as lines, without the blanks at their ends.
pub(super) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim().trim_end())).collect()
}

/// A value as one line of JSON with its version.
pub(super) fn line(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string(&Versioned { schema: SCHEMA, value })?))
}

/// Prints to standard output; `false` when nobody reads it any more.
pub(super) fn print_while_read(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).context("cannot write to standard output"),
    }
}

/// Prints to standard output. A reader that has gone, as in `ripstop status | head -1`, is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    print_while_read(text).map(drop)
}

/// Prints an error and what caused it; a cause that the text above already says is left out.
pub(super) fn print_error(error: &anyhow::Error) {
    complain(&render_error(error));
}

/// Says something beside what is printed.
pub(super) fn complain(text: &str) {
    // There is nowhere left to say that this failed.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn render_error(error: &anyhow::Error) -> String {
    let mut said = format!("error: {error}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(cause.trim_end()) {
            said.push_str(&format!("\n  because: {}", cause.trim_end()));
        }
    }
    format!("{}\n", said.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("failed to start");
        assert_eq!(render_error(&error), "error: failed to start\n  because: cannot read x: no such file\n");
    }

    #[test]
    fn of_several_agents_each_row_says_whose_word_it_is() {
        let output = Output { format: Format::Table, colours: false };
        let said = |agents: [Option<&str>; 2]| {
            let said = agents.map(|agent| Said { agent: agent.map(|host| host.parse().unwrap()), value: "up" });
            output.table_of(&["STATE"], &said, |state| vec![Cell::new(state)])
        };
        assert_eq!(said([None, None]), "STATE\nup\nup\n");
        assert_eq!(said([Some("alpha"), Some("beta")]), "AGENT  STATE\nalpha  up\nbeta   up\n");
    }

    #[test]
    fn tables_are_plain_when_not_on_a_terminal() {
        let output = Output { format: Format::Table, colours: false };
        let mut table = output.table(&["HOST", "STATE"]);
        table.add_row(vec![Cell::new("a"), output.cell("up", Tone::Good)]);
        assert_eq!(lines(&table), "HOST  STATE\na     up\n");
    }
}
