//! Whose signature makes a policy, `operators.yaml`.

use crate::{
    Diagnostics,
    name::{NameError, OperatorName, TenantName},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

/// Largest file of operators that is read, in bytes.
pub const OPERATORS_FILE_MAX: usize = 64 << 10;
/// Operators of a fabric at most: as many signatures as a policy has room for.
pub const OPERATORS_MAX: usize = 32;

/// How a public key begins when it is written.
const KIND: &str = "ed25519:";

/// The operators of a fabric, and how many of them must sign a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operators {
    /// Signatures of so many different operators make a policy; at least 1, and no more than there are operators.
    pub need: usize,
    /// Their keys; no key twice.
    pub keys: BTreeMap<OperatorName, OperatorKey>,
    /// Who may change no more than the parts of some tenants and of those below them. Whoever is not in it may change
    /// everything; at least `need` operators do.
    pub limited: BTreeMap<OperatorName, BTreeSet<TenantName>>,
}

/// An operator's public key (Ed25519, RFC 8032), written `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperatorKey(pub [u8; 32]);

impl Operators {
    /// Operators who may change everything.
    #[must_use]
    pub fn of(need: usize, keys: BTreeMap<OperatorName, OperatorKey>) -> Self {
        Self { need, keys, limited: BTreeMap::new() }
    }

    /// Whether an operator may change a tenant's part; `None` is what is no tenant's.
    #[must_use]
    pub fn may_change(&self, operator: &OperatorName, tenant: Option<&TenantName>) -> bool {
        let Some(tenants) = self.limited.get(operator) else { return self.keys.contains_key(operator) };
        tenant.is_some_and(|tenant| tenants.iter().any(|own| tenant.is_within(own)))
    }

    /// Reads `operators.yaml`; `file` is only for showing.
    ///
    /// # Errors
    /// Every mistake in the text at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        crate::read::operators(file, text)
    }

    /// The name of the operator whose key it is.
    #[must_use]
    pub fn name_of(&self, key: &OperatorKey) -> Option<&OperatorName> {
        self.keys.iter().find(|(_, known)| *known == key).map(|(name, _)| name)
    }
}

/// As the file is written.
impl fmt::Display for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "need: {}\noperators:", self.need)?;
        self.keys.iter().try_for_each(|(name, key)| match self.limited.get(name) {
            None => writeln!(f, "  {name}: {key}"),
            Some(tenants) => {
                let tenants: Vec<_> = tenants.iter().map(TenantName::as_str).collect();
                writeln!(f, "  {name}: {{ key: {key}, tenants: [{}] }}", tenants.join(", "))
            }
        })
    }
}

impl fmt::Display for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OperatorKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Form(text.into(), "an operator's key: write `ed25519:` and 64 hexadecimal digits");
        let digits = text.strip_prefix(KIND).filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
        // `+f` is a number to Rust.
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !digits.bytes().all(is_digit) {
            return Err(wrong());
        }
        let mut key = [0; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(key))
    }
}
