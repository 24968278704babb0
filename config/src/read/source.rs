//! `identity:`, and `authority:` or `renew:`, which keep it fresh where it is files.

use super::{agent::path, hosts::address};
use crate::{
    HostName, Span,
    agent::{Authority, CERTIFICATES, DEFAULT_PORT, IdentityFiles, IdentitySource, Renew},
    yaml::{Fields, Node, Report, Shape},
};
use std::path::{Path, PathBuf};

const IDENTITY: Shape = Shape { what: "`identity`", keys: &["certificate", "key", "ca", "spire"], later: &[] };
const AUTHORITY: Shape = Shape { what: "`authority`", keys: &["directory", "operator", "certificates"], later: &[] };
const RENEW: Shape = Shape { what: "`renew`", keys: &["host", "address"], later: &[] };

/// The files, with what they are called where that is not said.
const FILES: [(&str, &str); 3] = [("certificate", "host.pem"), ("key", "host.key"), ("ca", "ca.pem")];
/// Longest path of a Unix socket, which has 108 bytes with a zero at its end (unix(7), `sun_path`).
const SOCKET_MAX: usize = 107;
/// What is written to have SPIRE, for hints: where its agent listens unless told otherwise.
const SPIRE: &str = "unix:///run/spire/sockets/agent.sock";

/// Certificate, key and CA, those not given beside the configuration file; or a Workload API.
pub(super) fn identity(top: &Fields<'_>, directory: &Path, report: &mut Report<'_>) -> Option<IdentitySource> {
    let fields = match top.get("identity") {
        Some(node) => IDENTITY.read(node, node.mark, report),
        None => None,
    };
    let given = |key| fields.as_ref().and_then(|fields| fields.get(key));
    if let Some(node) = given("spire") {
        if FILES.iter().any(|(key, _)| given(key).is_some()) {
            let hint = "leave out `certificate`, `key` and `ca`: the Workload API has all of them";
            report.hinted(node.mark, "`spire` and files cannot both be given", hint);
        }
        return socket(node, report).map(IdentitySource::Spire);
    }
    let [certificate, key, ca] = FILES.map(|(key, default)| {
        given(key).map_or_else(|| Some(directory.join(default)), |node| path(node, directory, report))
    });
    Some(IdentitySource::Files(IdentityFiles { certificate: certificate?, key: key?, ca: ca? }))
}

/// `unix:///PATH`, as the environment variable `SPIFFE_ENDPOINT_SOCKET` has it (SPIFFE Workload Endpoint, section 4). TCP would
/// not tell the server who asks.
fn socket(node: &Node, report: &mut Report<'_>) -> Option<PathBuf> {
    let text = node.text("the Workload API's socket", report)?;
    let path = text.strip_prefix("unix://").filter(|path| path.starts_with('/') && !path.ends_with('/'));
    match path.filter(|path| path.len() <= SOCKET_MAX && !path.contains(['\0', '?', '#', '%'])) {
        Some(path) => Some(path.into()),
        None => {
            let message = format!("`{text}` is not the socket of a Workload API: at most {SOCKET_MAX} bytes of a path");
            report.hinted(node.mark, message, format!("write `spire: {SPIRE}`"));
            None
        }
    }
}

/// Where the certificate is renewed, if it is. A renewed certificate comes with a new key, and one file is replaced at once.
pub(super) fn renewal(
    top: &Fields<'_>,
    identity: Option<&IdentitySource>,
    directory: &Path,
    report: &mut Report<'_>,
) -> Option<(Option<Authority>, Option<Renew>)> {
    let authority = top.optional("authority", |node| authority(node, directory, report))?;
    let renew = top.optional("renew", |node| renew(node, report))?;
    let Some(node) = top.get("authority").or(top.get("renew")) else { return Some((None, None)) };
    if authority.is_some() && renew.is_some() {
        let hint = "leave out `renew`: a host that holds the authority renews its certificate itself";
        report.hinted(node.mark, "`authority` and `renew` cannot both be given", hint);
    }
    match identity {
        Some(IdentitySource::Files(files)) if files.certificate != files.key => {
            let hint = "put both into one file, and name it as `identity: { certificate: FILE, key: FILE }`";
            report.hinted(node.mark, "a certificate that is renewed must be in one file with its key", hint);
        }
        Some(IdentitySource::Spire(_)) => {
            let hint = "leave out `authority` and `renew`: SPIRE is the authority of this fabric, and renews by itself";
            report.hinted(node.mark, "nothing here renews what `identity: { spire }` brings", hint);
        }
        Some(IdentitySource::Files(_)) | None => {}
    }
    Some((authority, renew))
}

fn authority(node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<Authority> {
    let fields = AUTHORITY.read(node, node.mark, report)?;
    let place = fields.require("directory", "write `directory: /var/lib/ripstop/authority`", report)?;
    let certificates = fields.optional("certificates", |node| node.parse::<Span>("for how long", report))?;
    let certificates = certificates.map_or(CERTIFICATES, Span::duration);
    let operator = fields.optional("operator", |node| path(node, directory, report))?;
    Some(Authority { directory: path(place, directory, report)?, operator, certificates })
}

fn renew(node: &Node, report: &mut Report<'_>) -> Option<Renew> {
    let fields = RENEW.read(node, node.mark, report)?;
    let host = fields.require("host", "write `host: NAME` of the host that holds the authority", report);
    let host = host.and_then(|node| node.parse::<HostName>("a host's name", report));
    let at = fields.require("address", "write `address: IP:PORT` of that host", report);
    let at = at.and_then(|node| address(node, DEFAULT_PORT, report));
    Some(Renew { host: host?, address: at? })
}
