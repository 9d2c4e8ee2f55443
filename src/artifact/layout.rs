//! What the first sectors of a disk image say: which firmware can start it, and whether the image is all there.

use crate::domain::power::FirmwareKind;

/// How many bytes of the disk [`inspect`] wants: protective MBR, GPT header and 128 entries, also with 4096-byte sectors
/// (2 * 4096 + 128 * 128 = 24576).
pub const HEAD_LEN: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `Bios`: the MBR holds boot code. `Uefi`: there is an EFI system partition. May be empty.
    pub boots_on: Vec<FirmwareKind>,
    /// Bytes that the partition table speaks of; 0 without one.
    pub spans_bytes: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    #[error("its partition table is for a disk of {spans} bytes, but the image holds only {have}: the end is missing")]
    Truncated { spans: u64, have: u64 },
    #[error("its GPT header is damaged ({0})")]
    BadGpt(&'static str),
}

const ESP: [u8; 16] = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// `head`: the first [`HEAD_LEN`] bytes of the unpacked disk, or all of it if smaller; `raw_size`: bytes in all.
pub fn inspect(head: &[u8], raw_size: u64) -> Result<Layout, LayoutError> {
    let mbr = head.get(..512).filter(|s| s[510..] == [0x55, 0xaa]);
    let has_boot_code = mbr.is_some_and(|s| s[..440].iter().any(|b| *b != 0));
    let mut layout = Layout { boots_on: Vec::new(), spans_bytes: 0 };
    if has_boot_code {
        layout.boots_on.push(FirmwareKind::Bios);
    }
    let has_esp = if let Some(gpt) = [512, 4096].into_iter().find_map(|sector| Gpt::find(head, sector)) {
        let gpt = gpt?;
        layout.spans_bytes = gpt.spans_bytes;
        gpt.has_esp
    } else if let Some(mbr) = mbr {
        let entries = mbr[446..510].chunks_exact(16).filter(|e| e[4] != 0 && matches!(e[0], 0 | 0x80));
        let mut has_esp = false;
        for entry in entries {
            let end = u64::from(le32(entry, 8).unwrap_or(0)) + u64::from(le32(entry, 12).unwrap_or(0));
            layout.spans_bytes = layout.spans_bytes.max(end * 512);
            has_esp |= entry[4] == 0xef;
        }
        has_esp
    } else {
        false
    };
    if layout.spans_bytes > raw_size {
        return Err(LayoutError::Truncated { spans: layout.spans_bytes, have: raw_size });
    }
    if has_esp {
        layout.boots_on.push(FirmwareKind::Uefi);
    }
    Ok(layout)
}

struct Gpt {
    spans_bytes: u64,
    has_esp: bool,
}

impl Gpt {
    /// UEFI 2.10, 5.3.2 and 5.3.3. `None`: no GPT with this sector size.
    fn find(head: &[u8], sector: usize) -> Option<Result<Self, LayoutError>> {
        head.get(sector..).filter(|h| h.starts_with(b"EFI PART")).map(|h| Self::parse(head, h, sector))
    }

