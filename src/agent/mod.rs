//! The in-band agent: the program of the netboot ramdisk.
//!
//! `link` speaks the agent protocol and knows no hardware: the simulated rack runs the same link with simulated hands.
//! Everything that touches a machine is behind the feature `agent`.

pub mod link;

#[cfg(feature = "agent")]
pub mod console;
#[cfg(feature = "agent")]
pub mod hands;
#[cfg(feature = "agent")]
pub mod init;
#[cfg(feature = "agent")]
pub mod modules;
#[cfg(feature = "agent")]
pub mod net;
#[cfg(feature = "agent")]
pub mod probe;
#[cfg(feature = "agent")]
pub mod sys;
#[cfg(feature = "agent")]
pub mod task;
