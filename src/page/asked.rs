//! What of the page is asked for: the query of its address, which is all that one visit knows of another.

use crate::admin::client::encode;
use ripstop_config::{Reason, ServiceId, TenantName, WorkloadId};
use ripstop_telemetry::Filter;
use serde::Deserialize;

/// The fields of the filter, and which session is looked at. An empty one does not matter, as in a form that was sent whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) tenant: String,
    pub(super) verdict: String,
    pub(super) reason: String,
    /// `whole`: also what this host has nothing to do with.
    pub(super) graph: String,
    /// A session's id, and the end of it.
    pub(super) session: String,
    pub(super) side: String,
}

/// The value of [`Asked::graph`].
pub(super) const WHOLE: &str = "whole";

impl Asked {
    /// Which records are asked for.
    ///
    /// # Errors
    /// What is no reason.
    pub(super) fn filter(&self) -> Result<Filter, String> {
        let given = |text: &String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let reason = given(&self.reason).map(|reason| reason.parse::<Reason>()).transpose();
        Ok(Filter {
            from: given(&self.from),
            to: given(&self.to),
            replica: None,
            tenant: given(&self.tenant),
            verdict: given(&self.verdict),
            reason: reason.map_err(|error| error.to_string())?,
            since: None,
        })
    }

    /// Whether calls of this caller to this service are asked for.
    pub(super) fn fits(&self, caller: &WorkloadId, service: &ServiceId) -> bool {
        let is = |wanted: &str, id: &str, name: &str| wanted.is_empty() || wanted == id || wanted == name;
        is(self.from.trim(), &caller.to_string(), caller.name.as_str())
            && is(self.to.trim(), &service.to_string(), service.name.as_str())
            && (self.tenant.trim().is_empty() || self.is_of(&caller.tenant) || self.is_of(&service.tenant))
    }

    fn is_of(&self, tenant: &TenantName) -> bool {
        self.tenant.trim() == tenant.as_str()
    }

    /// Whether anything is left out.
    pub(super) fn is_filtered(&self) -> bool {
        self.filter_fields().iter().any(|(_, value)| !value.trim().is_empty())
    }

    pub(super) fn is_whole(&self) -> bool {
        self.graph == WHOLE
    }

    fn filter_fields(&self) -> [(&'static str, &str); 5] {
        [
            ("from", &self.from),
            ("to", &self.to),
            ("tenant", &self.tenant),
            ("verdict", &self.verdict),
            ("reason", &self.reason),
        ]
    }

    /// The address of what is asked for, with a change.
    pub(super) fn with(&self, change: impl FnOnce(&mut Self)) -> String {
        let mut changed = self.clone();
        change(&mut changed);
        let others = [("graph", &*changed.graph), ("session", &*changed.session), ("side", &*changed.side)];
        let all = changed.filter_fields().into_iter().chain(others);
        let given = all.filter(|(_, value)| !value.trim().is_empty());
        let pairs: Vec<_> = given.map(|(key, value)| format!("{key}={}", encode(value.trim()))).collect();
        if pairs.is_empty() { "/".into() } else { format!("/?{}", pairs.join("&")) }
    }

    /// The command that shows the same records in a terminal.
    pub(super) fn command(&self) -> String {
        let given = self.filter_fields().into_iter().filter(|(_, value)| !value.trim().is_empty());
        let options = given.map(|(key, value)| format!(" --{key} {}", quoted(value.trim())));
        format!("ripstop observe -f{}", options.collect::<String>())
    }
}

/// A word as a shell takes it (POSIX, Shell Command Language, section 2.2).
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:-".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_and_the_command_say_the_same() {
        let asked = Asked { from: " web ".into(), verdict: "deny".into(), graph: WHOLE.into(), ..Asked::default() };
        assert_eq!(asked.with(|_| {}), "/?from=web&verdict=deny&graph=whole");
        assert_eq!(asked.with(|asked| asked.to = "a&b c".into()), "/?from=web&to=a%26b%20c&verdict=deny&graph=whole");
        assert_eq!(asked.command(), "ripstop observe -f --from web --verdict deny");
        assert_eq!((Asked::default().with(|_| {}), Asked::default().is_filtered()), ("/".into(), false));
    }

    #[test]
    fn nothing_leaves_the_quotes_of_a_command() {
        let asked = Asked { from: "$(reboot)".into(), to: "a'; rm -rf /; '".into(), ..Asked::default() };
        assert_eq!(asked.command(), r"ripstop observe -f --from '$(reboot)' --to 'a'\''; rm -rf /; '\'''");
        assert_eq!([quoted(""), quoted("-x"), quoted("shop/web")], ["''", "'-x'", "shop/web"]);
    }

    #[test]
    fn a_form_that_was_sent_empty_asks_for_everything() {
        let asked = Asked::default();
        assert_eq!(asked.filter().unwrap(), Filter::default());
        assert!(asked.fits(&"a/b".parse().unwrap(), &"c/d".parse().unwrap()));
        let asked = Asked { to: "d".into(), tenant: "c".into(), ..Asked::default() };
        assert!(asked.fits(&"a/b".parse().unwrap(), &"c/d".parse().unwrap()));
        assert!(!asked.fits(&"a/b".parse().unwrap(), &"c/e".parse().unwrap()));
        assert!(Asked { reason: "no_such".into(), ..Asked::default() }.filter().is_err());
    }
}
