//! Files of variables, such as `.env`.

use std::collections::BTreeMap;

/// Reads `NAME=VALUE` lines; `#` begins a comment, quotes around a value are taken away, `export` before a name too. Values are
/// taken as they are written: what looks like a variable in them is none.
///
/// # Errors
/// The number of a line that is none of this, and what is wrong with it.
pub fn variables(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut all = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        // The line may be a secret: it is not repeated.
        let (name, value) = line.split_once('=').ok_or_else(|| (number + 1, "write NAME=VALUE".to_owned()))?;
        let name = name.trim();
        if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            return Err((number + 1, "a variable's name has letters, digits and `_`".to_owned()));
        }
        all.insert(name.to_owned(), value_of(value.trim()).to_owned());
    }
    Ok(all)
}

fn value_of(text: &str) -> &str {
    for quote in ['"', '\''] {
        let quoted = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote));
        if let Some((value, _)) = quoted {
            return value;
        }
    }
    text.split(" #").next().unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds() {
        let text = "# comment\nA=1\nexport B = two words # said\n\nC=\"x # y\" z\nD='$A'\nE=\n";
        let all: Vec<_> = variables(text).unwrap().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(all, ["A=1", "B=two words", "C=x # y", "D=$A", "E="]);
        let (line, said) = variables("A=1\nsecret\n").unwrap_err();
        assert!(line == 2 && !said.contains("secret"));
        assert_eq!(variables("A-B=1").unwrap_err().0, 1);
    }
}
