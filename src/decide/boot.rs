//! The boot answer: DHCP, TFTP and HTTP ask this one pure function, so they cannot disagree.

use crate::domain::boot::ClientArch;
use crate::domain::id::MachineId;
use crate::domain::machine::{BootIntent, Lifecycle};

/// What is known about the machine that asks. `None` machine: never seen, or two machines claim its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct BootFacts {
    pub machine: Option<BootMachine>,
    /// Whether unknown machines are led into the ramdisk (configuration; true by default).
    pub discover: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BootMachine {
    pub id: MachineId,
    pub lifecycle: Lifecycle,
    pub boot_intent: Option<BootIntent>,
    /// Announced by a packing list, never seen before.
    pub expected_only: bool,
}

/// Who asks, in which stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootRequest {
    /// Firmware asks by DHCP (or on port 4011) what to load.
    Firmware(ClientArch),
    /// iPXE asks by DHCP what to run next.
    Ipxe(ClientArch),
    /// iPXE fetches its script.
    Script(ClientArch),
}
