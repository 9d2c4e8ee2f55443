//! What a file is, by its first bytes and never by its name: a name is the sender's claim, and believing it is how format
//! confusion reads other people's files (CVE-2024-44082).

use crate::artifact::SourceFormat;

/// How many bytes [`kind`] wants to see. Fewer are enough for smaller files.
pub const SNIFF_LEN: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something we take.
    Ours(SourceFormat),
    /// Something we know by name and do not take.
    Foreign(&'static str),
    Unknown,
}

/// `head`: the first [`SNIFF_LEN`] bytes, or the whole file if it is shorter.
///
/// A raw image is what carries the boot signature that MBR and GPT disks have in their first sector (UEFI 2.10, 5.2.1).
pub fn kind(head: &[u8]) -> Kind {
    const OURS: [(&[u8], SourceFormat); 3] = [
        (b"QFI\xfb", SourceFormat::Qcow2),           // QEMU docs/interop/qcow2.rst
        (b"\x28\xb5\x2f\xfd", SourceFormat::RawZst), // RFC 8878 3.1.1
        (b"\x1f\x8b\x08", SourceFormat::RawGz),      // RFC 1952 2.3.1, deflate
    ];
    const FOREIGN: [(usize, &[u8], &str); 15] = [
        (0, b"KDMV", "a VMDK image"),
        (0, b"COWD", "a VMDK image"),
        (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
        (0, b"vhdxfile", "a VHDX image"),
        (0, b"conectix", "a VHD image"),
        (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox VDI image"),
        (0, b"QED\0", "a QED image"),
        (0, b"LUKS\xba\xbe", "an encrypted LUKS volume"),
        (0, b"\xfd7zXZ\0", "packed with xz"),
        (0, b"BZh", "packed with bzip2"),
        (0, b"\x04\x22\x4d\x18", "packed with lz4"),
        (0, b"PK\x03\x04", "a zip archive"),
        (257, b"ustar", "a tar archive"),
        (0, b"MSWIM\0\0\0", "a Windows WIM file"),
        (0, b"<", "a web page or XML, not a disk image"),
    ];
    // Skippable frames (0x184D2A50 to 5F) may stand before the data: pzstd and the seekable format write them.
    if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] = head {
        return Kind::Ours(SourceFormat::RawZst);
    }
    if let Some((_, format)) = OURS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Kind::Ours(*format);
    }
    // Hybrid images carry other signatures further back, so the disk's own signature is looked at before the archives'.
    let foreign = FOREIGN.iter().find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    match (foreign, head.get(510..512)) {
        (Some((0 | 0x40, _, name)), _) => Kind::Foreign(name),
        (_, Some([0x55, 0xaa])) => Kind::Ours(SourceFormat::Raw),
        (Some((_, _, name)), _) => Kind::Foreign(name),
        (None, _) => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_first_bytes_say() {
        let mut disk = vec![0; 512];
        disk[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(kind(&disk), Kind::Ours(SourceFormat::Raw));
        assert_eq!(kind(b"QFI\xfb\0\0\0\x03"), Kind::Ours(SourceFormat::Qcow2));
        assert_eq!(kind(b"\x28\xb5\x2f\xfd"), Kind::Ours(SourceFormat::RawZst));
        assert_eq!(kind(b"\x5e\x2a\x4d\x18"), Kind::Ours(SourceFormat::RawZst));
        assert_eq!(kind(b"\x1f\x8b\x08\x00"), Kind::Ours(SourceFormat::RawGz));
        assert_eq!(kind(b"KDMV\x01"), Kind::Foreign("a VMDK image"));
        assert_eq!(kind(b"<!DOCTYPE html>"), Kind::Foreign("a web page or XML, not a disk image"));
        assert_eq!(kind(b""), Kind::Unknown);
        assert_eq!(kind(&[0; 512]), Kind::Unknown);
    }

    #[test]
    fn a_foreign_image_with_a_boot_signature_is_not_taken_as_raw() {
        let mut vdi = vec![0; 512];
        vdi[0x40..0x44].copy_from_slice(b"\x7f\x10\xda\xbe");
        vdi[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(kind(&vdi), Kind::Foreign("a VirtualBox VDI image"));
    }
}
