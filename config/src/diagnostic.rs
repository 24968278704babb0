//! Mistakes in a file, shown all at once with file, line, source line and hint.

use std::{fmt, ops::Range, sync::Arc};

/// A place in a file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl serde::Serialize for Location {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One mistake: where it is, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it is.
    pub at: Location,
    /// The line of the file that it is on: control characters replaced, and only the part around the mistake when the
    /// line is long.
    pub source_line: String,
    /// Which characters of `source_line` are meant, from 0.
    pub caret: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.at.line.to_string();
        let margin = line.len();
        writeln!(f, "error: {}", self.message)?;
        writeln!(f, "{:margin$}--> {}:{}:{}", "", self.at.file, line, self.at.column)?;
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{line} | {}", self.source_line)?;
        let (start, width) = (self.caret.start, self.caret.len().max(1));
        writeln!(f, "{:margin$} | {:start$}{:^<width$}", "", "", "")?;
        self.hint.iter().try_for_each(|hint| writeln!(f, "{:margin$} = hint: {hint}", ""))
    }
}

/// Every mistake of one file, in the order of its lines. Never empty when it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    /// The mistakes with an empty line between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, one) in self.0.iter().enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            write!(f, "{gap}{one}")?;
        }
        Ok(())
    }
}
