//! BMC clients and simulated BMCs, against each other and against programs we did not write.

mod client;
mod crates;
mod ipmi_peers;
mod kit;
mod process;
mod sushy;
mod trees;
