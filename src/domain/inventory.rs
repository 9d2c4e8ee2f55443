//! What is inside a machine, as its agent read it. Every text is untrusted and length-capped at the edge.

use serde::{Deserialize, Serialize};

use crate::domain::boot::Arch;
use crate::domain::id::{Mac, Serial, SystemUuid};
use crate::domain::power::FirmwareKind;

/// Caps that the server enforces before it stores an inventory (hostile agents; CVE lessons T37).
pub const MAX_NICS: usize = 64;
pub const MAX_DISKS: usize = 512;
pub const MAX_DIMMS: usize = 256;
pub const MAX_PCI: usize = 1024;
pub const MAX_TEXT: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    pub system: SystemInfo,
    pub firmware: FirmwareInfo,
    pub arch: Option<Arch>,
    pub cpus: Vec<Cpu>,
    pub memory_bytes: u64,
    pub dimms: Vec<Dimm>,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    pub pci: Vec<PciDevice>,
    pub bmc: Option<InbandBmc>,
    /// Kernel release the agent runs on.
    pub kernel: String,
    pub agent_version: String,
}

/// SMBIOS types 1, 2 and 3 (DSP0134).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemInfo {
    pub manufacturer: Option<String>,
    pub product: Option<String>,
    pub serial: Option<Serial>,
    pub uuid: Option<SystemUuid>,
    pub sku: Option<String>,
    pub board_serial: Option<Serial>,
    pub chassis_serial: Option<Serial>,
    pub asset_tag: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirmwareInfo {
    pub kind: Option<FirmwareKind>,
    pub vendor: Option<String>,
    pub version: Option<String>,
    pub date: Option<String>,
    pub secure_boot: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    pub socket: String,
    pub model: String,
    pub cores: u32,
    pub threads: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dimm {
    /// Slot as silk-screened, for example `DIMM_B3`.
    pub slot: String,
    pub size_bytes: u64,
    pub serial: Option<Serial>,
    pub part_number: Option<String>,
    pub manufacturer: Option<String>,
    pub speed_mts: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Kernel name now, for example `nvme0n1`. Not identity: it changes between boots.
    pub name: String,
    pub model: Option<String>,
    pub serial: Option<Serial>,
    /// World-wide name (`eui.…`, `naa.…`, `nvme.…`), where the device has one.
    pub wwn: Option<String>,
    pub size_bytes: u64,
    pub logical_block_bytes: u32,
    pub rotational: bool,
    pub removable: bool,
    pub read_only: bool,
    /// `nvme`, `sata`, `sas`, `virtio`, `usb`, `other`.
    pub transport: String,
    pub smart: Option<Smart>,
}

/// SMART basics; `None` fields were not offered by the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Smart {
    pub healthy: Option<bool>,
    pub temperature_celsius: Option<i32>,
    pub power_on_hours: Option<u64>,
    pub percent_used: Option<u32>,
    pub media_errors: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    pub name: String,
    pub mac: Mac,
    /// Mbit/s; `None` without a link.
    #[serde(default)]
    pub speed_mbps: Option<u32>,
    #[serde(default)]
    pub carrier: bool,
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub pci_address: Option<String>,
    #[serde(default)]
    pub lldp: Option<LldpNeighbour>,
}

/// What the switch said over LLDP (IEEE 802.1AB).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LldpNeighbour {
    pub chassis_id: String,
    pub port_id: String,
    pub system_name: Option<String>,
    pub port_description: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PciDevice {
    pub address: String,
    pub vendor: u16,
    pub device: u16,
    pub class: u32,
    pub driver: Option<String>,
}

/// The BMC as seen from inside the machine (IPMI over KCS).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InbandBmc {
    pub address: Option<std::net::Ipv4Addr>,
    pub mac: Option<Mac>,
    pub firmware: Option<String>,
    pub manufacturer_id: Option<u32>,
}

/// Names one disk so that the wrong one cannot be meant: what the agent must find again just before it writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRef {
    pub serial: Option<Serial>,
    pub wwn: Option<String>,
    pub size_bytes: u64,
    /// Kernel name when it was planned; a hint for people, never used to find the disk.
    pub name_hint: String,
}

impl DiskRef {
    /// A reference to `disk`, or `None` if it has neither serial nor WWN and so cannot be named safely.
    pub fn to(disk: &Disk) -> Option<Self> {
        if disk.serial.is_none() && disk.wwn.is_none() {
            return None;
        }
        Some(Self { serial: disk.serial.clone(), wwn: disk.wwn.clone(), size_bytes: disk.size_bytes, name_hint: disk.name.clone() })
    }

    /// Whether `other` means the same disk, under whatever kernel name.
    pub fn means_same(&self, other: &Self) -> bool {
        (&self.serial, &self.wwn, self.size_bytes) == (&other.serial, &other.wwn, other.size_bytes)
    }

