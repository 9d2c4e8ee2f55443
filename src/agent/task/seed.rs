//! Puts the NoCloud seed into the root file system of a freshly written image. Nothing of the image is executed.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::agent::sys;
use crate::agent::task::TaskError;
use crate::agent::task::disk::{Devices, wait_for};
use crate::agent::task::grow::{Partition, TYPE_ROOT_ARM64, TYPE_ROOT_X86_64};
use crate::domain::inventory::Disk;
use crate::wire::agent::Seed;

const SEED_DIR: [&str; 5] = ["var", "lib", "cloud", "seed", "nocloud"];

/// What was done to the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeded {
    pub partition: u32,
    pub file_system: &'static str,
    /// Whether the file system was grown to its partition here.
    pub grown: bool,
    /// Why it was not, for the evidence.
    pub note: Option<String>,
}

/// A partition with a Linux file system on it, mounted at a private place; unmounted when dropped.
struct Mounted {
    at: PathBuf,
    live: bool,
}

impl Mounted {
    fn unmount(mut self) -> nix::Result<()> {
        self.live = false;
        umount2(&self.at, MntFlags::empty())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Only on the way out of an error, which is the one to report.
        if self.live && umount2(&self.at, MntFlags::MNT_DETACH).is_err() {
            self.live = false;
        }
    }
}

/// Mounts the root file system, grows it to its partition where asked, writes the seed, and reads it back from the disk.
///
/// # Errors
/// `seed` with what was found, when there is no root file system that can be mounted or written.
pub fn put_seed(
    devices: &Devices,
    disk: &Disk,
    partitions: &[Partition],
    seed: Option<&Seed>,
    grow: bool,
    mount_at: &Path,
) -> Result<Seeded, TaskError> {
    let fail = |message: String| TaskError::for_good("seed", message);
    fs::create_dir_all(mount_at).map_err(|e| fail(format!("cannot make {}: {e}", mount_at.display())))?;
    let mut tried = Vec::new();
    for partition in candidates(partitions) {
        let device = devices.partition(disk, partition.number);
        if !wait_for(&device) {
            tried.push(format!("{} did not appear", device.display()));
            continue;
        }
        let Some((kind, block_bytes)) = file_system(&device) else {
            tried.push(format!("partition {} is neither ext4 nor XFS", partition.number));
            continue;
        };
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
        if let Err(e) = mount(Some(&device), mount_at, Some(kind), flags, None::<&str>) {
            tried.push(format!("partition {} ({kind}) cannot be mounted: {}", partition.number, e.desc()));
            continue;
        }
        let mounted = Mounted { at: mount_at.to_owned(), live: true };
        if !mount_at.join("etc").is_dir() {
            tried.push(format!("partition {} ({kind}) has no /etc: not a root file system", partition.number));
            mounted.unmount().map_err(|e| fail(format!("cannot unmount {}: {e}", device.display())))?;
            continue;
        }
        let (grown, note) = if grow { grow_file_system(mount_at, kind, partition, block_bytes) } else { (false, None) };
        if let Some(seed) = seed {
            write_seed(mount_at, seed)?;
        }
        mounted.unmount().map_err(|e| fail(format!("cannot unmount {}: {e}", device.display())))?;
        if let Some(seed) = seed {
            // Mounted anew and read-only: what is compared came from the disk.
            mount(Some(&device), mount_at, Some(kind), flags | MsFlags::MS_RDONLY, None::<&str>)
                .map_err(|e| fail(format!("cannot mount {} again to read the seed back: {e}", device.display())))?;
            let mounted = Mounted { at: mount_at.to_owned(), live: true };
            check_seed(mount_at, seed)?;
            mounted.unmount().map_err(|e| fail(format!("cannot unmount {}: {e}", device.display())))?;
        }
        return Ok(Seeded { partition: partition.number, file_system: kind, grown, note });
    }
    let tried = if tried.is_empty() { "the image has no Linux partition".into() } else { tried.join("; ") };
    Err(fail(format!("no root file system was found in the image: {tried}")))
}

