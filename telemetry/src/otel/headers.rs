//! The file of headers that every request to the collector has: a `Name: value` on each line.

use anyhow::{Context as _, bail};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use ripstop_transport::http;
use std::path::Path;

/// Headers at most: a collector asks for one or two.
const HEADERS_MAX: usize = 16;
/// What the agent says itself; two of one would be read in two ways.
const OWN: [HeaderName; 4] = [HOST, CONTENT_TYPE, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Reads the file, which its owner alone may be able to use. Values show as `Sensitive`.
///
/// # Errors
/// What is wrong with which line; never what is in it.
pub(super) fn read(file: &Path) -> anyhow::Result<HeaderMap> {
    let text = http::secret(file)?;
    parse(&text).with_context(|| format!("{} has no headers of OTLP's requests", file.display()))
}

fn parse(text: &[u8]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = || format!("line {} is not `Name: value`", number + 1);
        let colon = line.iter().position(|byte| *byte == b':').with_context(wrong)?;
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name).ok().with_context(wrong)?;
        let mut value = HeaderValue::from_bytes(value).ok().with_context(wrong)?;
        if OWN.contains(&name) {
            bail!("line {}: `{name}` is for the agent to say", number + 1);
        }
        value.set_sensitive(true);
        headers.append(name, value);
    }
    if headers.len() > HEADERS_MAX {
        bail!("it has {} headers, and there may be {HEADERS_MAX}", headers.len());
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_never_shown() {
        let headers = parse(b"# of the collector\nAuthorization: Basic CANARY\r\n\nX-Scope-OrgID:shop\n").unwrap();
        assert_eq!(headers["authorization"], "Basic CANARY");
        assert_eq!(headers["x-scope-orgid"], "shop");
        assert!(!format!("{headers:?}").contains("CANARY"), "{headers:?}");
        for (wrong, said) in [
            ("a: b\nCANARY", "line 2 is not"),
            ("CANARY y: b", "line 1 is not"),
            ("a: CANARY\u{1}", "line 1 is not"),
            ("Content-Length: 7", "`content-length` is for the agent"),
        ] {
            let error = format!("{:#}", parse(wrong.as_bytes()).unwrap_err());
            assert!(error.contains(said) && !error.contains("CANARY"), "{wrong}: {error}");
        }
        let many: String = (0..17).map(|number| format!("x-{number}: y\n")).collect();
        assert!(parse(many.as_bytes()).unwrap_err().to_string().contains("17 headers"));
    }
}
