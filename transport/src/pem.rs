//! Private keys on their way from a file to the library that uses them: in memory that is wiped. A PEM reader of the usual kind
//! leaves what it has decoded, and each buffer that it outgrew, for the next who is given that memory.

use base64::{Engine as _, decoded_len_estimate, engine::general_purpose::STANDARD};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

/// Makes a key of its DER.
type Kind = fn(Vec<u8>) -> PrivateKeyDer<'static>;

/// The kinds of private keys that PEM files have (RFC 7468 section 10, RFC 5915 section 4, RFC 8017 appendix A.1.2).
const KINDS: [(&str, Kind); 3] = [
    ("PRIVATE KEY", |der| PrivatePkcs8KeyDer::from(der).into()),
    ("EC PRIVATE KEY", |der| PrivateSec1KeyDer::from(der).into()),
    ("RSA PRIVATE KEY", |der| PrivatePkcs1KeyDer::from(der).into()),
];

/// The first private key of a PEM file, wiped when it is dropped; none if there is none.
pub(crate) fn private_key(pem: &[u8]) -> Option<Zeroizing<PrivateKeyDer<'static>>> {
    let found = KINDS.iter().filter_map(|(label, kind)| Some((block(pem, label)?, kind)));
    let ((_, body, _), kind) = found.min_by_key(|((at, ..), _)| *at)?;
    let mut packed = Zeroizing::new(Vec::with_capacity(body.len()));
    packed.extend(body.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; decoded_len_estimate(packed.len())]);
    let length = STANDARD.decode_slice(&*packed, &mut der).ok()?;
    der.truncate(length);
    // Its memory goes with it.
    Some(Zeroizing::new(kind(std::mem::take(&mut *der))))
}

/// The certificates of a PEM file, each with its lines around it; what else is there, such as a key, is not looked at.
pub(crate) fn certificates(pem: &[u8]) -> Vec<&[u8]> {
    let (mut found, mut rest) = (Vec::new(), pem);
    while let Some((start, _, end)) = block(rest, "CERTIFICATE") {
        found.push(&rest[start..end]);
        rest = &rest[end..];
    }
    found
}

/// A file's text of a certificate and its key, wiped when it is dropped.
#[must_use]
pub fn joined(certificate: &str, key: &str) -> Zeroizing<String> {
    let certificate = certificate.trim_end();
    // Room from the start: a string that grows leaves copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(certificate.len() + 1 + key.len()));
    text.push_str(certificate);
    text.push('\n');
    text.push_str(key);
    text
}

/// Where the first block of a label starts, what is in it, and where it ends (RFC 7468 section 2).
fn block<'p>(pem: &'p [u8], label: &str) -> Option<(usize, &'p [u8], usize)> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let start = find(pem, begin.as_bytes())?;
    let inside = start + begin.len();
    let length = find(&pem[inside..], end.as_bytes())?;
    Some((start, &pem[inside..inside + length], inside + length + end.len()))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    #[test]
    fn the_first_key_is_found_among_certificates_and_comments() {
        let text = format!("# \u{e9}\n{}{}", pem("CERTIFICATE", &[1; 100]), pem("EC PRIVATE KEY", &[7; 100]));
        let found = private_key((text.clone() + &pem("PRIVATE KEY", &[8; 9])).as_bytes()).unwrap();
        assert!(matches!(&*found, PrivateKeyDer::Sec1(der) if der.secret_sec1_der() == [7; 100]));
        assert_eq!(certificates(text.as_bytes()), [pem("CERTIFICATE", &[1; 100]).trim_end().as_bytes()]);
        for none in ["", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n*\n-----END PRIVATE KEY-----"] {
            assert!(private_key(none.as_bytes()).is_none() && certificates(none.as_bytes()).is_empty(), "{none}");
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_one_text() {
        assert_eq!(&*joined("a\n\n", "b\n"), "a\nb\n");
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(der in prop::collection::vec(any::<u8>(), 1..300), before in "[ -~\n]{0,40}") {
            let text = format!("{before}{}", pem("PRIVATE KEY", &der));
            let found = private_key(text.as_bytes()).unwrap();
            prop_assert_eq!(found.secret_der(), &der[..]);
        }
    }
}
