//! What the session header and the verdict share: reading bounded fields from bytes, without panics.

use ripstop_config::name::NameError;

/// Why bytes are not a session header or a verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the last field.
    #[error("it ends too early")]
    Truncated,
    /// Bytes are left over behind the last field.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// Longer than the limit.
    #[error("{0} bytes are more than the limit of {1}")]
    TooLong(usize, usize),
    /// A version of the format that this agent does not speak.
    #[error("version {0} of the format is not known here")]
    Version(u8),
    /// A field has a value that it cannot have.
    #[error("the value {1} is not valid for the field `{0}`")]
    Value(&'static str, u16),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Takes fields from the front of a slice.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn number(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A text behind a length of one byte.
    pub(crate) fn short_text(&mut self) -> Result<&'a str, CodecError> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(CodecError::Truncated)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| CodecError::Text)
    }

    /// Bytes behind a length of two bytes.
    pub(crate) fn long_bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let length = usize::from(self.number()?);
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn end(&self) -> Result<(), CodecError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(CodecError::Trailing(left)),
        }
    }
}

/// The longest head of `text` that has at most `limit` bytes and does not split a character.
pub(crate) fn clip(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
