//! Fits the partition table of a freshly written image to the disk it stands on.
//!
//! UEFI Specification 2.10 section 5.3: the backup header stands in the last block of the disk. An image's own backup is
//! where the image ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use gptman::GPT;

use crate::agent::task::TaskError;

/// GPT type GUIDs as they stand on disk: the first three fields little-endian.
pub const TYPE_ESP: [u8; 16] = guid(0xc12a7328, 0xf81f, 0x11d2, 0xba4b_00a0c93ec93b);
pub const TYPE_LINUX: [u8; 16] = guid(0x0fc63daf, 0x8483, 0x4772, 0x8e79_3d69d8477de4);
/// Root partitions of the Discoverable Partitions Specification (x86-64, arm64).
pub const TYPE_ROOT_X86_64: [u8; 16] = guid(0x4f68bce3, 0xe8cd, 0x4db1, 0x96e7_fbcaf984b709);
pub const TYPE_ROOT_ARM64: [u8; 16] = guid(0xb921b045, 0x1df0, 0x41c3, 0xaf44_4c6f280d3fae);
const TYPE_LVM: [u8; 16] = guid(0xe6d6d379, 0xf507, 0x44c2, 0xa23c_238f2a3df928);

const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// One partition of the written image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub number: u32,
    pub type_guid: [u8; 16],
    pub unique_guid: [u8; 16],
    pub first_lba: u64,
    pub last_lba: u64,
    pub block_bytes: u64,
}

impl Partition {
    pub fn size_bytes(&self) -> u64 {
        (self.last_lba + 1).saturating_sub(self.first_lba).saturating_mul(self.block_bytes)
    }

    pub fn is_linux(&self) -> bool {
        [TYPE_LINUX, TYPE_ROOT_X86_64, TYPE_ROOT_ARM64].contains(&self.type_guid)
    }
}

/// The partitions of a disk or image file; `None` if it has no GPT.
///
/// # Errors
/// `grow` if the table was made for another block size than the disk's: firmware will not find it there.
pub fn partitions(disk: &Path, block_bytes: u64) -> Result<Option<Vec<Partition>>, TaskError> {
    let mut file = File::open(disk).map_err(|e| TaskError::for_good("grow", format!("cannot read {}: {e}", disk.display())))?;
    Ok(read_table(&mut file, block_bytes)?.map(|gpt| listed(&gpt)))
}

fn listed(gpt: &GPT) -> Vec<Partition> {
    let used = gpt.iter().filter(|(_, entry)| entry.is_used());
    used.map(|(number, entry)| Partition {
        number,
        type_guid: entry.partition_type_guid,
        unique_guid: entry.unique_partition_guid,
        first_lba: entry.starting_lba,
        last_lba: entry.ending_lba,
        block_bytes: gpt.sector_size,
    })
    .collect()
}

fn read_table(file: &mut File, block_bytes: u64) -> Result<Option<GPT>, TaskError> {
    if let Ok(gpt) = GPT::read_from(file, block_bytes) {
        return Ok(Some(gpt));
    }
    let other = if block_bytes == 512 { 4096 } else { 512 };
    match GPT::read_from(file, other) {
        Ok(_) => Err(TaskError::for_good(
            "grow",
            format!("the image is partitioned for disks with blocks of {other} bytes, this disk has {block_bytes}: it would not boot"),
        )),
        Err(_) => Ok(None),
    }
}

/// What was done to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    pub partitions: Vec<Partition>,
    /// Number, size before and after, of the partition that grew.
    pub grown: Option<(u32, u64, u64)>,
}

/// Moves the backup header to the end of the disk and, with [`Growth::LastPartition`], grows the last partition up to it.
/// `None` if the disk has no GPT: an MBR table has no backup, and growing is left to the image's own first boot.
///
/// # Errors
/// `grow`.
pub fn fit(disk: &Path, block_bytes: u64, growth: Growth) -> Result<Option<Fitted>, TaskError> {
    let fail = |e: &dyn std::fmt::Display| {
        TaskError::for_good("grow", format!("the partition table of {} cannot be fitted to the disk: {e}", disk.display()))
    };
    let mut file = OpenOptions::new().read(true).write(true).open(disk).map_err(|e| fail(&e))?;
    let Some(mut gpt) = read_table(&mut file, block_bytes)? else {
        return Ok(None);
    };
    let size = file.seek(SeekFrom::End(0)).map_err(|e| fail(&e))?;
    if size / block_bytes < 64 || gpt.header.number_of_partition_entries == 0 || gpt.header.size_of_partition_entry < 128 {
        return Err(fail(&"it is not sound"));
    }
    gpt.header.update_from(&mut file, block_bytes).map_err(|e| fail(&e))?;
    let mut grown = None;
    if growth == Growth::LastPartition {
        let last_usable = gpt.header.last_usable_lba;
        let last = gpt.iter_mut().filter(|(_, entry)| entry.is_used()).max_by_key(|(_, entry)| entry.ending_lba);
        if let Some((number, entry)) = last
            && [TYPE_LINUX, TYPE_ROOT_X86_64, TYPE_ROOT_ARM64, TYPE_LVM].contains(&entry.partition_type_guid)
        {
            // Ends on a MiB, as it began: aligned to every SSD's pages.
            let align = ((1 << 20) / block_bytes).max(1);
            let end = ((last_usable + 1) / align * align).saturating_sub(1);
            if end > entry.ending_lba {
                let blocks = |last: u64| (last + 1 - entry.starting_lba) * block_bytes;
                grown = Some((number, blocks(entry.ending_lba), blocks(end)));
                entry.ending_lba = end;
            }
        }
    }
    gpt.write_into(&mut file).map_err(|e| fail(&e))?;
    fit_protective_mbr(&mut file, size / block_bytes).map_err(|e| fail(&e))?;
    file.sync_all().map_err(|e| fail(&e))?;
    let again = read_table(&mut file, block_bytes)?.ok_or_else(|| fail(&"read back, it is gone"))?;
    Ok(Some(Fitted { partitions: listed(&again), grown }))
}

/// Whether the last partition takes the space behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    LastPartition,
    None,
}

/// Sets the size in the protective MBR's one entry (UEFI 2.10 table 5-4); boot code and anything hybrid stay as they are.
fn fit_protective_mbr(file: &mut File, blocks: u64) -> io::Result<()> {
    let mut mbr = [0; 512];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut mbr)?;
    for entry in 0..4 {
        let at = 446 + entry * 16;
        if mbr[at + 4] == 0xee && mbr[at + 8..at + 12] == [1, 0, 0, 0] {
            let size = u32::try_from(blocks - 1).unwrap_or(u32::MAX);
            mbr[at + 12..at + 16].copy_from_slice(&size.to_le_bytes());
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&mbr)?;
        }
    }
    Ok(())
}
