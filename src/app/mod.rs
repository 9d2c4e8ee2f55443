//! Use cases.

pub mod boot;
pub mod intake;
