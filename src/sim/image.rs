//! The small disk image that the demo deploys: a valid GUID partition table, an ESP, a root partition with noise in it.
//! No system that a real machine could boot.

use std::io;

use tokio::io::AsyncWriteExt;

use crate::clock;

const SECTOR: usize = 512;
const RAW_BYTES: usize = 64 << 20;
/// Bytes that do not compress, so that a download is one.
const NOISE_BYTES: usize = 6 << 20;
const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;
const ENTRY_SECTORS: usize = ENTRIES * ENTRY_BYTES / SECTOR;
const MIB: u64 = 1 << 20;

/// Partition types of UEFI 2.10 table 5-7 and of the Discoverable Partitions Specification, as they lie on disk.
const ESP: u128 = 0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b;
const LINUX_ROOT_X86_64: u128 = 0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709;

/// The image, unpacked.
pub fn raw() -> Vec<u8> {
    let mut disk = vec![0; RAW_BYTES];
    let sectors = (RAW_BYTES / SECTOR) as u64;
    let last_usable = sectors - 2 - ENTRY_SECTORS as u64;
    let sector = |bytes: u64| bytes / SECTOR as u64;
    let esp = (sector(MIB), sector(17 * MIB) - 1);
    let root = (sector(17 * MIB), sector(RAW_BYTES as u64 - MIB) - 1);

    let mut entries = vec![0; ENTRIES * ENTRY_BYTES];
    for (slot, (kind, (first, last), name)) in [(ESP, esp, "ESP"), (LINUX_ROOT_X86_64, root, "root")].into_iter().enumerate() {
        let entry = &mut entries[slot * ENTRY_BYTES..][..ENTRY_BYTES];
        entry[..16].copy_from_slice(&uuid::Uuid::from_u128(kind).to_bytes_le());
        entry[16..32].copy_from_slice(&uuid::Uuid::from_bytes(clock::random()).to_bytes_le());
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (at, unit) in name.encode_utf16().enumerate() {
            entry[56 + at * 2..][..2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let entries_crc = crc32(&entries);
    let disk_id = uuid::Uuid::from_bytes(clock::random());
    let header = |here: u64, other: u64, entries_at: u64| {
        let mut header = [0; SECTOR];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&here.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[40..48].copy_from_slice(&(2 + ENTRY_SECTORS as u64).to_le_bytes());
        header[48..56].copy_from_slice(&last_usable.to_le_bytes());
        header[56..72].copy_from_slice(&disk_id.to_bytes_le());
        header[72..80].copy_from_slice(&entries_at.to_le_bytes());
        header[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
        header[84..88].copy_from_slice(&(ENTRY_BYTES as u32).to_le_bytes());
        header[88..92].copy_from_slice(&entries_crc.to_le_bytes());
        let crc = crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header
    };
    let last = sectors - 1;
    // The protective MBR (UEFI 2.10 section 5.2.3): one partition of type ee over the whole disk.
    disk[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    disk[458..462].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[SECTOR..2 * SECTOR].copy_from_slice(&header(1, last, 2));
    disk[2 * SECTOR..][..entries.len()].copy_from_slice(&entries);
    let backup_entries = last - ENTRY_SECTORS as u64;
    disk[backup_entries as usize * SECTOR..][..entries.len()].copy_from_slice(&entries);
    disk[last as usize * SECTOR..].copy_from_slice(&header(last, 1, backup_entries));

    let start = root.0 as usize * SECTOR;
    for block in disk[start..start + NOISE_BYTES].chunks_exact_mut(64) {
        block.copy_from_slice(&clock::random::<64>());
    }
    disk
}

/// The image as a `raw.zst` file.
///
/// # Errors
/// None that a vector could raise; the encoder's type has them.
pub async fn raw_zst() -> io::Result<Vec<u8>> {
    let raw = tokio::task::spawn_blocking(raw).await.map_err(io::Error::other)?;
    let mut encoder = async_compression::tokio::write::ZstdEncoder::new(Vec::new());
    encoder.write_all(&raw).await?;
    encoder.shutdown().await?;
    Ok(encoder.into_inner())
}

/// CRC-32 (ISO 3309), as GPT uses it. A few kilobytes: no table.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn both_partition_table_headers_check_out() {
        let disk = raw();
        for at in [1, RAW_BYTES / SECTOR - 1] {
            let header = &disk[at * SECTOR..][..92];
            assert_eq!(&header[..8], b"EFI PART");
            let mut blank = header.to_vec();
            blank[16..20].fill(0);
            assert_eq!(u32::from_le_bytes(header[16..20].try_into().unwrap()), crc32(&blank));
        }
    }
}
