//! Reads qcow2 images, versions 2 and 3 (QEMU `docs/interop/qcow2.rst`), as one pass over the guest's disk.
//!
//! The file may come from anyone, so every number in it is checked before it is used: nothing is read outside the file,
//! no other file is ever opened (backing files and external data files are refused, CVE-2024-44082), and memory is bounded
//! by the level-1 table (at most 32 MiB, QEMU's own limit) plus two clusters (at most 2 MiB each).

use std::io::{self, Read, Seek, SeekFrom};

#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    #[error("the qcow2 file cannot be read")]
    Io(#[source] io::Error),
    #[error("the qcow2 header is damaged: {0}")]
    BadHeader(String),
    #[error("the qcow2 image {0}")]
    Unsupported(String),
    #[error("the qcow2 image is damaged: {0}")]
    Corrupt(String),
    #[error("the qcow2 file is truncated: {what} would end at byte {end}, the file has {len}")]
    Truncated { what: &'static str, end: u64, len: u64 },
}

/// An opened image. `R` must not change while it is read.
#[derive(Debug)]
pub struct Qcow2<R> {
    file: R,
    len: u64,
    /// Bytes of the disk that the guest sees.
    size: u64,
    cluster_bits: u32,
    packing: Packing,
    extended_l2: bool,
    version: u32,
    l1: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Deflate,
    Zstd,
}

/// One stretch of the guest's disk, in order and without gaps.
#[derive(Debug, PartialEq, Eq)]
pub enum Extent<'a> {
    Zeros(u64),
    Data(&'a [u8]),
}

/// Why a pass over the disk ended early: the image, or whoever took the extents.
#[derive(Debug)]
pub enum ReadError<E> {
    Image(Qcow2Error),
    Taker(E),
}

impl<E> From<Qcow2Error> for ReadError<E> {
    fn from(e: Qcow2Error) -> Self {
        Self::Image(e)
    }
}

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00; // bits 9-55 of L1 and L2 entries
const COMPRESSED: u64 = 1 << 62;
const MAX_L1_BYTES: u64 = 32 << 20;

fn be32(bytes: &[u8; 112], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be64(bytes: &[u8; 112], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

impl<R: Read + Seek> Qcow2<R> {
    /// Checks the header and reads the level-1 table.
    pub fn open(mut file: R, max_size: u64) -> Result<Self, Qcow2Error> {
        let len = file.seek(SeekFrom::End(0)).map_err(Qcow2Error::Io)?;
        if len < 72 {
            return Err(Qcow2Error::Truncated { what: "the header", end: 72, len });
        }
        let mut head = [0_u8; 112];
        let have = usize::try_from(len.min(112)).unwrap_or(112);
        read_at(&mut file, len, 0, &mut head[..have], "the header")?;
        if &head[..4] != b"QFI\xfb" {
            return Err(Qcow2Error::BadHeader("wrong magic".to_owned()));
        }
        let version = be32(&head, 4);
        if !matches!(version, 2 | 3) {
            return Err(Qcow2Error::Unsupported(format!("has version {version}; only 2 and 3 are known")));
        }
        if be64(&head, 8) != 0 || be32(&head, 16) != 0 {
            return Err(Qcow2Error::Unsupported("needs a backing file; flatten it first: qemu-img convert -O qcow2 IN OUT".to_owned()));
        }
        let cluster_bits = be32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Error::BadHeader(format!("cluster_bits is {cluster_bits}, allowed are 9 to 21")));
        }
        match be32(&head, 32) {
            0 => {}
            _ => return Err(Qcow2Error::Unsupported("is encrypted; decrypt it first with qemu-img convert".to_owned())),
        }
        let (mut incompatible, mut packing) = (0, Packing::Deflate);
        if version == 3 {
            let header_length = be32(&head, 100);
            if len < 104 || header_length < 104 || u64::from(header_length) > len || !header_length.is_multiple_of(8) {
                return Err(Qcow2Error::BadHeader(format!("header_length is {header_length}")));
            }
            incompatible = be64(&head, 72);
            if incompatible & 1 << 3 != 0 {
                packing = match (header_length > 104, head[104]) {
                    (true, 1) => Packing::Zstd,
                    (true, 0) | (false, _) => {
                        return Err(Qcow2Error::BadHeader("it says another compression, and then deflate".to_owned()));
                    }
                    (true, other) => {
                        return Err(Qcow2Error::Unsupported(format!("uses compression type {other}; only deflate and zstd are known")));
                    }
                };
            } else if header_length > 104 && head[104] != 0 {
                return Err(Qcow2Error::BadHeader("it names a compression without the feature bit for it".to_owned()));
            }
        }
        if incompatible & 1 << 1 != 0 {
            return Err(Qcow2Error::Corrupt("it is marked corrupt; try qemu-img check -r all".to_owned()));
        }
        if incompatible & 1 << 2 != 0 {
            return Err(Qcow2Error::Unsupported(
                "keeps its data in another file; flatten it first: qemu-img convert -O qcow2 IN OUT".to_owned(),
            ));
        }
        // Bit 0 (dirty) concerns reference counts, which a reader does not use; 3 and 4 are understood.
        let unknown = incompatible & !0b11011;
        if unknown != 0 {
            return Err(Qcow2Error::Unsupported(format!("needs unknown features (bits {unknown:#x})")));
        }
        let extended_l2 = incompatible & 1 << 4 != 0;
        if extended_l2 && cluster_bits < 14 {
            return Err(Qcow2Error::BadHeader("subclusters need clusters of at least 16 KiB".to_owned()));
        }
        let size = be64(&head, 24);
        if size > max_size {
            return Err(Qcow2Error::Unsupported(format!("describes a disk of {size} bytes; the limit is {max_size}")));
        }
        let l2_bits = cluster_bits - if extended_l2 { 4 } else { 3 };
        let needed = size.div_ceil(1 << (cluster_bits + l2_bits));
        let l1_size = u64::from(be32(&head, 36));
        if l1_size < needed || needed * 8 > MAX_L1_BYTES {
            return Err(Qcow2Error::BadHeader(format!("its level-1 table has {l1_size} entries, the disk needs {needed}")));
        }
        let l1_offset = be64(&head, 40);
        if needed > 0 && !l1_offset.is_multiple_of(1 << cluster_bits) {
            return Err(Qcow2Error::BadHeader("its level-1 table is not at a cluster".to_owned()));
        }
        let mut table = vec![0; usize::try_from(needed * 8).unwrap_or(0)];
        read_at(&mut file, len, l1_offset, &mut table, "the level-1 table")?;
        let l1 = entries(&table).collect();
        Ok(Self { file, len, size, cluster_bits, packing, extended_l2, version, l1 })
    }

    /// Bytes of the guest's disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Hands the whole disk to `take`, from its first byte to its last. Data comes in pieces of at most one cluster.
    pub fn read_all<E>(&mut self, mut take: impl FnMut(Extent<'_>) -> Result<(), E>) -> Result<(), ReadError<E>> {
        let cluster = 1_u64 << self.cluster_bits;
        let (mut at, mut zeros) = (0_u64, 0_u64);
        let mut table = vec![0_u8; usize::try_from(cluster).unwrap_or(0)];
        let mut data = vec![0_u8; usize::try_from(cluster).unwrap_or(0)];
        let entry_len = if self.extended_l2 { 16 } else { 8 };
        let per_table = cluster / entry_len;
        for index in 0..self.l1.len() {
            let l2_offset = self.l1[index] & OFFSET_MASK;
            let span = (per_table * cluster).min(self.size - at);
            if l2_offset == 0 {
                zeros += span;
                at += span;
                continue;
            }
            self.check_aligned(l2_offset, "a level-2 table")?;
            read_at(&mut self.file, self.len, l2_offset, &mut table, "a level-2 table")?;
            let table_end = at + span;
            for entry in table.chunks_exact(usize::try_from(entry_len).unwrap_or(8)) {
                if at >= table_end {
                    break;
                }
                let want = usize::try_from(cluster.min(table_end - at)).unwrap_or(0);
                let mut words = entries(entry);
                let (word, bitmap) = (words.next().unwrap_or(0), words.next());
                let mut take_data = |zeros: &mut u64, piece: &[u8]| -> Result<(), E> {
                    if *zeros > 0 {
                        take(Extent::Zeros(*zeros))?;
                        *zeros = 0;
                    }
                    take(Extent::Data(piece))
                };
                if word & COMPRESSED != 0 {
                    if bitmap.unwrap_or(0) != 0 {
                        return Err(Qcow2Error::Corrupt("a compressed cluster has subclusters".to_owned()).into());
                    }
                    self.unpack(word, &mut data)?;
                    take_data(&mut zeros, &data[..want]).map_err(ReadError::Taker)?;
                } else if let Some(bitmap) = bitmap {
                    self.read_subclusters(word, bitmap, &mut data[..want])?;
                    take_data(&mut zeros, &data[..want]).map_err(ReadError::Taker)?;
                } else {
                    let offset = word & OFFSET_MASK;
                    // Version 2 has no zero flag: the bit is reserved there.
                    if offset == 0 || (word & 1 != 0 && self.version >= 3) {
                        zeros += want as u64;
                    } else {
                        self.check_aligned(offset, "a data cluster")?;
                        // The file may end within the last cluster of the disk, not before its last byte.
                        read_at(&mut self.file, self.len, offset, &mut data[..want], "a data cluster")?;
                        take_data(&mut zeros, &data[..want]).map_err(ReadError::Taker)?;
                    }
                }
                at += want as u64;
            }
        }
        if zeros > 0 {
            take(Extent::Zeros(zeros)).map_err(ReadError::Taker)?;
        }
        Ok(())
    }

    fn check_aligned(&self, offset: u64, what: &'static str) -> Result<(), Qcow2Error> {
        if !offset.is_multiple_of(1 << self.cluster_bits) {
            return Err(Qcow2Error::Corrupt(format!("{what} is not at a cluster (offset {offset})")));
        }
        Ok(())
    }

    /// Extended level-2 entries: bits 0-31 of the bitmap say which of the 32 subclusters hold data, 32-63 which are zero.
    fn read_subclusters(&mut self, word: u64, bitmap: u64, out: &mut [u8]) -> Result<(), Qcow2Error> {
        let offset = word & OFFSET_MASK;
        let (held, zero) = (bitmap & 0xffff_ffff, bitmap >> 32);
        if held & zero != 0 || (offset == 0 && held != 0) || word & 1 != 0 {
            return Err(Qcow2Error::Corrupt("a subcluster is data and is not".to_owned()));
        }
        self.check_aligned(offset, "a data cluster")?;
        let sub = 1_usize << (self.cluster_bits - 5);
        for (i, piece) in out.chunks_mut(sub).enumerate() {
            if held >> i & 1 == 1 {
                read_at(&mut self.file, self.len, offset + (i * sub) as u64, piece, "a subcluster")?;
            } else {
                piece.fill(0);
            }
        }
        Ok(())
    }

    /// "Compressed Clusters Descriptor": host offset in the low bits, number of further 512-byte sectors above.
    fn unpack(&mut self, word: u64, out: &mut [u8]) -> Result<(), Qcow2Error> {
        let x = 62 - (self.cluster_bits - 8);
        let descriptor = word & (COMPRESSED - 1);
        let offset = descriptor & ((1 << x) - 1);
        let sectors = (descriptor >> x) + 1;
        let size = sectors * 512 - (offset & 511);
        let Some(left) = self.len.checked_sub(offset).filter(|left| *left > 0) else {
            return Err(Qcow2Error::Truncated { what: "a compressed cluster", end: offset + size, len: self.len });
        };
        // The last sector may be named without being there whole: the stream itself tells where it ends.
        let mut packed = vec![0; usize::try_from(size.min(left)).unwrap_or(0)];
        read_at(&mut self.file, self.len, offset, &mut packed, "a compressed cluster")?;
        let read = match self.packing {
            Packing::Deflate => flate2::read::DeflateDecoder::new(&packed[..]).read_exact(out),
            Packing::Zstd => zstd::stream::read::Decoder::new(&packed[..]).and_then(|d| d.single_frame().read_exact(out)),
        };
        read.map_err(|e| match size > left {
            true => Qcow2Error::Truncated { what: "a compressed cluster", end: offset + size, len: self.len },
            false => Qcow2Error::Corrupt(format!("a compressed cluster at byte {offset} cannot be unpacked ({e})")),
        })
    }
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> + '_ {
    table.chunks_exact(8).map(|e| u64::from_be_bytes([e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7]]))
}

/// Fills `out` from `offset`, after checking that all of it lies in the file.
fn read_at<R: Read + Seek>(file: &mut R, len: u64, offset: u64, out: &mut [u8], what: &'static str) -> Result<(), Qcow2Error> {
    let end = offset.saturating_add(out.len() as u64);
    if end > len {
        return Err(Qcow2Error::Truncated { what, end, len });
    }
    file.seek(SeekFrom::Start(offset)).map_err(Qcow2Error::Io)?;
    file.read_exact(out).map_err(Qcow2Error::Io)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use proptest::prelude::*;

    use super::*;

    const CLUSTER: usize = 512;

    /// A version 3 image with 512-byte clusters and a disk of 40 KiB: cluster 0 data, 1 deflated, 2 zero, 3 absent, then
    /// nothing, and in the second level-2 table its cluster 3 (disk byte 34304) data.
    fn sample() -> (Vec<u8>, Vec<u8>) {
        let mut file = vec![0; CLUSTER * 8];
        file[..4].copy_from_slice(b"QFI\xfb");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(4, &3_u32.to_be_bytes());
        put(20, &9_u32.to_be_bytes());
        put(24, &(40_u64 * 1024).to_be_bytes());
        put(36, &2_u32.to_be_bytes());
        put(40, &512_u64.to_be_bytes());
        put(100, &112_u32.to_be_bytes());
        put(512, &(1024_u64 | 1 << 63).to_be_bytes());
        put(520, &(1536_u64 | 1 << 63).to_be_bytes());
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        deflate.write_all(&[7; CLUSTER]).unwrap();
        let deflated = deflate.finish().unwrap();
        put(2560, &deflated);
        put(1024, &(2048_u64 | 1 << 63).to_be_bytes());
        put(1032, &(2560_u64 | COMPRESSED).to_be_bytes());
        put(1040, &(2048_u64 | 1).to_be_bytes());
        put(1536 + 24, &(3072_u64 | 1 << 63).to_be_bytes());
        put(2048, &[1; CLUSTER]);
        put(3072, &[9; CLUSTER]);
        let mut disk = vec![0; 40 * 1024];
        disk[..512].fill(1);
        disk[512..1024].fill(7);
        disk[32768 + 1536..32768 + 2048].fill(9);
        (file, disk)
    }

    fn unpack(file: &[u8]) -> Result<Vec<u8>, Qcow2Error> {
        let mut image = Qcow2::open(Cursor::new(file), 1 << 20)?;
        let mut disk = Vec::new();
        let read = image.read_all(|extent| {
            match extent {
                Extent::Data(bytes) => disk.extend_from_slice(bytes),
                Extent::Zeros(n) => disk.resize(disk.len() + usize::try_from(n).map_err(drop)?, 0),
            }
            Ok::<(), ()>(())
        });
        match read {
            Ok(()) => Ok(disk),
            Err(ReadError::Image(e)) => Err(e),
            Err(ReadError::Taker(())) => panic!("nothing failed there"),
        }
    }

    fn patched(at: usize, bytes: &[u8]) -> Result<Vec<u8>, Qcow2Error> {
        let (mut file, _) = sample();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        unpack(&file)
    }

    #[test]
    fn data_deflated_zero_and_absent_clusters_make_the_disk() {
        let (file, disk) = sample();
        assert_eq!(unpack(&file).unwrap(), disk);
    }

    #[test]
    fn an_image_that_needs_another_file_is_refused() {
        assert!(matches!(patched(8, &2048_u64.to_be_bytes()), Err(Qcow2Error::Unsupported(_))), "backing file");
        assert!(matches!(patched(16, &9_u32.to_be_bytes()), Err(Qcow2Error::Unsupported(_))), "length of a backing file's name");
        assert!(matches!(patched(72, &(1_u64 << 2).to_be_bytes()), Err(Qcow2Error::Unsupported(_))), "external data file");
    }

    #[test]
    fn what_we_cannot_read_right_is_refused_and_not_read_wrong() {
        assert!(matches!(patched(4, &4_u32.to_be_bytes()), Err(Qcow2Error::Unsupported(_))), "version");
        assert!(matches!(patched(32, &2_u32.to_be_bytes()), Err(Qcow2Error::Unsupported(_))), "LUKS");
        assert!(matches!(patched(72, &(1_u64 << 7).to_be_bytes()), Err(Qcow2Error::Unsupported(_))), "unknown feature");
        assert!(matches!(patched(72, &(1_u64 << 1).to_be_bytes()), Err(Qcow2Error::Corrupt(_))), "corrupt bit");
        assert!(matches!(patched(72, &(1_u64 << 3).to_be_bytes()), Err(Qcow2Error::BadHeader(_))), "compression type bit without a type");
    }

    #[test]
    fn impossible_numbers_are_refused_before_memory_is_taken() {
        assert!(matches!(patched(24, &u64::MAX.to_be_bytes()), Err(Qcow2Error::Unsupported(_))), "disk size");
        assert!(matches!(patched(20, &63_u32.to_be_bytes()), Err(Qcow2Error::BadHeader(_))), "cluster bits");
        assert!(matches!(patched(36, &1_u32.to_be_bytes()), Err(Qcow2Error::BadHeader(_))), "level-1 table too small");
        assert!(matches!(patched(40, &(1_u64 << 60).to_be_bytes()), Err(Qcow2Error::Truncated { .. })), "level-1 table outside");
        assert!(matches!(patched(512, &(1_u64 << 40).to_be_bytes()), Err(Qcow2Error::Truncated { .. })), "level-2 table outside");
        assert!(matches!(patched(1024, &(1_u64 << 40).to_be_bytes()), Err(Qcow2Error::Truncated { .. })), "data outside");
        assert!(matches!(patched(1032, &(COMPRESSED | 1 << 40).to_be_bytes()), Err(Qcow2Error::Truncated { .. })), "packed data outside");
        assert!(matches!(patched(1032, &(COMPRESSED | 2048).to_be_bytes()), Err(Qcow2Error::Corrupt(_))), "packed data that is none");
    }

    #[test]
    fn a_file_cut_before_its_last_used_byte_is_truncated() {
        let (file, disk) = sample();
        for len in 0..3072 + CLUSTER {
            assert!(unpack(&file[..len]).is_err(), "cut at {len}");
        }
        assert_eq!(unpack(&file[..3072 + CLUSTER]).unwrap(), disk);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_damage_makes_it_panic_or_give_a_disk_of_another_size(
            damage in proptest::collection::vec((0..3584_usize, any::<u8>()), 1..12),
            tables in proptest::collection::vec((prop_oneof![0..14_usize, 64..66_usize, 128..136_usize, 192..200_usize], any::<u64>(), 0..64_u32), 0..4),
            len in 0..4096_usize,
        ) {
            let (mut file, _) = sample();
            for (at, byte) in damage {
                file[at] = byte;
            }
            for (index, word, shift) in tables {
                file[index * 8..index * 8 + 8].copy_from_slice(&(word >> shift).to_be_bytes());
            }
            file[..4].copy_from_slice(b"QFI\xfb");
            for cut in [len, file.len()] {
                if let Ok(mut image) = Qcow2::open(Cursor::new(&file[..cut]), 1 << 20) {
                    let mut seen = 0;
                    let read = image.read_all(|extent| {
                        seen += match extent { Extent::Data(b) => b.len() as u64, Extent::Zeros(n) => n };
                        Ok::<(), ()>(())
                    });
                    prop_assert!(seen <= image.size());
                    prop_assert!(read.is_err() || seen == image.size());
                }
            }
        }
    }
}
