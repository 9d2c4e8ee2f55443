//! The disks, by sysfs; identity as the device itself tells it, never by kernel name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::agent::sys;
use crate::domain::id::Serial;
use crate::domain::inventory::{Disk, Smart};
use crate::wire::smart;

/// Kernel names of block devices that are no disks of their own.
const NOT_DISKS: [&str; 10] = ["loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd", "rbd", "drbd"];

/// All disks, by name. SMART is not read here.
pub fn read_disks(sys: &Path) -> Vec<Disk> {
    let root = sys.join("block");
    let mut disks: Vec<Disk> = entries(&root).into_iter().filter_map(|name| read_disk(&root.join(&name), name)).collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

fn read_disk(at: &Path, name: String) -> Option<Disk> {
    let text = |path: &str| short_text(&at.join(path));
    let flag = |path: &str| text(path).as_deref() == Some("1");
    if NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    // The parts of an eMMC that only its firmware writes, and the paths below an NVMe multipath disk.
    if name.contains("boot") || name.contains("rpmb") || flag("hidden") {
        return None;
    }
    let size_bytes = text("size")?.parse::<u64>().ok()?.checked_mul(512)?;
    if size_bytes == 0 {
        return None;
    }
    Some(Disk {
        model: text("device/model").filter(|model| !model.is_empty()),
        serial: serial(at),
        wwn: wwn(at),
        size_bytes,
        logical_block_bytes: text("queue/logical_block_size").and_then(|n| n.parse().ok()).unwrap_or(512),
        rotational: flag("queue/rotational"),
        removable: flag("removable"),
        read_only: flag("ro"),
        transport: transport(at, &name).into(),
        smart: None,
        name,
    })
}

/// virtio tells its serial at the disk, NVMe and MMC at the controller or card, SCSI in VPD page 80h.
fn serial(at: &Path) -> Option<Serial> {
    let plain = ["serial", "device/serial", "device/cid"].iter().find_map(|path| short_text(&at.join(path)));
    let text = plain.filter(|text| !text.is_empty()).or_else(|| vpd_serial(&short_bytes(&at.join("device/vpd_pg80"))?))?;
    text.parse().ok()
}

/// SPC-5 section 7.7.18: four bytes of header, then ASCII.
fn vpd_serial(page: &[u8]) -> Option<String> {
    let len = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let text = String::from_utf8_lossy(page.get(4..4 + len)?).trim_matches(['\0', ' ']).to_owned();
    (page.get(1) == Some(&0x80) && !text.is_empty()).then_some(text)
}

/// A world-wide name: sysfs `wwid` where it is one (`t10.` is a vendor's text, not a name), else VPD page 83h.
fn wwn(at: &Path) -> Option<String> {
    let named = ["wwid", "device/wwid"].iter().filter_map(|path| short_text(&at.join(path)));
    let mut named = named.filter(|text| ["naa.", "eui.", "nvme.", "uuid."].iter().any(|prefix| text.starts_with(prefix)));
    named.next().or_else(|| vpd_name(&short_bytes(&at.join("device/vpd_pg83"))?))
}

/// SPC-5 section 7.7.6: the first NAA or EUI-64 designator of the logical unit.
fn vpd_name(page: &[u8]) -> Option<String> {
    let len = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let mut rest = page.get(4..4 + len)?;
    while let [_, kind, _, len, after @ ..] = rest {
        let id = after.get(..usize::from(*len))?;
        rest = &after[usize::from(*len)..];
        let prefix = match kind & 0x3f {
            3 => "naa",
            2 => "eui",
            _ => continue,
        };
        return Some(format!("{prefix}.{}", hex::encode(id)));
    }
    None
}

fn transport(at: &Path, name: &str) -> &'static str {
    let path = std::fs::canonicalize(at).unwrap_or_default();
    let path = path.to_string_lossy();
    match name {
        _ if name.starts_with("nvme") => "nvme",
        _ if name.starts_with("vd") || path.contains("/virtio") => "virtio",
        _ if path.contains("/usb") => "usb",
        _ if path.contains("/end_device-") || at.join("device/sas_address").exists() => "sas",
        _ if path.contains("/ata") => "sata",
        _ => "other",
    }
}

/// SMART basics of one disk; `None` where it has none or does not answer.
pub fn read_smart(dev: &Path, disk: &Disk) -> Option<Smart> {
    let device = File::open(dev.join(&disk.name)).ok()?;
    match disk.transport.as_str() {
        "nvme" => sys::nvme_smart_log(&device).ok().map(|log| smart::nvme(&log)),
        "sata" => ata_smart(&device),
        // A SATA disk behind a SAS controller speaks ATA too; a true SAS disk refuses the command.
        "sas" => ata_smart(&device),
        _ => None,
    }
}

fn ata_smart(device: &File) -> Option<Smart> {
    // ATA PASS-THROUGH (16), SAT-4 12.2.2: SMART READ DATA (B0h, feature D0h) and RETURN STATUS (feature DAh).
    let command =
        |protocol: u8, flags: u8, feature: u8, count: u8| [0x85, protocol, flags, 0, feature, 0, count, 0, 0, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0];
    let data = sys::scsi_read(device, command(4 << 1, 0x0e, 0xd0, 1), sys::Data::Read512).ok()?;
    let found = if data.status == 0 { smart::ata(&data.data) } else { None };
    // CK_COND: answer with the registers in the sense data.
    let status = sys::scsi_read(device, command(3 << 1, 0x20, 0xda, 0), sys::Data::None).ok();
    let healthy = status.and_then(|answer| smart::ata_status(&answer.sense));
    match (found, healthy) {
        (None, None) => None,
        (found, healthy) => Some(Smart { healthy, ..found.unwrap_or_default() }),
    }
}

/// The text of a small file, trimmed.
pub fn short_text(path: &Path) -> Option<String> {
    let bytes = short_bytes(path)?;
    Some(String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
}

/// At most 4 KiB of a file.
fn short_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The names in a directory; empty if there is none.
pub fn entries(path: &Path) -> Vec<String> {
    let Ok(list) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    list.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The last part of what a symbolic link points to.
pub fn link_name(path: &Path) -> Option<String> {
    std::fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}
