//! From the disk an order means to the device that is there now.

use std::path::{Path, PathBuf};

use crate::agent::probe::disk::{read_disks, short_text};
use crate::agent::task::TaskError;
use crate::agent::task::target::Target;
use crate::domain::inventory::{Disk, DiskRef};

/// Where devices are found: `/sys` and `/dev`, or a copy of them in tests.
#[derive(Clone, Debug)]
pub struct Devices {
    pub sys: PathBuf,
    pub dev: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

impl Devices {
    /// Reads all disks again and finds the one meant.
    ///
    /// # Errors
    /// `disk_not_found`, `disk_mismatch` (same serial or WWN but not the rest, or two that match).
    pub fn find(&self, meant: &DiskRef) -> Result<Disk, TaskError> {
        let disks = read_disks(&self.sys);
        let mut matching = disks.iter().filter(|disk| meant.matches(disk));
        match (matching.next(), matching.next()) {
            (Some(disk), None) => Ok(disk.clone()),
            (Some(one), Some(two)) => Err(TaskError::for_good(
                "disk_mismatch",
                format!("{meant} is not unique: {} and {} both match; nothing was written", one.name, two.name),
            )),
            (None, _) => Err(self.not_found(meant, &disks)),
        }
    }

    fn not_found(&self, meant: &DiskRef, disks: &[Disk]) -> TaskError {
        let near = disks
            .iter()
            .find(|disk| (meant.serial.is_some() && meant.serial == disk.serial) || (meant.wwn.is_some() && meant.wwn == disk.wwn));
        match near {
            Some(disk) => TaskError::for_good(
                "disk_mismatch",
                format!("{meant} was ordered, but {} now is {}; nothing was written", disk.name, described(disk)),
            ),
            None => {
                let present: Vec<_> = disks.iter().map(|disk| format!("{} ({})", disk.name, described(disk))).collect();
                let present = if present.is_empty() { "none".into() } else { present.join(", ") };
                TaskError::for_good("disk_not_found", format!("{meant} is not in this machine; there are: {present}"))
            }
        }
    }

    /// Opens the disk meant for writing, after reading its identity again, and makes sure that the device opened is it.
    ///
    /// # Errors
    /// As [`Devices::find`] and [`Target::disk`]; `refused` for a removable or read-only disk.
    pub fn open(&self, meant: &DiskRef) -> Result<(Target, Disk), TaskError> {
        let disk = self.find(meant)?;
        if disk.read_only || disk.removable {
            return Err(TaskError::for_good("refused", format!("{meant} is removable or read-only; nothing was written")));
        }
        let target = Target::disk(&self.path(&disk), disk.size_bytes, disk.logical_block_bytes)?;
        let listed = short_text(&self.sys.join("block").join(&disk.name).join("dev"));
        let opened =
            target.device_number().ok().map(|number| format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number)));
        if listed.is_none() || listed != opened {
            return Err(TaskError::for_good("disk_mismatch", format!("{} changed while it was opened; nothing was written", disk.name)));
        }
        Ok((target, disk))
    }

    pub fn path(&self, disk: &Disk) -> PathBuf {
        self.dev.join(&disk.name)
    }

    /// The device of a partition: `sda` 1 is `sda1`, `nvme0n1` 1 is `nvme0n1p1`.
    pub fn partition(&self, disk: &Disk, number: u32) -> PathBuf {
        let glue = if disk.name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        self.dev.join(format!("{}{glue}{number}", disk.name))
    }
}

fn described(disk: &Disk) -> String {
    let serial = disk.serial.as_ref().map_or("no serial", |s| s.as_str());
    format!("{serial}, {} bytes", disk.size_bytes)
}

/// Waits until a device file is there; the kernel makes it a moment after the partition table was read.
pub fn wait_for(path: &Path) -> bool {
    for _ in 0..50 {
        if path.exists() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    false
}
