//! A question as a person asks it, and the answer for people: what `ripstop dns query` sends and shows.

use crate::reply::EDE_OPTION;
use hickory_proto::{
    ProtoError,
    op::{Edns, Message, Query},
    rr::{Name, RecordType, rdata::opt::EdnsOption},
    serialize::binary::DecodeError,
};
use serde::{Deserialize, Serialize};

/// Why nothing can be asked, or an answer not be shown.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Not a name.
    #[error("`{0}` is not a name that DNS can carry")]
    Name(String),
    /// Not a type of records.
    #[error("`{0}` is not a type of records; write A, AAAA, SRV, PTR or another one of DNS")]
    Kind(String),
    /// The question does not fit a message.
    #[error("the question cannot be put into a message")]
    Question(#[from] ProtoError),
    /// What came is no message.
    #[error("the answer is malformed")]
    Answer(#[from] DecodeError),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// The response code, such as `NoError` or `NXDomain`, by its name in RFC 1035.
    pub code: String,
    /// Whether it comes from the fabric itself.
    pub authoritative: bool,
    /// The records of the answer.
    pub answers: Vec<LookedRecord>,
    /// Why, by Extended DNS Errors (RFC 8914).
    pub errors: Vec<LookedError>,
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedRecord {
    /// Its name.
    pub name: String,
    /// For how many seconds it may be kept.
    pub ttl: u32,
    /// Its type.
    pub kind: String,
    /// What it says, as in a zone's file.
    pub data: String,
}

/// An Extended DNS Error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedError {
    /// Its code (RFC 8914 section 4).
    pub code: u16,
    /// What it says.
    pub text: String,
}

/// A question for all records of a type, with EDNS so that errors say why.
///
/// # Errors
/// [`LookupError`] when the name or the type is none.
pub fn question(name: &str, kind: &str) -> Result<Vec<u8>, LookupError> {
    let mut asked = Name::from_utf8(name).map_err(|_| LookupError::Name(name.into()))?;
    asked.set_fqdn(true);
    let kind: RecordType = kind.to_ascii_uppercase().parse().map_err(|_| LookupError::Kind(kind.into()))?;
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(asked, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(u16::MAX);
    message.edns = Some(edns);
    Ok(message.to_vec()?)
}

impl Looked {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`LookupError::Answer`] when it is none.
    pub fn read(reply: &[u8]) -> Result<Self, LookupError> {
        let message = Message::from_vec(reply)?;
        let answers = message.answers.iter().map(|record| LookedRecord {
            name: printable(&record.name.to_string()),
            ttl: record.ttl,
            kind: record.record_type().to_string(),
            data: printable(&record.data.to_string()),
        });
        let error = message.edns.as_ref().and_then(|edns| edns.option(EDE_OPTION.into())).and_then(extended);
        Ok(Self {
            code: format!("{:?}", message.metadata.response_code),
            authoritative: message.metadata.authoritative,
            answers: answers.collect(),
            errors: error.into_iter().collect(),
        })
    }
}

fn extended(option: &EdnsOption) -> Option<LookedError> {
    let EdnsOption::Unknown(EDE_OPTION, data) = option else { return None };
    let (code, text) = data.split_first_chunk::<2>()?;
    Some(LookedError { code: u16::from_be_bytes(*code), text: printable(&String::from_utf8_lossy(text)) })
}

/// What other servers say may hold anything, and ends up on a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Via, answer, tests};

    fn look(who: &str, name: &str, kind: &str) -> Looked {
        let policy = tests::policy();
        let caller = policy.workload(&tests::id(who)).unwrap();
        match answer(&policy, caller, &question(name, kind).unwrap(), Via::Tcp) {
            Answer::Reply(reply) => Looked::read(&reply.bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_shown_whole() {
        let looked = look("shop/web", "api.shop.shop.example", "a");
        assert_eq!((looked.code.as_str(), looked.authoritative, looked.errors.len()), ("NoError", true, 0));
        let record = &looked.answers[0];
        assert_eq!((record.name.as_str(), record.kind.as_str()), ("api.shop.shop.example.", "A"));
        assert!(record.data.starts_with("198.18.") && record.ttl > 0, "{record:?}");
    }

    #[test]
    fn what_is_hidden_comes_with_the_reason() {
        let looked = look("shop/web", "db.shop.shop.example", "AAAA");
        assert_eq!((looked.code.as_str(), looked.answers.len()), ("NXDomain", 0));
        assert!(looked.errors[0].text.contains("no allow edge from shop/web to shop/db"), "{looked:?}");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(question("a..b", "A").unwrap_err().to_string().contains("`a..b`"));
        assert!(question("a.b", "BOGUS").unwrap_err().to_string().contains("`BOGUS`"));
        assert!(Looked::read(&[0; 5]).is_err());
    }
}
