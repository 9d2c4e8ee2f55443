//! BMC clients and simulated BMCs, against each other and against programs we did not write.

mod captures;
mod client;
mod crates;
mod ipmi_peers;
pub mod kit;
pub mod process;
mod recorded;
mod sushy;
mod trees;
