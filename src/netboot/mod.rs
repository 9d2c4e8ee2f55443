//! Netboot: the sockets of DHCP and TFTP, and the desk that answers for all three protocols.

pub mod boot_files;
pub mod desk;
pub mod dhcp;
pub mod leases;
pub mod peers;
pub mod socket;
pub mod tftp;

use crate::domain::boot::{BootStage, ClientArch};
use crate::domain::id::{Mac, SystemUuid};

/// Who asks for a boot answer, as far as the packet tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub mac: Mac,
    pub uuid: Option<SystemUuid>,
}

/// Something seen of a boot, for its timeline. It starts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    pub mac: Mac,
    pub client: Option<ClientArch>,
    pub stage: BootStage,
    /// The same for the same packet repeated: repeats are counted, not listed.
    pub note: String,
}
