//! Use cases.

pub mod intake;
