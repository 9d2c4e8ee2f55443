//! Pure decisions: facts in, decision out. No clock, no randomness, no I/O.

pub mod access;
pub mod boot;
pub mod boot_timeline;
pub mod discovery;
pub mod parts;
pub mod polling;
pub mod quality;
pub mod policy;
pub mod target;
pub mod workflow;
