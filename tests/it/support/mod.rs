//! What several tests need: both store engines, and values to fill them with.

pub mod engines;
