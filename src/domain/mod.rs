//! The vocabulary: plain data that every other module speaks. No I/O, no clock, no randomness.

pub mod access;
pub mod bmc;
pub mod bmc_features;
pub mod boot;
pub mod case;
pub mod decision;
pub mod event;
pub mod hardware_log;
pub mod id;
pub mod image;
pub mod inventory;
pub mod lease;
pub mod machine;
pub mod observation;
pub mod part;
pub mod permit;
pub mod place;
pub mod policy;
pub mod poll;
pub mod power;
pub mod reading;
pub mod secret;
pub mod sensor;
pub mod time;
pub mod work;
