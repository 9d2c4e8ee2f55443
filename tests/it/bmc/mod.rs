//! BMC clients and simulated BMCs, against each other and against programs we did not write.

mod client;
mod kit;
