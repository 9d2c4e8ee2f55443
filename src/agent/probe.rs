//! What is inside this machine, read from sysfs, SMBIOS and the devices themselves.
//!
//! Everything that reads files takes the root it reads from, so that tests run on captured trees.

pub mod bmc;
pub mod cpu;
pub mod disk;
pub mod lldp;
pub mod nic;
pub mod pci;

use std::path::Path;

use crate::domain::boot::Arch;
use crate::domain::inventory::{FirmwareInfo, Inventory};
use crate::domain::power::FirmwareKind;
use crate::wire::smbios::{self, Smbios};

/// Reads everything but LLDP, which comes when the switch next speaks.
pub fn inventory(sys: &Path, proc: &Path, dev: &Path) -> Inventory {
    let tables = std::fs::read(sys.join("firmware/dmi/tables/DMI")).unwrap_or_default();
    let Smbios { system, bios_vendor, bios_version, bios_date, cpus, dimms } = smbios::parse(&tables);
    let mut disks = disk::read_disks(sys);
    for disk in &mut disks {
        disk.smart = disk::read_smart(dev, disk);
    }
    let installed: u64 = dimms.iter().map(|dimm| dimm.size_bytes).sum();
    Inventory {
        system,
        firmware: FirmwareInfo {
            kind: Some(firmware_kind(sys)),
            vendor: bios_vendor,
            version: bios_version,
            date: bios_date,
            secure_boot: secure_boot(sys),
        },
        arch: arch(),
        cpus: cpu::read_cpus(proc, cpus),
        memory_bytes: if installed > 0 { installed } else { cpu::memory_bytes(proc) },
        dimms,
        disks,
        nics: nic::read_nics(sys),
        pci: pci::read_pci(sys),
        bmc: bmc::read_bmc(dev),
        kernel: disk::short_text(&proc.join("sys/kernel/osrelease")).unwrap_or_default(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// How the firmware started this kernel.
pub fn firmware_kind(sys: &Path) -> FirmwareKind {
    if sys.join("firmware/efi").is_dir() { FirmwareKind::Uefi } else { FirmwareKind::Bios }
}

/// The UEFI variable SecureBoot: one byte after four of attributes. `None` on BIOS.
fn secure_boot(sys: &Path) -> Option<bool> {
    let bytes = std::fs::read(sys.join("firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")).ok()?;
    bytes.get(4).map(|byte| *byte == 1)
}

fn arch() -> Option<Arch> {
    std::env::consts::ARCH.parse().ok()
}