/// Root partitions by their type first, then plain Linux ones, the largest first.
fn candidates(partitions: &[Partition]) -> Vec<&Partition> {
    let mut linux: Vec<_> = partitions.iter().filter(|p| p.is_linux()).collect();
    let is_root = |p: &Partition| [TYPE_ROOT_X86_64, TYPE_ROOT_ARM64].contains(&p.type_guid);
    linux.sort_by_key(|p| std::cmp::Reverse((is_root(p), p.size_bytes())));
    linux
}

/// ext4 or XFS by their magic numbers, and the block size of the file system.
fn file_system(device: &Path) -> Option<(&'static str, u64)> {
    let mut file = File::open(device).ok()?;
    let mut start = [0; 2048];
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_exact(&mut start).ok()?;
    if &start[..4] == b"XFSB" {
        let bytes = u32::from_be_bytes([start[4], start[5], start[6], start[7]]);
        return Some(("xfs", u64::from(bytes)));
    }
    // The superblock stands at 1024: s_log_block_size at 0x18, s_magic at 0x38.
    if start[1024 + 0x38..1024 + 0x3a] == [0x53, 0xef] {
        let log = u32::from_le_bytes([start[1024 + 0x18], start[1024 + 0x19], start[1024 + 0x1a], start[1024 + 0x1b]]);
        return (log <= 6).then(|| ("ext4", 1024 << log));
    }
    None
}

fn grow_file_system(mount_at: &Path, kind: &str, partition: &Partition, block_bytes: u64) -> (bool, Option<String>) {
    if kind != "ext4" || block_bytes == 0 {
        return (false, Some(format!("{kind} is grown by the system's first boot")));
    }
    let grown = File::open(mount_at).and_then(|directory| sys::grow_ext4(&directory, partition.size_bytes() / block_bytes));
    match grown {
        Ok(()) => (true, None),
        // Not fatal: cloud-init's growpart and resizefs do the same at first boot.
        Err(e) => (false, Some(format!("the kernel did not grow it ({e}); left to the system's first boot"))),
    }
}

fn files(seed: &Seed) -> Vec<(&'static str, &str)> {
    let mut files = vec![("meta-data", seed.meta_data.as_str()), ("user-data", &seed.user_data), ("vendor-data", &seed.vendor_data)];
    files.extend(seed.network_config.as_deref().map(|text| ("network-config", text)));
    files
}

/// The seed directory below `root`. Symbolic links on the way are refused: they could lead out of the image.
fn seed_dir(root: &Path) -> Result<PathBuf, TaskError> {
    let mut path = root.to_owned();
    for part in SEED_DIR {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(TaskError::for_good(
                    "seed",
                    format!("/{} in the image is not a directory", path.strip_prefix(root).unwrap_or(&path).display()),
                ));
            }
            Err(_) => DirBuilder::new().mode(0o755).create(&path).map_err(|e| write_error(&path, &e))?,
        }
    }
    Ok(path)
}

fn write_error(path: &Path, e: &std::io::Error) -> TaskError {
    TaskError::for_good("seed", format!("cannot write {}: {e}", path.display()))
}

/// Writes the seed below `root`, as `cloud-init` looks for it. Readable by root only: user data may hold passwords.
///
/// # Errors
/// `seed`.
pub fn write_seed(root: &Path, seed: &Seed) -> Result<(), TaskError> {
    let directory = seed_dir(root)?;
    for (name, text) in files(seed) {
        let path = directory.join(name);
        // An old seed of the image, or a link in its place, is replaced, never followed.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(write_error(&path, &e)),
            _ => {}
        }
        let written = File::options().write(true).create_new(true).mode(0o600).open(&path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|e| write_error(&path, &e))?;
    }
    File::open(&directory).and_then(|d| d.sync_all()).map_err(|e| write_error(&directory, &e))
}

/// Reads the seed back.
///
/// # Errors
/// `seed` if a file is not there or not as it was written.
pub fn check_seed(root: &Path, seed: &Seed) -> Result<(), TaskError> {
    let directory = SEED_DIR.iter().fold(root.to_owned(), |path, part| path.join(part));
    for (name, text) in files(seed) {
        if fs::read(directory.join(name)).ok().as_deref() != Some(text.as_bytes()) {
            return Err(TaskError::for_good("seed", format!("read back, {name} is not as it was written")));
        }
    }
    Ok(())
}
