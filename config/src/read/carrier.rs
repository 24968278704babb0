//! `carrier:` of `agent.yaml`: by what signed policies spread.

use super::{agent::path, url::UrlForm};
use crate::{
    agent::{Carrier, ETCD_PREFIX, Etcd, EtcdLogin, EtcdTls, PolicySource},
    yaml::{Fields, Node, Report, Shape},
};
use std::{net::SocketAddr, path::Path};

const CARRIER: Shape = Shape { what: "`carrier`", keys: &["in-band", "etcd"], later: &[] };
const ETCD: Shape = Shape {
    what: "`etcd`",
    keys: &["endpoints", "prefix", "ca", "name", "certificate", "key", "user", "password-file"],
    later: &[],
};

/// Members of an etcd at most: it has three to seven.
const ENDPOINTS_MAX: usize = 9;
/// The port on which etcd takes clients unless told otherwise.
const ETCD_PORT: u16 = 2379;
/// Longest prefix of keys, in bytes: it is part of every one.
const PREFIX_MAX: usize = 128;
/// A member's URL.
const MEMBER: UrlForm = UrlForm {
    what: "a member's URL",
    port: ETCD_PORT,
    hint: "write `https://192.0.2.7:2379`: names are not looked up, so that no policy depends on DNS",
    plain: "without TLS anybody on the way could keep policies from this host",
};

/// Reads it; `policy` says whether there is anything to carry.
pub(super) fn carrier(
    node: &Node,
    policy: Option<&PolicySource>,
    directory: &Path,
    report: &mut Report<'_>,
) -> Option<Carrier> {
    let fields = CARRIER.read(node, node.mark, report)?;
    let in_band = fields.optional("in-band", |node| node.flag(report))?.unwrap_or(true);
    let etcd = fields.optional("etcd", |node| etcd(node, directory, report))?;
    if let Some(PolicySource::File(_)) = policy {
        let hint = "leave out `carrier`, or give `trust` in place of `graph`: only signed policies are carried";
        report.hinted(node.mark, "there is nothing to carry with `graph`", hint);
    }
    if !in_band && etcd.is_none() {
        let hint = "leave out `in-band`, or add `etcd: { endpoints: [https://192.0.2.7:2379], ca: etcd-ca.pem }`";
        report.hinted(node.mark, "without `in-band` and without `etcd` no policy reaches this host", hint);
    }
    Some(Carrier { in_band, etcd })
}

fn etcd(node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<Etcd> {
    let fields = ETCD.read(node, node.mark, report)?;
    let listed = fields.require("endpoints", "write `endpoints: [https://192.0.2.7:2379]`", report);
    let endpoints = listed.and_then(|node| endpoints(node, report));
    let encrypted = endpoints.as_ref().is_none_or(|(encrypted, _)| *encrypted);
    let prefix = fields.optional("prefix", |node| prefix(node, report));
    let tls = tls(&fields, node, encrypted, directory, report);
    let login = login(&fields, node, directory, report);
    let prefix = prefix?.unwrap_or_else(|| ETCD_PREFIX.to_owned());
    Some(Etcd { endpoints: endpoints?.1, prefix, tls: tls?, login: login? })
}

/// The members, and whether they are spoken to by TLS: all of them, or none.
fn endpoints(node: &Node, report: &mut Report<'_>) -> Option<(bool, Vec<SocketAddr>)> {
    let items = node.items("the members of the etcd", report);
    if items.is_empty() || items.len() > ENDPOINTS_MAX {
        let message = format!("`endpoints` has {} members, and must have 1 to {ENDPOINTS_MAX}", items.len());
        report.hinted(node.mark, message, MEMBER.hint);
        return None;
    }
    let count = items.len();
    let read: Vec<(bool, SocketAddr)> = items.into_iter().filter_map(|item| endpoint(item, report)).collect();
    let encrypted = read.first()?.0;
    if read.iter().any(|(other, _)| *other != encrypted) {
        report.hinted(node.mark, "some members are `https://` and some `http://`", "write all of them alike");
        return None;
    }
    (read.len() == count).then(|| (encrypted, read.into_iter().map(|(_, address)| address).collect()))
}

fn endpoint(node: &Node, report: &mut Report<'_>) -> Option<(bool, SocketAddr)> {
    let url = MEMBER.read(node, report)?;
    if !url.path.is_empty() {
        report.hinted(node.mark, format!("a member of the etcd has no path `{}`", url.path), MEMBER.hint);
        return None;
    }
    Some((url.encrypted, url.address))
}

fn prefix(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let text = node.text("the beginning of keys", report)?;
    let fits = |c: char| c.is_ascii_graphic();
    let good = text.len() > 1 && text.len() <= PREFIX_MAX && text.starts_with('/') && !text.ends_with('/');
    if !good || !text.chars().all(fits) {
        let message = format!("`{text}` is no beginning of keys: `/`, then at most {PREFIX_MAX} printable characters");
        report.hinted(node.mark, message, format!("write `prefix: {ETCD_PREFIX}`"));
        return None;
    }
    Some(text.to_owned())
}

/// Files and names for TLS, which make no sense without it.
fn tls(
    fields: &Fields<'_>,
    node: &Node,
    encrypted: bool,
    directory: &Path,
    report: &mut Report<'_>,
) -> Option<Option<EtcdTls>> {
    let mut file = |key| fields.optional(key, |node| path(node, directory, report));
    let (ca, certificate, key) = (file("ca")?, file("certificate")?, file("key")?);
    let name = fields.optional("name", |node| node.text("a name", report).map(str::to_owned))?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let hint = "give both, or neither where the etcd asks clients for no certificate";
            report.hinted(node.mark, "`certificate` and `key` belong together", hint);
            return None;
        }
    };
    match (encrypted, ca) {
        (true, Some(ca)) => Some(Some(EtcdTls { ca, name, identity })),
        (true, None) => {
            let hint = "write `ca: etcd-ca.pem` with the certificates that vouch for it";
            report.hinted(node.mark, "`ca` is missing, by which the etcd is known", hint);
            None
        }
        (false, None) if name.is_none() && identity.is_none() => Some(None),
        (false, _) => {
            let hint = "write `https://` in `endpoints`, or leave out `ca`, `name`, `certificate` and `key`";
            report.hinted(node.mark, "certificates are of no use with `http://`", hint);
            None
        }
    }
}

fn login(fields: &Fields<'_>, node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<Option<EtcdLogin>> {
    let user = fields.optional("user", |node| node.text("a user of the etcd", report).map(str::to_owned))?;
    match (user, fields.optional("password-file", |node| path(node, directory, report))?) {
        (Some(user), Some(password)) => Some(Some(EtcdLogin { user, password })),
        (None, None) => Some(None),
        (Some(_), None) | (None, Some(_)) => {
            let hint = "write `user: ripstop, password-file: etcd.password`, the file with mode 0600";
            report.hinted(node.mark, "`user` and `password-file` belong together", hint);
            None
        }
    }
}
