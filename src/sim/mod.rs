//! The simulated rack: machines that speak the real protocols over sockets on loopback, and can be told to fail.
//!
//! It is product code: it serves `hostler demo`, tests and load runs. A machine knows nothing of Hostler but what comes
//! over the wire: its BMC is asked over Redfish or IPMI, its firmware asks DHCP, TFTP and HTTP, and its agent is the
//! real one's link with simulated hands.

pub mod bench;
pub mod bmc;
pub mod boot_files;
pub mod control;
pub mod demo;
pub mod dhcp;
pub mod fetch;
pub mod first_boot;
pub mod fleet;
pub mod hands;
pub mod hardware;
pub mod image;
pub mod ipxe;
pub mod machine;
pub mod operator;
pub mod pace;
pub mod power;
pub mod replay;
pub mod standalone;
pub mod vm;
