//! Hostler: bare-metal provisioning and hardware maintenance.
//!
//! The module list is the level table: a module imports only from levels above it in this list (held by
//! `tests/levels.rs`; the picture is in `docs/ARCHITECTURE.md`).

// level 0
pub mod domain;
// level 1
pub mod wire;
// level 2
#[cfg(feature = "server")]
pub mod decide;
// beside the levels: the clock and the random source, for level 3 and up
pub mod clock;
// level 3
#[cfg(feature = "server")]
pub mod artifact;
#[cfg(feature = "server")]
pub mod bmc;
#[cfg(feature = "server")]
pub mod secret;
#[cfg(feature = "server")]
pub mod store;
// level 4
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod netboot;
// level 5
#[cfg(feature = "server")]
pub mod app;
// level 6
#[cfg(feature = "server")]
pub mod http;
// level 7
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod sim;
// side
#[cfg(any(feature = "agent", feature = "server"))]
pub mod agent;
