//! Where in a text something is put: behind the last entry of a block, or before the closing bracket of a flow collection
//! (YAML 1.2.2 chapters 7 and 8).

use crate::yaml::{Key, Mark, Node, Value};

/// Blanks by which what is put into a block is further in than its key.
const STEP: usize = 2;

/// What is put in.
pub(super) struct Missing<'a> {
    /// Keys that have to be made above it.
    pub(super) keys: &'a [String],
    /// Its key; `None` for an item of a list.
    pub(super) key: Option<&'a str>,
    /// On one line.
    pub(super) value: &'a str,
}

impl Missing<'_> {
    /// As lines of a block that begins `indent` characters from the left.
    fn block(&self, indent: usize) -> String {
        let mut lines = String::new();
        for (depth, key) in self.keys.iter().enumerate() {
            lines.push_str(&format!("{:1$}{key}:\n", "", indent + depth * STEP));
        }
        let indent = indent + self.keys.len() * STEP;
        match self.key {
            Some(key) => lines.push_str(&format!("{:indent$}{key}: {}\n", "", self.value)),
            None => lines.push_str(&format!("{:indent$}- {}\n", "", self.value)),
        }
        lines
    }

    /// As an entry of a flow collection.
    fn flow(&self) -> String {
        let inner = match self.key {
            Some(key) => format!("{key}: {}", self.value),
            None if self.keys.is_empty() => self.value.to_owned(),
            None => format!("[{}]", self.value),
        };
        let mut keys = self.keys.iter().rev();
        // A list is the value of the innermost key; a mapping is braced by it.
        let innermost = match (keys.next(), self.key) {
            (Some(last), Some(_)) => format!("{last}: {{ {inner} }}"),
            (Some(last), None) => format!("{last}: {inner}"),
            (None, _) => inner,
        };
        keys.fold(innermost, |inner, key| format!("{key}: {{ {inner} }}"))
    }
}

