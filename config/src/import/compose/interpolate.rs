//! Variables in values (Compose specification, "Interpolation").

use std::collections::BTreeMap;

/// Defaults within defaults that are followed.
const DEPTH_MAX: usize = 8;
/// Bytes that one value may become: defaults name variables again and again.
const VALUE_MAX: usize = 64 * 1024;

/// A value with its variables put in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// Variables without a value or default, which are empty.
    pub(super) unset: Vec<String>,
}

/// Puts in `$NAME`, `${NAME}` and the forms with `-`, `?` and `+`; `$$` is a dollar.
///
/// # Errors
/// What is wrong with the value, or which variable must be set.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, String>) -> Result<Expanded, String> {
    let mut out = Expanded::default();
    put(text, variables, 0, &mut out)?;
    Ok(out)
}

fn put(text: &str, variables: &BTreeMap<String, String>, depth: usize, out: &mut Expanded) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("defaults within defaults are followed {DEPTH_MAX} deep"));
    }
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        push(&rest[..at], out)?;
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            push("$", out)?;
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let end = closing(inner).ok_or("`${` without `}`: write `$$` for a dollar")?;
            braced(&inner[..end], variables, depth, out)?;
            rest = &inner[end + 1..];
        } else {
            let name = name_of(rest);
            if name.is_empty() {
                return Err("`$` without a variable's name: write `$$` for a dollar".into());
            }
            value(name, variables.get(name), out)?;
            rest = &rest[name.len()..];
        }
    }
    push(rest, out)
}

/// What stands between `${` and `}`.
fn braced(inner: &str, variables: &BTreeMap<String, String>, depth: usize, out: &mut Expanded) -> Result<(), String> {
    let name = name_of(inner);
    let operation = &inner[name.len()..];
    let found = variables.get(name);
    // With a colon an empty value is as good as none.
    let (operation, set) = match operation.strip_prefix(':') {
        Some(rest) => (rest, found.filter(|value| !value.is_empty())),
        None => (operation, found),
    };
    let argument = operation.get(1..).unwrap_or_default();
    match operation.chars().next() {
        _ if name.is_empty() => Err(format!("`${{{inner}}}` names no variable")),
        None if inner.len() == name.len() => value(name, found, out),
        Some('-') => match set {
            Some(value) => push(value, out),
            None => put(argument, variables, depth + 1, out),
        },
        Some('+') => set.map_or(Ok(()), |_| put(argument, variables, depth + 1, out)),
        Some('?') => match set {
            Some(value) => push(value, out),
            None => Err(format!("`{name}` must be set ({argument}): give --env {name}=VALUE")),
        },
        None | Some(_) => Err(format!("`${{{inner}}}` is no form of a variable")),
    }
}

fn value(name: &str, found: Option<&String>, out: &mut Expanded) -> Result<(), String> {
    match found {
        Some(value) => push(value, out),
        None => {
            out.unset.push(name.to_owned());
            Ok(())
        }
    }
}

fn push(text: &str, out: &mut Expanded) -> Result<(), String> {
    if out.text.len() + text.len() > VALUE_MAX {
        return Err(format!("its value has more than {VALUE_MAX} bytes"));
    }
    out.text.push_str(text);
    Ok(())
}

/// The variable's name at the beginning: a letter or `_`, then letters, digits and `_`.
fn name_of(text: &str) -> &str {
    let fits = |(at, letter): (usize, char)| {
        letter == '_' || letter.is_ascii_alphabetic() || (at > 0 && letter.is_ascii_digit())
    };
    let end = text.char_indices().find(|one| !fits(*one)).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// Where the `}` is that ends this one, behind those of variables within it.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' if text[..at].ends_with('$') => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<(String, Vec<String>), String> {
        let variables = [("A", "1"), ("EMPTY", ""), ("NAME_2", "two")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        expand(text, &variables).map(|out| (out.text, out.unset))
    }

    #[test]
    fn every_form_of_the_specification() {
        for (text, value, unset) in [
            ("a$A-${A}", "a1-1", &[][..]),
            ("$NAME_2.x", "two.x", &[]),
            ("$$A", "$A", &[]),
            ("${NO}", "", &["NO"]),
            ("${NO-d}:${EMPTY-d}:${EMPTY:-d}:${A:-d}", "d::d:1", &[]),
            ("${A:+y}${NO+y}${EMPTY:+y}${EMPTY+z}", "yz", &[]),
            ("${NO:-${NO2:-${A}}}!", "1!", &[]),
            ("${A?m}", "1", &[]),
        ] {
            let unset = unset.iter().map(ToString::to_string).collect();
            assert_eq!(expanded(text), Ok((value.into(), unset)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("${A", "without `}`"),
            ("$ x", "write `$$`"),
            ("${}", "names no variable"),
            ("${A!b}", "no form"),
            ("${NO:?give it}", "`NO` must be set (give it)"),
            ("${EMPTY:?}", "`EMPTY` must be set"),
        ] {
            assert!(expanded(text).unwrap_err().contains(said), "{text}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(20), "}".repeat(20));
        assert!(expanded(&deep).unwrap_err().contains("8 deep"));
        let bomb = format!("${{NO:-{}}}", "$NAME_2".repeat(VALUE_MAX / 3 + 1));
        assert!(expanded(&bomb).unwrap_err().contains("more than"));
    }
}
