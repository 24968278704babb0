//! Mistakes, collected while a file is read.

use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use std::{ops::Range, sync::Arc};

/// Mistakes shown of one file; a file that is wholly something else would otherwise fill the screen and the log.
const SHOWN_MAX: usize = 100;
/// Characters shown of a line, so that a file of one long line does not come back with every mistake.
const LINE_MAX: usize = 160;
/// Characters kept before the mistake when a line is cut.
const BEFORE_MAX: usize = 80;

/// A stretch of one line: where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// From 1; 0 when it is not known.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
    /// In characters.
    pub(crate) width: u32,
}

impl Mark {
    /// The beginning of a file.
    pub(crate) const START: Self = Self { line: 1, column: 1, width: 1 };
}

/// The file that is read and the mistakes found so far.
pub(crate) struct Report<'t> {
    file: Arc<str>,
    lines: Vec<&'t str>,
    found: Vec<Diagnostic>,
    /// Those beyond [`SHOWN_MAX`]: how many, and where the first is.
    more: Option<(usize, Mark)>,
}

impl<'t> Report<'t> {
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        Self { file: file.into(), lines: lines(text), found: Vec::new(), more: None }
    }

    /// Notes a mistake.
    pub(crate) fn error(&mut self, at: Mark, message: impl Into<String>) {
        self.note(at, &message.into(), None);
    }

    /// Notes a mistake, saying what to do about it.
    pub(crate) fn hinted(&mut self, at: Mark, message: impl Into<String>, hint: impl Into<String>) {
        self.note(at, &message.into(), Some(hint.into()));
    }

    /// Notes a mistake, with a hint if there is one.
    pub(crate) fn note(&mut self, at: Mark, message: &str, hint: Option<String>) {
        if self.is_full() {
            let (count, first) = self.more.unwrap_or((0, at));
            self.more = Some((count + 1, first));
            return;
        }
        let diagnostic = self.diagnostic(at, message, hint);
        self.found.push(diagnostic);
    }

    /// Whether further mistakes are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= SHOWN_MAX
    }

    /// The place of a mark, as the rest of the program knows it.
    pub(crate) fn location(&self, at: Mark) -> Location {
        Location { file: Arc::clone(&self.file), line: at.line.max(1), column: at.column.max(1) }
    }

    /// Everything found, in the order of the file.
    ///
    /// # Errors
    /// When anything was.
    pub(crate) fn finish(mut self) -> Result<(), Diagnostics> {
        self.found.sort_by_key(|one| (one.at.line, one.at.column));
        if let Some((count, first)) = self.more {
            let message = format!("and {count} more, the first of them here");
            let diagnostic = self.diagnostic(first, &message, None);
            self.found.push(diagnostic);
        }
        if self.found.is_empty() { Ok(()) } else { Err(Diagnostics(self.found)) }
    }

    fn diagnostic(&self, at: Mark, message: &str, hint: Option<String>) -> Diagnostic {
        let location = self.location(at);
        let line = self.lines.get(location.line as usize - 1).copied().unwrap_or_default();
        let (source_line, caret) = cut(line, location.column as usize - 1, at.width as usize);
        // A message may quote the file.
        let message = message.chars().map(printable).collect();
        Diagnostic { at: location, source_line, caret, message, hint }
    }
}

/// Lines as YAML has them (YAML 1.2.2 section 5.4): ended by LF, CR LF or CR.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        lines.extend(line.split('\r'));
    }
    lines
}

/// The part of a line around a column, fit for a terminal, and where in it the stretch is.
fn cut(line: &str, from: usize, width: usize) -> (String, Range<usize>) {
    let length = line.chars().count();
    let from = from.min(length);
    let skip = if length > LINE_MAX { from.saturating_sub(BEFORE_MAX) } else { 0 };
    let shown: String = line.chars().skip(skip).take(LINE_MAX).map(printable).collect();
    let start = from - skip;
    let end = (start + width.max(1)).min(length.saturating_sub(skip).min(LINE_MAX)).max(start + 1);
    (shown, start..end)
}

/// Control characters would move the cursor or colour the terminal; tabs would move the caret.
pub(crate) fn printable(letter: char) -> char {
    match letter {
        '\t' => ' ',
        _ if letter.is_control() => char::REPLACEMENT_CHARACTER,
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_in_yaml() {
        assert_eq!(lines("a\nb\r\nc\rd\n"), ["a", "b", "c", "d", ""]);
    }

    #[test]
    fn long_lines_are_cut_around_the_mistake() {
        let line = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let (shown, caret) = cut(&line, 1000, 500);
        assert_eq!(shown.chars().count(), LINE_MAX);
        assert_eq!(shown.chars().nth(caret.start), Some('X'));
        assert_eq!(caret.end, LINE_MAX);
    }

    #[test]
    fn terminals_are_not_written_to() {
        let (shown, caret) = cut("\tkey: \u{1b}[31mred", 1, 3);
        assert_eq!((shown.as_str(), caret), (" key: \u{fffd}[31mred", 1..4));
        assert_eq!(cut("", 7, 0), (String::new(), 0..1));
        let mut report = Report::new("f", "key: x");
        report.error(Mark::START, "`a\r\nX: \u{1b}[31m` is wrong");
        assert_eq!(report.finish().unwrap_err().0[0].message, "`a\u{fffd}\u{fffd}X: \u{fffd}[31m` is wrong");
    }

    #[test]
    fn mistakes_beyond_the_limit_are_counted() {
        let text = "x\n".repeat(300);
        let mut report = Report::new("f", &text);
        for line in 1..=250 {
            report.error(Mark { line, column: 1, width: 1 }, "wrong");
        }
        let found = report.finish().unwrap_err().0;
        assert_eq!(found.len(), SHOWN_MAX + 1);
        assert_eq!(found[SHOWN_MAX].message, "and 150 more, the first of them here");
        assert_eq!(found[SHOWN_MAX].at.line, 101);
    }
}
