//! Signed policies of this host: whose signature makes one, where they are kept, and how one is made.
//!
//! - [`Trust`] says which bytes are a policy of the fabric.
//! - [`Store`] keeps them in the state directory, and never goes back.
//! - [`publish`] changes the running policy: edit, sign, hand to the agent. What runs there is for `fabric` to say.

pub mod publish;
pub mod store;

pub use publish::{publish, seal};
pub use store::{Store, StoreError};

use crate::files;
use anyhow::Context as _;
use ripstop_config::{FabricName, Operators};
use ripstop_policy::{Bundle, BundleError};
use ripstop_transport::signing;
use std::path::Path;

/// Whose signature makes a policy of the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The fabric.
    pub fabric: FabricName,
    /// The operators.
    pub operators: Operators,
}

impl Trust {
    /// Reads the operators' file (`trust:` of the agent's settings).
    ///
    /// # Errors
    /// When it cannot be read, or has mistakes; they are shown all at once.
    pub fn load(path: &Path, fabric: &FabricName) -> anyhow::Result<Self> {
        let text = files::read(path).context("failed to read the operators whose signature makes a policy")?;
        let operators = Operators::parse(&path.display().to_string(), &text);
        let operators = operators.map_err(|mistakes| files::mistakes_in(path, &mistakes))?;
        Ok(Self { fabric: fabric.clone(), operators })
    }

    /// Takes bytes for a policy that is to be tried, if an operator signed them.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open_staged(&self, bytes: &[u8]) -> Result<Bundle, BundleError> {
        Bundle::open_staged(bytes, &self.fabric, &self.operators, &signing::verify)
    }

    /// Takes bytes for a policy, if enough operators signed them.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(&self, bytes: &[u8]) -> Result<Bundle, BundleError> {
        Bundle::open(bytes, &self.fabric, &self.operators, &signing::verify)
    }
}
