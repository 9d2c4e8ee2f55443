//! Netboot: the sockets of DHCP and TFTP, and the desk that answers for all three protocols.

pub mod socket;
pub mod tftp;