    fn parse(head: &[u8], header: &[u8], sector: usize) -> Result<Self, LayoutError> {
        let short = LayoutError::BadGpt("it ends too early");
        let Some((size, crc)) = le32(header, 12).zip(le32(header, 16)) else { return Err(short) };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if !(92..=sector).contains(&size) {
            return Err(LayoutError::BadGpt("impossible header size"));
        }
        let Some(mut bytes) = header.get(..size).map(<[u8]>::to_vec) else { return Err(short) };
        bytes[16..20].fill(0);
        if crc32(&bytes) != crc {
            return Err(LayoutError::BadGpt("wrong checksum"));
        }
        let fields = (le64(header, 32), le64(header, 72), le32(header, 80), le32(header, 84), le32(header, 88));
        let (Some(backup), Some(first), Some(count), Some(entry_size), Some(entries_crc)) = fields else { return Err(short) };
        if !(128..=4096).contains(&entry_size) || !(1..=1024).contains(&count) {
            return Err(LayoutError::BadGpt("impossible entry size or count"));
        }
        let (entry_size, count) = (entry_size as usize, count as usize);
        let spans_bytes = backup.saturating_add(1).saturating_mul(sector as u64);
        // Entries normally follow the header at sector 2. Where they lie beyond what we keep, the ESP stays unseen.
        let start = first.checked_mul(sector as u64).and_then(|at| usize::try_from(at).ok());
        let entries = start.and_then(|at| head.get(at..at.checked_add(entry_size * count)?));
        let Some(entries) = entries else { return Ok(Self { spans_bytes, has_esp: false }) };
        if crc32(entries) != entries_crc {
            return Err(LayoutError::BadGpt("wrong checksum of the entries"));
        }
        Ok(Self { spans_bytes, has_esp: entries.chunks_exact(entry_size).any(|e| e[..16] == ESP) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A GPT disk of `sectors` 512-byte sectors with one partition of the given type.
    fn gpt_disk(sectors: u64, partition_type: [u8; 16], boot_code: u8) -> Vec<u8> {
        let mut disk = vec![0_u8; sectors as usize * 512];
        disk[0] = boot_code;
        disk[446 + 4] = 0xee;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[1024..1040].copy_from_slice(&partition_type);
        let entries_crc = crc32(&disk[1024..1024 + 128 * 128]);
        let header = &mut disk[512..1024];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x10000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&1_u64.to_le_bytes());
        header[32..40].copy_from_slice(&(sectors - 1).to_le_bytes());
        header[72..80].copy_from_slice(&2_u64.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&entries_crc.to_le_bytes());
        let crc = crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        disk
    }

    #[test]
    fn an_esp_boots_uefi_and_boot_code_boots_bios() {
        let seen = |kind, code| inspect(&gpt_disk(100, kind, code), 51200).unwrap().boots_on;
        assert_eq!(seen(ESP, 0xeb), [FirmwareKind::Bios, FirmwareKind::Uefi]);
        assert_eq!(seen(ESP, 0), [FirmwareKind::Uefi]);
        assert_eq!(seen([1; 16], 0xeb), [FirmwareKind::Bios]);
        assert_eq!(seen([1; 16], 0), []);
    }

    #[test]
    fn an_mbr_disk_with_an_efi_partition_boots_uefi() {
        let mut disk = vec![0; 4096];
        disk[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0xef, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let layout = inspect(&disk, 4096).unwrap();
        assert_eq!(layout, Layout { boots_on: vec![FirmwareKind::Uefi], spans_bytes: 4096 });
        assert_eq!(inspect(&disk, 4095), Err(LayoutError::Truncated { spans: 4096, have: 4095 }));
    }

    #[test]
    fn a_disk_whose_backup_gpt_is_cut_off_is_truncated() {
        let disk = gpt_disk(100, ESP, 1);
        assert_eq!(inspect(&disk, 51199), Err(LayoutError::Truncated { spans: 51200, have: 51199 }));
    }

    #[test]
    fn a_damaged_gpt_is_an_error_and_not_a_guess() {
        let mut disk = gpt_disk(100, ESP, 1);
        disk[512 + 72] ^= 1;
        assert_eq!(inspect(&disk, 51200), Err(LayoutError::BadGpt("wrong checksum")));
        let mut disk = gpt_disk(100, ESP, 1);
        disk[1024] ^= 1;
        assert_eq!(inspect(&disk, 51200), Err(LayoutError::BadGpt("wrong checksum of the entries")));
    }

    #[test]
    fn nothing_is_said_about_a_disk_without_a_signature() {
        assert_eq!(inspect(&[0; 4096], 4096), Ok(Layout { boots_on: vec![], spans_bytes: 0 }));
        assert_eq!(inspect(&[], 0), Ok(Layout { boots_on: vec![], spans_bytes: 0 }));
    }

    proptest! {
        #[test]
        fn no_head_makes_it_panic(mut head in proptest::collection::vec(any::<u8>(), 0..6000), gpt in any::<bool>(), size in any::<u64>(), fix in any::<bool>()) {
            if head.len() >= 1024 {
                head[510..512].copy_from_slice(&[0x55, 0xaa]);
                if gpt {
                    head[512..520].copy_from_slice(b"EFI PART");
                    if fix {
                        head[524..528].copy_from_slice(&92_u32.to_le_bytes());
                        head[528..532].fill(0);
                        let crc = crc32(&head[512..604]);
                        head[528..532].copy_from_slice(&crc.to_le_bytes());
                    }
                }
            }
            let _seen = inspect(&head, size);
        }
    }
}
