//! The in-band agent: the program of the netboot ramdisk.
//!
//! `link` speaks the agent protocol and knows no hardware: the simulated rack runs the same link with simulated hands.
//! Everything that touches a machine is behind the feature `agent`.

pub mod link;
