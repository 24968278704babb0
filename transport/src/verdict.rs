//! The verdict: what the serving agent answers to a session header, before plain bytes.
//!
//! ```text
//! u8 status (0 accepted, 1 refused) | u8 reason code (0 when accepted) | u16 load (0 when refused)
//! | u16 length of what follows | text: the endpoint, or the detail
//! ```
//! Numbers are big-endian. The first six bytes are read at once, then exactly the text, so that the first bytes of a
//! server that speaks first stay in the stream.

use crate::codec::{CodecError, clip};
use ripstop_config::Reason;

/// Longest description of an endpoint, in bytes; a longer one is cut.
pub const ENDPOINT_MAX: usize = 64;
/// Longest detail of a refusal, in bytes; a longer one is cut.
pub const DETAIL_MAX: usize = 256;
/// Bytes of a verdict before its text.
pub(crate) const HEAD: usize = 6;
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// The endpoint took the session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Which endpoint, for people: `alpha 127.0.0.1:8080`. At most [`ENDPOINT_MAX`] bytes travel.
    pub endpoint: String,
    /// How busy the serving host says it is, for balancing; 0 is idle.
    pub load: u16,
}

/// The serving agent did not take the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// More, for people. At most [`DETAIL_MAX`] bytes travel.
    pub detail: String,
}

/// The answer to a session header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Plain bytes follow.
    Accepted(Accepted),
    /// Nothing follows.
    Refused(Refusal),
}

impl Answer {
    /// The verdict's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (status, reason, load, text) = match self {
            Self::Accepted(accepted) => (ACCEPTED, 0, accepted.load, clip(&accepted.endpoint, ENDPOINT_MAX)),
            Self::Refused(refusal) => (REFUSED, refusal.reason.code(), 0, clip(&refusal.detail, DETAIL_MAX)),
        };
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let mut out = Vec::with_capacity(HEAD + text.len());
        out.extend_from_slice(&[status, reason]);
        out.extend_from_slice(&load.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out
    }
}

/// The checked first six bytes of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    verdict: Verdict,
    /// Bytes of text that follow.
    pub(crate) length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted { load: u16 },
    Refused(Reason),
}

impl Head {
    pub(crate) fn decode(head: [u8; HEAD]) -> Result<Self, CodecError> {
        let [status, reason, load @ .., high, low] = head;
        let load = u16::from_be_bytes(load);
        let (verdict, limit) = match status {
            ACCEPTED if reason != 0 => return Err(CodecError::Value("reason", reason.into())),
            ACCEPTED => (Verdict::Accepted { load }, ENDPOINT_MAX),
            REFUSED if load != 0 => return Err(CodecError::Value("load", load)),
            REFUSED => {
                let known = Reason::from_code(reason).ok_or(CodecError::Value("reason", reason.into()))?;
                (Verdict::Refused(known), DETAIL_MAX)
            }
            other => return Err(CodecError::Value("status", other.into())),
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        match length > limit {
            true => Err(CodecError::TooLong(length, limit)),
            false => Ok(Self { verdict, length }),
        }
    }

    /// The whole verdict, from the text that followed.
    pub(crate) fn with_text(self, text: &[u8]) -> Result<Answer, CodecError> {
        let text = std::str::from_utf8(text).map_err(|_| CodecError::Text)?.to_owned();
        Ok(match self.verdict {
            Verdict::Accepted { load } => Answer::Accepted(Accepted { endpoint: text, load }),
            Verdict::Refused(reason) => Answer::Refused(Refusal { reason, detail: text }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Answer, CodecError> {
        let (head, text) = bytes.split_first_chunk::<HEAD>().ok_or(CodecError::Truncated)?;
        let head = Head::decode(*head)?;
        let text = text.get(..head.length).ok_or(CodecError::Truncated)?;
        head.with_text(text)
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let refused = (prop::sample::select(Reason::ALL), ".{0,64}")
            .prop_map(|(reason, detail)| Answer::Refused(Refusal { reason, detail }));
        let accepted =
            (any::<u16>(), "[ -~]{0,64}").prop_map(|(load, endpoint)| Answer::Accepted(Accepted { endpoint, load }));
        prop_oneof![refused, accepted]
    }

    proptest! {
        #[test]
        fn verdicts_round_trip_and_leave_payload_alone(answer in answer(), payload: Vec<u8>) {
            let mut bytes = answer.encode();
            let length = bytes.len();
            prop_assert!(length <= HEAD + DETAIL_MAX);
            bytes.extend_from_slice(&payload);
            prop_assert_eq!(decode(&bytes), Ok(answer));
            for end in 0..length {
                prop_assert!(decode(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_what_is_accepted_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(answer) = decode(&bytes) {
                let again = answer.encode();
                prop_assert_eq!(&again[..], &bytes[..again.len()]);
            }
        }

        #[test]
        fn long_texts_are_cut_between_characters(detail in ".{0,400}") {
            let bytes = Answer::Refused(Refusal { reason: Reason::NoEdge, detail: detail.clone() }).encode();
            let Ok(Answer::Refused(cut)) = decode(&bytes) else { panic!("a refusal") };
            prop_assert!(cut.detail.len() <= DETAIL_MAX && detail.starts_with(&cut.detail));
            prop_assert!(cut.detail.len() + 4 > DETAIL_MAX.min(detail.len()), "not cut more than needed");
        }
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        assert_eq!(decode(&[2, 0, 0, 0, 0, 0]), Err(CodecError::Value("status", 2)));
        assert_eq!(decode(&[0, 20, 0, 0, 0, 0]), Err(CodecError::Value("reason", 20)));
        assert_eq!(decode(&[1, 255, 0, 0, 0, 0]), Err(CodecError::Value("reason", 255)));
        assert_eq!(decode(&[1, 20, 0, 1, 0, 0]), Err(CodecError::Value("load", 1)));
        assert_eq!(decode(&[0, 0, 0, 0, 0, 65]), Err(CodecError::TooLong(65, ENDPOINT_MAX)));
        assert_eq!(decode(&[1, 20, 0, 0, 1, 1]), Err(CodecError::TooLong(257, DETAIL_MAX)));
        assert_eq!(decode(&[0, 0, 0, 0, 0, 1, 0xff]), Err(CodecError::Text));
    }
}
