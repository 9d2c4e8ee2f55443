//! BMC clients and simulated BMCs, against each other and against programs we did not write.

mod client;
mod crates;
mod ipmi_peers;
pub mod kit;
pub mod process;
mod sushy;
mod trees;
