//! Which names a token is good for.

use ripstop_config::{HostName, name::LABEL_MAX};
use std::{fmt, str::FromStr};

/// A host's name, or a pattern in which `*` stands for any characters, also none.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a host's name nor a pattern of one: use a-z, 0-9 and `-`, and `*` for any characters")]
pub struct PatternError(String);

impl HostPattern {
    /// The one host that it names, if it is no pattern.
    #[must_use]
    pub fn exact(&self) -> Option<HostName> {
        self.0.parse().ok()
    }

    /// Whether a name is among those meant.
    #[must_use]
    pub fn matches(&self, host: &HostName) -> bool {
        fits(self.0.as_bytes(), host.as_str().as_bytes())
    }
}

/// Goes back only to the last `*`, so that the time is the product of both lengths at most.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            Some(_) | None => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for HostPattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte);
        let is_pattern = text.contains('*') && text.bytes().all(fits) && text.len() <= LABEL_MAX;
        match is_pattern || text.parse::<HostName>().is_ok() {
            true => Ok(Self(text.to_owned())),
            false => Err(PatternError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_characters() {
        let matches =
            |pattern: &str, host: &str| pattern.parse::<HostPattern>().unwrap().matches(&host.parse().unwrap());
        for (pattern, host) in
            [("beta", "beta"), ("*", "beta"), ("web-*", "web-1"), ("*-1", "web-1"), ("w*b*1", "web-b-11")]
        {
            assert!(matches(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [("beta", "beta2"), ("web-*", "web"), ("*-1", "web-12"), ("w*b", "web-1"), ("a*a", "a")]
        {
            assert!(!matches(pattern, host), "{pattern} {host}");
        }
        let slow = "*a".repeat(31);
        assert!(!matches(&format!("{slow}b"), &"a".repeat(63)), "and that at once");
    }

    #[test]
    fn only_what_can_be_a_name_is_a_pattern() {
        for bad in ["", "a.b", "A*", "a_*", "-a", &"*".repeat(64)] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert_eq!("beta".parse::<HostPattern>().unwrap().exact().unwrap().as_str(), "beta");
        assert_eq!("b*".parse::<HostPattern>().unwrap().exact(), None);
    }
}
