//! Where an image or zeros go: a whole disk, or a plain file for tests and benches.
//!
//! A disk is opened with O_EXCL (Linux: fails with EBUSY while it or a partition of it is mounted or claimed) and
//! O_DIRECT, so that what is read back comes from the device and memory use does not grow with the image.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

use crate::agent::task::TaskError;

/// O_DIRECT wants buffers, offsets and lengths in multiples of the logical block; 4096 serves 512 and 4096.
pub const ALIGN: usize = 4096;

/// Memory whose start is aligned for O_DIRECT.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, start, len }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// How a range is made to read as zeros. Tried in this order; the first that works is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// A new file: what was never written reads as zeros.
    Sparse,
    /// `fallocate(PUNCH_HOLE)`: on a block device the kernel lets the device do it (WRITE ZEROES, WRITE SAME) and fails
    /// rather than guess; a discard that only may zero is never used (block/fops.c, BLKDEV_ZERO_NOFALLBACK).
    Device,
    /// `fallocate(ZERO_RANGE)`: the kernel writes zeros.
    Kernel,
    /// We write zeros.
    Written,
}

impl Zeroing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sparse => "sparse file",
            Self::Device => "device zeroes (fallocate PUNCH_HOLE)",
            Self::Kernel => "kernel zeroes (fallocate ZERO_RANGE)",
            Self::Written => "zeros written",
        }
    }

    fn from_u8(n: u8) -> Self {
        match n {
            0 => Self::Sparse,
            1 => Self::Device,
            2 => Self::Kernel,
            _ => Self::Written,
        }
    }
}

pub struct Target {
    file: File,
    block_bytes: u64,
    size_bytes: u64,
    zeroing: AtomicU8,
}

impl Target {
    /// Opens a whole disk for writing, alone.
    ///
    /// # Errors
    /// `write` if it is in use or cannot be opened; `disk_mismatch` if its size is not `size_bytes`.
    pub fn disk(path: &Path, size_bytes: u64, block_bytes: u32) -> Result<Self, TaskError> {
        let name = path.display();
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL | libc::O_DIRECT | libc::O_CLOEXEC).open(path).map_err(
                |e| match Errno::from_raw(e.raw_os_error().unwrap_or(0)) {
                    Errno::EBUSY => TaskError::for_good(
                        "write",
                        format!("{name} is in use (mounted, or part of a RAID or volume group); nothing was written"),
                    ),
                    _ => TaskError::for_good("write", format!("cannot open {name} for writing: {e}")),
                },
            )?;
        let metadata = file.metadata().map_err(|e| TaskError::for_good("write", format!("cannot look at {name}: {e}")))?;
        if !metadata.file_type().is_block_device() {
            return Err(TaskError::for_good("disk_mismatch", format!("{name} is not a block device")));
        }
        let found = end_of(&file).map_err(|e| TaskError::for_good("write", format!("cannot find the size of {name}: {e}")))?;
        if found != size_bytes {
            return Err(TaskError::for_good(
                "disk_mismatch",
                format!("{name} has {found} bytes, but {size_bytes} were expected; nothing was written"),
            ));
        }
        Ok(Self { file, block_bytes: u64::from(block_bytes.max(512)), size_bytes, zeroing: AtomicU8::new(Zeroing::Device as u8) })
    }

    /// Makes (or empties) a plain file of `size_bytes`.
    ///
    /// # Errors
    /// `write`.
    pub fn file(path: &Path, size_bytes: u64) -> Result<Self, TaskError> {
        let fail = |e: io::Error| TaskError::for_good("write", format!("cannot make {}: {e}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map_err(fail)?;
        file.set_len(size_bytes).map_err(fail)?;
        Ok(Self { file, block_bytes: 512, size_bytes, zeroing: AtomicU8::new(Zeroing::Sparse as u8) })
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Logical block: the unit of every offset and length on a disk.
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    pub fn zeroing(&self) -> Zeroing {
        Zeroing::from_u8(self.zeroing.load(Ordering::Relaxed))
    }

    /// Device number, to tell whether a path still means the disk that was opened.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn device_number(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.rdev())
    }

    pub fn file_ref(&self) -> &File {
        &self.file
    }

    /// # Errors
    /// As the kernel says.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// # Errors
    /// As the kernel says; `UnexpectedEof` beyond the end.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Makes `len` bytes from `offset` read as zeros, whatever was there before.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let (Ok(from), Ok(count)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            let (tried, next) = match self.zeroing() {
                Zeroing::Sparse => return Ok(()),
                Zeroing::Device => (fallocate(&self.file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep, from, count), Zeroing::Kernel),
                Zeroing::Kernel => (fallocate(&self.file, FallocateFlags::FALLOC_FL_ZERO_RANGE | keep, from, count), Zeroing::Written),
                Zeroing::Written => return self.write_zeros(offset, len),
            };
            match tried {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                // Not offered, or offered and refused: some bridges claim WRITE SAME and fail it with EREMOTEIO or EIO.
                Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EREMOTEIO | Errno::EIO | Errno::ENOSYS) => {
                    self.zeroing.store(next as u8, Ordering::Relaxed);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Overwrites with zeros from here, without asking the device for a short cut.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = Buffer::new(1 << 20);
        let mut at = offset;
        while at < offset + len {
            let n = (offset + len - at).min(1 << 20);
            self.write_at(&zeros.as_slice()[..n as usize], at)?;
            at += n;
        }
        Ok(())
    }

    /// Everything written is on stable storage.
    ///
    /// # Errors
    /// As the kernel says; a write error of the device may show up here first.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Forgets cached pages, so that the next read asks the device. O_DIRECT reads do so anyway; this is for files.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn drop_cache(&self) -> io::Result<()> {
        nix::fcntl::posix_fadvise(&self.file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    }
}

/// The size of an open file or block device.
fn end_of(file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Slices compare by memcmp, which is vectorised in every libc.
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