    /// Whether `disk` is the one meant: every identifier we hold must be there and equal, and the size too.
    pub fn matches(&self, disk: &Disk) -> bool {
        let named = self.serial.is_some() || self.wwn.is_some();
        named
            && (self.serial.is_none() || self.serial == disk.serial)
            && (self.wwn.is_none() || self.wwn == disk.wwn)
            && self.size_bytes == disk.size_bytes
    }
}

impl std::fmt::Display for DiskRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.serial, &self.wwn) {
            (Some(s), _) => write!(f, "disk {s}")?,
            (None, Some(w)) => write!(f, "disk {w}")?,
            (None, None) => write!(f, "unnamed disk")?,
        }
        write!(f, " ({}, {} bytes)", self.name_hint, self.size_bytes)
    }
}

impl Inventory {
    /// Disks that may hold a system or data of a tenant: fixed, writable, not empty readers.
    pub fn fixed_disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.iter().filter(|d| !d.removable && !d.read_only && d.size_bytes > 0)
    }

    /// Cuts every list and text to its cap; returns a sentence per cut, for the event log.
    pub fn cap(&mut self) -> Vec<String> {
        fn cut<T>(list: &mut Vec<T>, max: usize, what: &str, notes: &mut Vec<String>) {
            if list.len() > max {
                notes.push(format!("agent reported {} {what}; kept the first {max}", list.len()));
                list.truncate(max);
            }
        }
        let mut notes = Vec::new();
        cut(&mut self.nics, MAX_NICS, "NICs", &mut notes);
        cut(&mut self.disks, MAX_DISKS, "disks", &mut notes);
        cut(&mut self.dimms, MAX_DIMMS, "DIMMs", &mut notes);
        cut(&mut self.pci, MAX_PCI, "PCI devices", &mut notes);
        cut(&mut self.cpus, MAX_NICS, "CPUs", &mut notes);
        for text in self.texts_mut() {
            if text.chars().count() > MAX_TEXT {
                *text = text.chars().take(MAX_TEXT).collect();
            }
        }
        notes
    }

    fn texts_mut(&mut self) -> Vec<&mut String> {
        let mut out: Vec<&mut String> = vec![&mut self.kernel, &mut self.agent_version];
        let s = &mut self.system;
        out.extend([&mut s.manufacturer, &mut s.product, &mut s.sku, &mut s.asset_tag].into_iter().flatten());
        let f = &mut self.firmware;
        out.extend([&mut f.vendor, &mut f.version, &mut f.date].into_iter().flatten());
        for c in &mut self.cpus {
            out.extend([&mut c.socket, &mut c.model]);
        }
        for d in &mut self.dimms {
            out.push(&mut d.slot);
            out.extend([&mut d.part_number, &mut d.manufacturer].into_iter().flatten());
        }
        for d in &mut self.disks {
            out.extend([&mut d.name, &mut d.transport]);
            out.extend([&mut d.model, &mut d.wwn].into_iter().flatten());
        }
        for n in &mut self.nics {
            out.push(&mut n.name);
            out.extend([&mut n.driver, &mut n.pci_address].into_iter().flatten());
            if let Some(l) = &mut n.lldp {
                out.extend([&mut l.chassis_id, &mut l.port_id]);
                out.extend([&mut l.system_name, &mut l.port_description].into_iter().flatten());
            }
        }
        for p in &mut self.pci {
            out.push(&mut p.address);
            out.extend(p.driver.iter_mut());
        }
        if let Some(b) = &mut self.bmc {
            out.extend(b.firmware.iter_mut());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(serial: Option<&str>, size: u64) -> Disk {
        Disk { name: "sda".into(), serial: serial.map(|s| s.parse().unwrap()), size_bytes: size, ..Disk::default() }
    }

    #[test]
    fn a_disk_without_serial_or_wwn_cannot_be_named() {
        assert_eq!(DiskRef::to(&disk(None, 10)), None);
    }

    #[test]
    fn a_disk_is_found_again_only_if_serial_and_size_are_the_same() {
        let meant = DiskRef::to(&disk(Some("DISK1"), 10)).unwrap();
        assert!(meant.matches(&disk(Some("DISK1"), 10)));
        assert!(!meant.matches(&disk(Some("DISK2"), 10)));
        assert!(!meant.matches(&disk(Some("DISK1"), 11)));
        assert!(!meant.matches(&disk(None, 10)));
    }

    #[test]
    fn a_hostile_inventory_is_cut_and_said_so() {
        let mut inv = Inventory { disks: vec![disk(Some("D"), 1); 600], kernel: "x".repeat(100_000), ..Inventory::default() };
        let notes = inv.cap();
        assert_eq!((inv.disks.len(), inv.kernel.len(), notes.len()), (MAX_DISKS, MAX_TEXT, 1));
    }
}