/// A text with its lines.
pub(super) struct Source<'t> {
    text: &'t str,
    /// Where each line begins, in bytes.
    starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(ends).collect() }
    }

    /// Puts something into a collection; `above` is the key whose value that is, if it is not the whole file.
    pub(super) fn put_in(&self, node: &Node, above: Option<&Key>, missing: &Missing<'_>) -> Option<String> {
        let is_empty = match &node.value {
            Value::Nothing => return self.put_below(above?, missing),
            Value::Text(_) => return None,
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        };
        if first(node).is_some_and(|first| self.is_dashed(first)) {
            return self.put_behind(first(node)?, missing);
        }
        let at = self.byte(node.mark)?;
        match self.text.get(at..)?.chars().next()? {
            '{' | '[' => match above {
                Some(above) if is_empty && self.is_in_block(above) => self.open_up(above, at, missing),
                Some(_) | None => self.put_before_bracket(at, missing),
            },
            _ => self.put_behind(first(node)?, missing),
        }
    }

    /// Writes another scalar in the place of one.
    pub(super) fn replace_scalar(&self, node: &Node, with: &str) -> Option<String> {
        let start = self.byte(node.mark)?;
        let rest = self.text.get(start..)?;
        let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c));
        let length = match quote {
            Some(quote) => rest[1..].find(quote)? + 2,
            None => rest.chars().take(node.mark.width as usize).map(char::len_utf8).sum(),
        };
        Some(format!("{}{with}{}", &self.text[..start], &rest[length..]))
    }

    /// Behind a key that has nothing yet, on lines of their own.
    fn put_below(&self, above: &Key, missing: &Missing<'_>) -> Option<String> {
        let line = self.line(above.mark)?;
        let (before, after) = line.split_once(':')?;
        let nothing = after.trim_start().is_empty() || after.trim_start().starts_with('#');
        if !nothing || !self.is_in_block(above) {
            return None;
        }
        let indent = before.chars().take_while(|c| *c == ' ').count() + STEP;
        Some(self.with_lines(self.line_end(above.mark)?, &missing.block(indent)))
    }

    /// In the place of an empty flow collection that is the value of a key of a block.
    fn open_up(&self, above: &Key, open: usize, missing: &Missing<'_>) -> Option<String> {
        let close = self.closing(open)?;
        let end = self.text[close..].find('\n').map_or(self.text.len(), |at| close + at + 1);
        let trailing = self.text[close + 1..end].trim();
        if !(trailing.is_empty() || trailing.starts_with('#')) {
            return None;
        }
        let indent = above.mark.column as usize - 1 + STEP;
        let head = self.text[..open].trim_end();
        let comment = if trailing.is_empty() { String::new() } else { format!(" {trailing}") };
        Some(format!("{head}{comment}\n{}{}", missing.block(indent), &self.text[end..]))
    }

    fn put_before_bracket(&self, open: usize, missing: &Missing<'_>) -> Option<String> {
        let close = self.closing(open)?;
        let inside = self.text[open + 1..close].trim_end();
        // Behind a comment at the end, the entry would be part of it.
        if inside.lines().next_back().is_some_and(|line| line.contains('#')) {
            return None;
        }
        let inside = inside.strip_suffix(',').unwrap_or(inside);
        let comma = if inside.trim().is_empty() { " " } else { ", " };
        let blank = if self.text[open..].starts_with('{') { " " } else { "" };
        let comma = if blank.is_empty() { comma.trim_start_matches(|_| comma == " ") } else { comma };
        let (head, tail) = (&self.text[..=open], &self.text[close..]);
        Some(format!("{head}{inside}{comma}{}{blank}{tail}", missing.flow()))
    }

    /// Behind the last line of a block whose first entry begins at `first`.
    fn put_behind(&self, first: Mark, missing: &Missing<'_>) -> Option<String> {
        let start = self.line(first)?;
        let indent = start.chars().take_while(|c| *c == ' ').count();
        let is_list = start.trim_start().starts_with("- ");
        // A block that begins behind its key or dash, as in `- a: 1`, has its entries elsewhere than its line begins.
        if !is_list && indent + 1 != first.column as usize {
            return None;
        }
        let mut last = first.line as usize - 1;
        for (number, line) in self.lines().enumerate().skip(first.line as usize) {
            let blanks = line.chars().take_while(|c| *c == ' ').count();
            let content = line.trim();
            if content.is_empty() {
                continue;
            }
            let sibling = blanks == indent && (!is_list || content.starts_with("- ") || content.starts_with('#'));
            if !(blanks > indent || sibling) || (blanks == 0 && (content == "---" || content == "...")) {
                break;
            }
            last = number;
        }
        let end = self.starts.get(last + 1).copied().unwrap_or(self.text.len());
        Some(self.with_lines(end, &missing.block(indent)))
    }

    /// Whether a key begins its line, blanks aside.
    fn is_in_block(&self, key: &Key) -> bool {
        let before = key.mark.column as usize - 1;
        self.line(key.mark).is_some_and(|line| line.chars().take(before).all(|c| c == ' '))
    }

    /// Whether an item stands behind the dash that begins its line.
    fn is_dashed(&self, item: Mark) -> bool {
        let before = item.column as usize - 1;
        let before: Option<String> = self.line(item).map(|line| line.chars().take(before).collect());
        before.is_some_and(|before| before.trim() == "-")
    }

    /// The text with lines at the start of a line, or at its end.
    fn with_lines(&self, at: usize, lines: &str) -> String {
        let (head, tail) = self.text.split_at(at);
        let newline = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
        format!("{head}{newline}{lines}{tail}")
    }

    /// The bracket that closes the one at `open`. Brackets in quotes and comments are none.
    fn closing(&self, open: usize) -> Option<usize> {
        let (mut depth, mut quote, mut comment, mut before) = (0_usize, None, false, ' ');
        for (at, c) in self.text.get(open..)?.char_indices() {
            match (quote, comment) {
                (_, true) => comment = c != '\n',
                (Some(q), false) => quote = if c == q && !(q == '"' && before == '\\') { None } else { quote },
                (None, false) => match c {
                    '"' | '\'' if !before.is_alphanumeric() => quote = Some(c),
                    '#' if before.is_whitespace() => comment = true,
                    '{' | '[' => depth += 1,
                    '}' | ']' => depth -= 1,
                    _ => {}
                },
            }
            if depth == 0 {
                return Some(open + at);
            }
            before = c;
        }
        None
    }

    fn lines(&self) -> impl Iterator<Item = &'t str> {
        self.text.split('\n')
    }

    fn line(&self, mark: Mark) -> Option<&'t str> {
        let start = *self.starts.get((mark.line as usize).checked_sub(1)?)?;
        self.text.get(start..)?.split('\n').next()
    }

    fn line_end(&self, mark: Mark) -> Option<usize> {
        Some(self.starts.get(mark.line as usize).copied().unwrap_or(self.text.len()))
    }

    fn byte(&self, mark: Mark) -> Option<usize> {
        let start = *self.starts.get((mark.line as usize).checked_sub(1)?)?;
        let before = self.line(mark)?.chars().take((mark.column as usize).checked_sub(1)?);
        Some(start + before.map(char::len_utf8).sum::<usize>())
    }
}

/// Where the first entry of a collection begins.
fn first(node: &Node) -> Option<Mark> {
    match &node.value {
        Value::Map(entries) => entries.first().map(|(key, _)| key.mark),
        Value::List(items) => items.first().map(|item| item.mark),
        Value::Nothing | Value::Text(_) => None,
    }
}
