//! Pure decisions.
pub mod boot;
