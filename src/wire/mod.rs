//! Bytes to types and back. No sockets.

pub mod agent;
#[cfg(feature = "server")]
pub mod dhcp;
#[cfg(feature = "server")]
pub mod ipxe;
#[cfg(feature = "server")]
pub mod tftp;
pub mod ipmi;
#[cfg(feature = "server")]
pub mod rmcp;
