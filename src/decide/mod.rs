//! Pure decisions: facts in, decision out. No clock, no randomness, no I/O.

pub mod access;
pub mod bmc_identity;
pub mod boot;
pub mod boot_timeline;
pub mod campaign;
pub mod correlate;
pub mod discovery;
pub mod gate;
pub mod health;
pub mod observe;
pub mod parts;
pub mod policy;
pub mod polling;
pub mod quality;
pub mod repair;
pub mod target;
pub mod wipe;
pub mod workflow;
