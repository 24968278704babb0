//! `otel:` of `agent.yaml`.

use crate::{
    agent::Otel,
    yaml::{Node, Report},
};
use std::path::Path;

/// Reads it.
#[cfg(feature = "otel")]
pub(super) fn otel(node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<Otel> {
    whole::otel(node, directory, report)
}

/// Refuses it: this program has nothing that would send.
#[cfg(not(feature = "otel"))]
pub(super) fn otel(node: &Node, _: &Path, report: &mut Report<'_>) -> Option<Otel> {
    refuse(node, report)
}

#[cfg(any(test, not(feature = "otel")))]
fn refuse(node: &Node, report: &mut Report<'_>) -> Option<Otel> {
    let hint = "build it with `cargo build --release --features otel`, or leave out `otel`";
    report.hinted(node.mark, "`otel` needs a ripstop that was built with it", hint);
    None
}

#[cfg(feature = "otel")]
mod whole {
    use super::super::{
        agent::path,
        url::{Url, UrlForm},
    };
    use crate::{
        Span,
        agent::{OTEL_TIMEOUT, Otel, OtelTls},
        units::Share,
        yaml::{Fields, Node, Report, Shape},
    };
    use std::{path::Path, time::Duration};

    const OTEL: Shape = Shape {
        what: "`otel`",
        keys: &["endpoint", "ca", "name", "headers-file", "sample", "records", "timeout"],
        later: &[],
    };
    /// The collector's URL; the port is OTLP's own for HTTP.
    const COLLECTOR: UrlForm = UrlForm {
        what: "the collector's URL",
        port: 4318,
        hint: "write `http://127.0.0.1:4318` for one on this host, or `https://192.0.2.9:4318`: names are not looked up",
        plain: "without TLS anybody on the way could read who calls what",
    };
    /// Shorter ones would break off requests that are on their way, longer ones would keep a silent collector.
    const TIMEOUTS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];

    pub(super) fn otel(node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<Otel> {
        let fields = OTEL.read(node, node.mark, report)?;
        let endpoint = fields.require("endpoint", "write `endpoint: http://127.0.0.1:4318`", report);
        let url = endpoint.and_then(|node| COLLECTOR.read(node, report));
        let headers = fields.optional("headers-file", |node| path(node, directory, report));
        let sample = fields.optional("sample", |node| node.parse("a share", report));
        let records = fields.optional("records", |node| node.flag(report));
        let timeout = fields.optional("timeout", |node| timeout(node, report));
        let Url { encrypted, address, path } = url?;
        let tls = tls(&fields, node, encrypted, directory, report);
        Some(Otel {
            endpoint: address,
            path,
            tls: tls?,
            headers: headers?,
            sample: sample?.unwrap_or(Share::ALL),
            records: records?.unwrap_or(true),
            timeout: timeout?.unwrap_or(OTEL_TIMEOUT),
        })
    }

    fn timeout(node: &Node, report: &mut Report<'_>) -> Option<Duration> {
        let timeout = node.parse::<Span>("for how long", report)?.duration();
        let [least, most] = TIMEOUTS;
        if timeout < least || timeout > most {
            let message = format!("`timeout` must be from {least:?} to {most:?}");
            report.hinted(node.mark, message, format!("leave it out for {OTEL_TIMEOUT:?}"));
            return None;
        }
        Some(timeout)
    }

    /// Files and names for TLS, which make no sense without it.
    fn tls(
        fields: &Fields<'_>,
        node: &Node,
        encrypted: bool,
        directory: &Path,
        report: &mut Report<'_>,
    ) -> Option<Option<OtelTls>> {
        let ca = fields.optional("ca", |node| path(node, directory, report))?;
        let name = fields.optional("name", |node| node.text("a name", report).map(str::to_owned))?;
        match (encrypted, ca) {
            (true, Some(ca)) => Some(Some(OtelTls { ca, name })),
            (true, None) => {
                let hint = "write `ca: collector-ca.pem` with the certificates that vouch for it";
                report.hinted(node.mark, "`ca` is missing, by which the collector is known", hint);
                None
            }
            (false, None) if name.is_none() => Some(None),
            (false, _) => {
                let hint = "write `https://` in `endpoint`, or leave out `ca` and `name`";
                report.hinted(node.mark, "certificates are of no use with `http://`", hint);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    #[test]
    fn a_program_without_it_says_so_at_the_line() {
        let text = "host: a\notel: { endpoint: http://127.0.0.1 }\n";
        let mut report = Report::new("agent.yaml", text);
        let root = yaml::parse(text, text.len(), &mut report).unwrap();
        let entries = root.entries("the settings", root.mark, &mut report).unwrap();
        assert_eq!(refuse(&entries[1].1, &mut report), None);
        let said = report.finish().unwrap_err().to_string();
        assert!(said.contains("agent.yaml:2") && said.contains("--features otel"), "{said}");
    }
}
