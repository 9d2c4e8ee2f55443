//! Repair policies as files: read strictly, checked by lints, compared.
//!
//! A policy is TOML without loops, scripts or clock. Whatever it says, the gate, the domain holds and the protected flag
//! stand; it can only tighten them.

pub mod diff;
pub mod lint;
pub mod parse;

use crate::decide::policy::parse::BadPolicy;
use crate::domain::policy::Policy;

/// The policy that ships, as text. `policy/default.toml` in the tree.
pub const DEFAULT: &str = include_str!("../../../policy/default.toml");

/// The policy that ships.
///
/// # Errors
/// Never for the file in the tree: a test reads it.
pub fn default_policy() -> Result<Policy, BadPolicy> {
    parse::read(DEFAULT).map(|f| f.policy)
}
