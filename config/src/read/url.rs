//! URLs of servers on the agent's host or near it: `https://IP:PORT`, or `http://IP:PORT` on loopback.

use super::hosts::socket_address;
use crate::yaml::{Node, Report};
use std::net::SocketAddr;

/// What a URL is of.
pub(super) struct UrlForm {
    /// What it is, with its article.
    pub(super) what: &'static str,
    /// The port where it gives none.
    pub(super) port: u16,
    /// How it is written.
    pub(super) hint: &'static str,
    /// What comes of doing without TLS beyond loopback.
    pub(super) plain: &'static str,
}

/// A server's URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// It says `https`.
    pub(super) encrypted: bool,
    pub(super) address: SocketAddr,
    /// Empty, or from a slash to something else.
    pub(super) path: String,
}

impl UrlForm {
    /// Reads one. Names are not taken, nor is plain HTTP beyond this host.
    pub(super) fn read(&self, node: &Node, report: &mut Report<'_>) -> Option<Url> {
        let text = node.text(self.what, report)?;
        let (encrypted, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => {
                report.hinted(node.mark, format!("`{text}` is not a URL"), self.hint);
                return None;
            }
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let Some(address) = socket_address(authority, self.port).filter(|address| address.port() != 0) else {
            report.hinted(node.mark, format!("`{authority}` is not an address with a port"), self.hint);
            return None;
        };
        if !encrypted && !address.ip().to_canonical().is_loopback() {
            let hint = "write `https://`, and `ca:` with the certificates that vouch for it";
            report.hinted(node.mark, self.plain, hint);
            return None;
        }
        let path = path.trim_end_matches('/');
        // RFC 3986 section 3.3: what a path may have, and neither query nor fragment behind it.
        let fits = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:@".contains(c);
        if !path.chars().all(fits) {
            report.hinted(node.mark, format!("`{path}` is not a path"), self.hint);
            return None;
        }
        Some(Url { encrypted, address, path: path.to_owned() })
    }
}
