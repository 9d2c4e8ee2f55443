//! Which disk gets the image, and whether the image can run there at all.

use crate::domain::image::Image;
use crate::domain::inventory::{Disk, DiskRef, Inventory};
use crate::domain::machine::Machine;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    Disk(DiskRef),
    /// A sentence that says why there is none.
    None(String),
}

/// Chooses the disk to write. A disk asked for is taken if it is there, fits and can be named; else the smallest fixed
/// disk that is large enough, solid-state before rotating, equal ones by name: boot disks are the small ones, and the
/// choice must be the same each time.
pub fn choose_disk(inventory: &Inventory, needed_bytes: u64, asked: Option<&DiskRef>) -> Choice {
    if let Some(asked) = asked {
        return match inventory.fixed_disks().find(|d| asked.matches(d)) {
            Some(disk) if disk.size_bytes >= needed_bytes => Choice::Disk(asked.clone()),
            Some(disk) => Choice::None(format!("{asked} is too small: it has {} bytes, the image needs {needed_bytes}", disk.size_bytes)),
            None => Choice::None(format!("{asked} is not in the machine; the disks are: {}", list(inventory))),
        };
    }
    let mut able: Vec<&Disk> = inventory.fixed_disks().filter(|d| d.size_bytes >= needed_bytes && DiskRef::to(d).is_some()).collect();
    able.sort_by(|a, b| (a.rotational, a.size_bytes, &a.name).cmp(&(b.rotational, b.size_bytes, &b.name)));
    match able.first().and_then(|d| DiskRef::to(d)) {
        Some(disk) => Choice::Disk(disk),
        None => Choice::None(format!(
            "no fixed disk with a serial or WWN has the {needed_bytes} bytes the image needs; the disks are: {}",
            list(inventory)
        )),
    }
}

fn list(inventory: &Inventory) -> String {
    let disks: Vec<String> = inventory
        .disks
        .iter()
        .map(|d| format!("{} ({}, {} bytes)", d.name, d.serial.as_ref().map_or("no serial", |s| s.as_str()), d.size_bytes))
        .collect();
    if disks.is_empty() { "none".to_owned() } else { disks.join(", ") }
}

/// Whether the image's architecture and firmware kinds are those of the machine. What is not known does not refuse.
pub fn fits(image: &Image, machine: &Machine, inventory: &Inventory) -> Result<(), String> {
    if let Some(arch) = inventory.arch.or(machine.arch)
        && arch != image.arch
    {
        return Err(format!("{} is an {} image and {} is an {arch} machine", image.name, image.arch, machine.name));
    }
    if let Some(firmware) = inventory.firmware.kind.or(machine.firmware)
        && !image.boots_on.contains(&firmware)
    {
        return Err(format!("{} does not boot on {firmware} firmware, which {} has", image.name, machine.name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, serial: Option<&str>, gib: u64, rotational: bool) -> Disk {
        Disk { name: name.into(), serial: serial.map(|s| s.parse().unwrap()), size_bytes: gib << 30, rotational, ..Disk::default() }
    }

    fn with(disks: Vec<Disk>) -> Inventory {
        Inventory { disks, ..Inventory::default() }
    }

    #[test]
    fn the_smallest_solid_state_disk_that_is_large_enough_is_chosen() {
        let inv = with(vec![
            disk("sda", Some("HDD-A"), 100, true),
            disk("nvme1n1", Some("BIG"), 3000, false),
            disk("nvme0n1", Some("BOOT"), 240, false),
            disk("sdb", Some("TINY"), 1, false),
        ]);
        let Choice::Disk(d) = choose_disk(&inv, 2 << 30, None) else { panic!() };
        assert_eq!(d.serial.unwrap().as_str(), "BOOT");
    }

    #[test]
    fn a_disk_that_cannot_be_named_a_removable_or_a_read_only_one_is_never_chosen() {
        let mut usb = disk("sdb", Some("USB1"), 100, false);
        usb.removable = true;
        let mut ro = disk("sdc", Some("RO1"), 100, false);
        ro.read_only = true;
        assert!(matches!(choose_disk(&with(vec![disk("sda", None, 100, false), usb, ro]), 1 << 30, None), Choice::None(_)));
        assert!(matches!(choose_disk(&with(vec![]), 0, None), Choice::None(_)));
    }

    #[test]
    fn the_disk_asked_for_is_taken_or_refused_but_never_replaced_by_another() {
        let inv = with(vec![disk("sda", Some("AAAA"), 100, false), disk("sdb", Some("BBBB"), 200, false)]);
        let b = DiskRef::to(&inv.disks[1]).unwrap();
        assert_eq!(choose_disk(&inv, 1 << 30, Some(&b)), Choice::Disk(b.clone()));
        assert!(matches!(choose_disk(&inv, 300 << 30, Some(&b)), Choice::None(_)));
        let gone = DiskRef { serial: Some("CCCC".parse().unwrap()), ..b };
        assert!(matches!(choose_disk(&inv, 1 << 30, Some(&gone)), Choice::None(_)));
    }
}
