//! Bytes to types and back. No sockets.

pub mod agent;
#[cfg(feature = "server")]
pub mod dhcp;
#[cfg(feature = "server")]
pub mod ipmi;
#[cfg(feature = "server")]
pub mod ipxe;
#[cfg(feature = "agent")]
pub mod lldp;
#[cfg(feature = "server")]
pub mod rmcp;
#[cfg(feature = "server")]
pub mod series;
#[cfg(feature = "agent")]
pub mod smart;
#[cfg(feature = "agent")]
pub mod smbios;
#[cfg(feature = "server")]
pub mod tftp;
