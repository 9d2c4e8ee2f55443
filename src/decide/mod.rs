//! Pure decisions.
pub mod boot;
pub mod access;
pub mod discovery;
pub mod workflow;
