//! BMC clients and simulated BMCs, against each other and against programs we did not write.

pub mod kit;
pub mod process;

mod bench;
mod captures;
mod client;
mod crates;
mod hostile;
mod ipmi_live;
mod ipmi_peers;
mod openipmi;
mod probe;
mod recorded;
mod replay;
mod sim_faults;
mod sim_updates;
mod sushy;
mod trees;
mod validators;
mod writes;
