//! The service process: configuration, state directory, what runs and how it stops.

pub mod compose;
pub mod config;
pub mod netboot;
pub mod shutdown;
pub mod state;
pub mod telemetry;
