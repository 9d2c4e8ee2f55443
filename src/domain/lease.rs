//! DHCP leases as they are stored.

use std::net::Ipv4Addr;

use crate::domain::id::Mac;
use crate::domain::time::Timestamp;

/// One address given to one machine, or set aside because something else answers on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpLease {
    pub address: Ipv4Addr,
    pub mac: Mac,
    pub until: Timestamp,
    /// The machine found the address in use (DECLINE): it is given to nobody until then.
    pub declined: bool,
    /// As the client calls itself (option 12). Untrusted text.
    pub hostname: Option<String>,
}
