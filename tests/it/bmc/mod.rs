//! BMC clients and simulated BMCs, against each other and against programs we did not write.

mod bench;
mod captures;
mod client;
mod crates;
mod fuzz;
mod hostile;
mod ipmi_board;
mod ipmi_hostile;
mod ipmi_live;
mod ipmi_peers;
pub mod kit;
mod openipmi;
mod probe;
pub mod process;
mod recorded;
mod replay;
mod sim_faults;
mod sim_updates;
mod standard;
mod sushy;
mod trees;
mod validators;
mod writes;
