//! Writes an image stream to a target: hash of the file, unpack, hash of what is unpacked, skip holes, write, read back.
//!
//! ```text
//! source -> sha256(file) -> unpack --+--> sha256(unpacked)          three threads, blocks of 1 MiB shared between
//!                                    +--> holes / writes + crc32    them, at most QUEUE blocks waiting
//! ```
//! The first and the last MiB of the image are written after all else was hashed, written and read back. Until then the
//! disk has zeros there: no partition table, at neither end. So a power cut, a wrong hash or a torn download never
//! leaves half a system that boots.
//!
//! Holes: runs of zeros of at least 64 KiB are not sent to the disk; the range is made to read as zeros
//! ([`Target::zero`]), so old data does not show through. Read back: every written byte (crc32 per piece, enough
//! against a disk that lies; the sha256 says what should be there), and of each hole its start, middle and end.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::Digest;

use crate::agent::link::Progress;
use crate::agent::task::TaskError;
use crate::agent::task::target::{Buffer, Target, is_zero};
use crate::domain::id::Sha256;
use crate::domain::image::ImageFormat;

/// One block of unpacked bytes. Also what is held back at both ends of the image.
pub const BLOCK: usize = 1 << 20;
/// Shortest run of zeros that is left out.
const GRAIN: usize = 64 << 10;
/// Blocks that may wait before the hash and before the writer: 2 x 8 MiB at most.
const QUEUE: usize = 8;
/// Holes of which samples are read back; beyond that every n-th.
const MAX_HOLES_SAMPLED: usize = 1024;

/// What the stream must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub format: ImageFormat,
    pub size_bytes: u64,
    pub sha256: Sha256,
    pub raw_size_bytes: u64,
    pub raw_sha256: Sha256,
}

/// What was written, for the evidence.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    pub raw_bytes: u64,
    pub data_bytes: u64,
    pub hole_bytes: u64,
    pub holes_by: &'static str,
    /// Data read back and found as written.
    pub read_back_bytes: u64,
    /// Pieces of holes read back and found to be zero.
    pub hole_samples: u64,
}

/// Unpacked bytes at their place in the image.
struct Block {
    buffer: Buffer,
    offset: u64,
    len: usize,
}

impl Block {
    fn bytes(&self) -> &[u8] {
        &self.buffer.as_slice()[..self.len]
    }
}

/// A piece that was written, and what must be read back.
struct Extent {
    offset: u64,
    len: u32,
    crc: u32,
}

/// Writes the stream `source` to `target` as `spec` says.
///
/// # Errors
/// `disk_too_small` before anything is written; `decompress`, `truncated`, `hash_mismatch`, `download`, `write`,
/// `read_back`, `cancelled` with a target that has no partition table.
pub fn write_image<R: Read + Send>(source: R, target: &Target, spec: &Spec, progress: &Progress) -> Result<Written, TaskError> {
    let padded = spec.raw_size_bytes.next_multiple_of(target.block_bytes());
    if padded > target.size_bytes() {
        return Err(TaskError::for_good(
            "disk_too_small",
            format!("the image needs {} bytes, the disk has {}; nothing was written", spec.raw_size_bytes, target.size_bytes()),
        ));
    }
    if spec.raw_size_bytes == 0 {
        return Err(TaskError::for_good("refused", "the order names an empty image; nothing was written"));
    }
    clear_ends(target)?;
    stream(source, target, spec, progress).map_err(|mut e| {
        // The ends are written last, so they hold zeros unless the last step itself failed. Zero them whatever happened.
        if let Err(also) = clear_ends(target) {
            e.message = format!("{e}; and {also}");
        }
        e
    })
}

fn stream<R: Read + Send>(source: R, target: &Target, spec: &Spec, progress: &Progress) -> Result<Written, TaskError> {
    let trouble: Mutex<Option<TaskError>> = Mutex::new(None);
    let mut writer = Writer::new(target, spec, progress);
    let (file_sha, raw_sha, written) = std::thread::scope(|scope| {
        let (to_hash, hash_queue) = mpsc::sync_channel::<Arc<Block>>(QUEUE);
        let (to_write, write_queue) = mpsc::sync_channel::<Arc<Block>>(QUEUE);
        let (used, spare) = mpsc::channel::<Buffer>();
        let trouble = &trouble;
        let unpacker = scope.spawn(move || unpack(source, spec, trouble, [&to_hash, &to_write], &spare));
        let used_by_hash = used.clone();
        let hasher = scope.spawn(move || hash(&hash_queue, &used_by_hash));
        let written = writer.run(&write_queue, &used);
        // Dropping the queues ends the unpacker if the writer stopped early.
        drop((write_queue, used));
        let file_sha = unpacker.join().unwrap_or_else(|_| Err(TaskError::for_now("internal", "the unpacking thread died")));
        let raw_sha = hasher.join().map_err(|_| TaskError::for_now("internal", "the hashing thread died"));
        (file_sha, raw_sha, written)
    });
    // The writer's error is the cause if it has one: the unpacker then only found its queue closed.
    written?;
    let file_sha = file_sha?;
    expect_hash("file", spec.sha256, file_sha)?;
    expect_hash("unpacked image", spec.raw_sha256, raw_sha?)?;
    writer.finish()
}

fn expect_hash(what: &str, expected: Sha256, found: Sha256) -> Result<(), TaskError> {
    if expected == found {
        return Ok(());
    }
    Err(TaskError::for_good(
        "hash_mismatch",
        format!("the {what} has sha256 {found}, but {expected} was expected; the disk was left without a partition table"),
    ))
}

/// Zeros where partition tables are, so that nothing on the disk boots from here on.
fn clear_ends(target: &Target) -> Result<(), TaskError> {
    let size = target.size_bytes();
    let end = (BLOCK as u64).min(size);
    let fail = |e: io::Error| TaskError::for_good("write", format!("the partition table cannot be cleared: {e}"));
    target.zero(0, end).map_err(fail)?;
    target.zero(size - end, end).map_err(fail)?;
    target.sync().map_err(fail)
}

fn hash(queue: &Receiver<Arc<Block>>, used: &Sender<Buffer>) -> Sha256 {
    let mut sha = sha2::Sha256::new();
    for block in queue {
        sha.update(block.bytes());
        recycle(block, used);
    }
    Sha256(sha.finalize().into())
}

/// Gives the buffer back if this was the last user of the block.
fn recycle(block: Arc<Block>, used: &Sender<Buffer>) {
    if let Some(block) = Arc::into_inner(block) {
        // A closed queue only means that the unpacker is done and wants no more buffers.
        drop(used.send(block.buffer));
    }
}

/// Reads the source to its end, hands out unpacked blocks, returns the hash of the file.
fn unpack<R: Read + Send>(
    source: R,
    spec: &Spec,
    trouble: &Mutex<Option<TaskError>>,
    queues: [&SyncSender<Arc<Block>>; 2],
    spare: &Receiver<Buffer>,
) -> Result<Sha256, TaskError> {
    let mut source = Hashing { inner: source, sha: sha2::Sha256::new(), count: 0, limit: spec.size_bytes, trouble };
    let fed = match spec.format {
        ImageFormat::Raw => feed(&mut source, spec, queues, spare),
        ImageFormat::RawGz => feed(&mut flate2::read::MultiGzDecoder::new(&mut source), spec, queues, spare),
        ImageFormat::RawZst => match zstd::stream::read::Decoder::new(&mut source) {
            Ok(mut decoder) => feed(&mut decoder, spec, queues, spare),
            Err(e) => Err(Stop::Unpack(e)),
        },
    };
    // A failed download shows up as a broken stream: name the cause, not the symptom.
    if let Some(cause) = trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(cause);
    }
    match fed {
        Ok(()) => {}
        Err(Stop::Failed(e)) => return Err(e),
        Err(Stop::Unpack(e)) => {
            return Err(TaskError::for_good("decompress", format!("the image cannot be unpacked as {}: {e}", spec.format)));
        }
    }
    if source.count < spec.size_bytes {
        return Err(TaskError::for_good("truncated", format!("the image file ended after {} of {} bytes", source.count, spec.size_bytes)));
    }
    Ok(Sha256(source.sha.finalize().into()))
}

enum Stop {
    Unpack(io::Error),
    Failed(TaskError),
}

fn feed<R: Read>(decoder: &mut R, spec: &Spec, queues: [&SyncSender<Arc<Block>>; 2], spare: &Receiver<Buffer>) -> Result<(), Stop> {
    let mut offset = 0;
    loop {
        let mut buffer = spare.try_recv().unwrap_or_else(|_| Buffer::new(BLOCK));
        let len = fill(decoder, buffer.as_mut_slice()).map_err(Stop::Unpack)?;
        if offset + len as u64 > spec.raw_size_bytes {
            let message = format!("the image unpacks to more than the {} bytes it should have", spec.raw_size_bytes);
            return Err(Stop::Failed(TaskError::for_good("decompress", message)));
        }
        if len == 0 {
            break;
        }
        let block = Arc::new(Block { buffer, offset, len });
        offset += len as u64;
        for queue in queues {
            if queue.send(Arc::clone(&block)).is_err() {
                return Err(Stop::Failed(TaskError::for_now("internal", "writing ended before unpacking did")));
            }
        }
        if len < BLOCK {
            break;
        }
    }
    if offset < spec.raw_size_bytes {
        let message = format!("the image unpacks to {offset} bytes, but {} were expected", spec.raw_size_bytes);
        return Err(Stop::Failed(TaskError::for_good("truncated", message)));
    }
    Ok(())
}

/// Reads until the buffer is full or the stream ends.
fn fill<R: Read>(reader: &mut R, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

/// Hashes and counts what passes; never lets more pass than the file should have.
struct Hashing<'a, R> {
    inner: R,
    sha: sha2::Sha256,
    count: u64,
    limit: u64,
    trouble: &'a Mutex<Option<TaskError>>,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.inner.read(buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                let cause = e.get_ref().and_then(|inner| inner.downcast_ref::<TaskError>()).cloned();
                let cause = cause.unwrap_or_else(|| TaskError::for_now("download", format!("the image cannot be read: {e}")));
                *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
                return Err(e);
            }
        };
        self.count += n as u64;
        if self.count > self.limit {
            let cause =
                TaskError::for_good("hash_mismatch", format!("the image file is longer than the {} bytes it should have", self.limit));
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.sha.update(&buffer[..n]);
        Ok(n)
    }
}

struct Writer<'a> {
    target: &'a Target,
    spec: &'a Spec,
    progress: &'a Progress,
    extents: Vec<Extent>,
    holes: Vec<Range<u64>>,
    /// Blocks at the ends of the image, written last: highest offset first.
    held: Vec<(u64, Buffer, usize)>,
    data_bytes: u64,
}

impl<'a> Writer<'a> {
    fn new(target: &'a Target, spec: &'a Spec, progress: &'a Progress) -> Self {
        Self { target, spec, progress, extents: Vec::new(), holes: Vec::new(), held: Vec::new(), data_bytes: 0 }
    }

    fn run(&mut self, queue: &Receiver<Arc<Block>>, used: &Sender<Buffer>) -> Result<(), TaskError> {
        let total = self.spec.raw_size_bytes;
        for block in queue {
            if self.progress.is_cancelled() {
                return Err(TaskError::cancelled());
            }
            let end = block.offset + block.len as u64;
            if block.offset == 0 || end + BLOCK as u64 > total {
                let mut copy = Buffer::new(BLOCK);
                copy.as_mut_slice()[..block.len].copy_from_slice(block.bytes());
                self.held.push((block.offset, copy, block.len));
            } else {
                self.put(block.bytes(), block.offset).map_err(|e| self.write_error(block.offset, &e))?;
            }
            recycle(block, used);
            self.progress.report("write", end, total);
        }
        self.flush_hole(u64::MAX).map_err(|e| self.write_error(total, &e))
    }

    /// Writes the data in `bytes` and notes the holes. `bytes` is whole logical blocks, but for the end of the image.
    fn put(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut run: Option<usize> = None;
        for start in (0..bytes.len()).step_by(GRAIN) {
            let grain = &bytes[start..bytes.len().min(start + GRAIN)];
            if !is_zero(grain) {
                run.get_or_insert(start);
                continue;
            }
            if let Some(from) = run.take() {
                self.put_data(&bytes[from..start], offset + from as u64)?;
            }
            self.note_hole(offset + start as u64, grain.len() as u64)?;
        }
        match run {
            Some(from) => self.put_data(&bytes[from..], offset + from as u64),
            None => Ok(()),
        }
    }

    fn put_data(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.target.write_at(bytes, offset)?;
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.extents.push(Extent { offset, len, crc: crc32fast::hash(bytes) });
        self.data_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Lets a hole grow while zeros follow zeros; one call to the disk per hole, not per grain.
    fn note_hole(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match self.holes.last_mut() {
            Some(hole) if hole.end == offset => {
                hole.end += len;
                Ok(())
            }
            _ => {
                self.flush_hole(offset)?;
                self.holes.push(offset..offset + len);
                Ok(())
            }
        }
    }

    /// Zeroes the newest hole on the target unless it goes on at `next`.
    fn flush_hole(&mut self, next: u64) -> io::Result<()> {
        match self.holes.last() {
            Some(hole) if hole.end != next => self.target.zero(hole.start, hole.end - hole.start),
            _ => Ok(()),
        }
    }

    fn write_error(&self, offset: u64, e: &io::Error) -> TaskError {
        TaskError::for_good("write", format!("the disk failed to write near byte {offset}: {e}; it was left without a partition table"))
    }

    /// Reads back what was written, then completes the image with its two ends.
    fn finish(mut self) -> Result<Written, TaskError> {
        let total = self.spec.raw_size_bytes;
        self.target.sync().map_err(|e| self.write_error(total, &e))?;
        self.target.drop_cache().map_err(|e| self.write_error(total, &e))?;
        let mut read_back_bytes = self.read_back()?;
        let hole_samples = self.sample_holes()?;
        // From here on the image is complete but for the blocks that make it boot: the last MiB, then the first.
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|(offset, ..)| std::cmp::Reverse(*offset));
        for (offset, buffer, len) in &held {
            let padded = len.next_multiple_of(usize::try_from(self.target.block_bytes()).unwrap_or(BLOCK));
            let len = if self.target.size_bytes() >= offset + padded as u64 { padded } else { *len };
            let mut check = Buffer::new(BLOCK);
            self.target.write_at(&buffer.as_slice()[..len], *offset).map_err(|e| self.write_error(*offset, &e))?;
            self.target.sync().map_err(|e| self.write_error(*offset, &e))?;
            self.target.read_at(&mut check.as_mut_slice()[..len], *offset).map_err(|e| read_error(*offset, &e))?;
            if check.as_slice()[..len] != buffer.as_slice()[..len] {
                return Err(differs(*offset));
            }
            read_back_bytes += len as u64;
            self.data_bytes += len as u64;
        }
        Ok(Written {
            raw_bytes: total,
            data_bytes: self.data_bytes,
            hole_bytes: self.holes.iter().map(|hole| hole.end - hole.start).sum(),
            holes_by: self.target.zeroing().as_str(),
            read_back_bytes,
            hole_samples,
        })
    }

    fn read_back(&self) -> Result<u64, TaskError> {
        let done = std::sync::atomic::AtomicU64::new(0);
        let half = self.extents.len().div_ceil(2).max(1);
        let (target, progress, total, done_ref) = (self.target, self.progress, self.data_bytes, &done);
        std::thread::scope(|scope| {
            // Two readers: enough to keep a disk's queue filled while the other one checks.
            let readers: Vec<_> = self
                .extents
                .chunks(half)
                .map(|extents| scope.spawn(move || check_extents(target, extents, progress, total, done_ref)))
                .collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().unwrap_or_else(|_| Err(TaskError::for_now("internal", "the reading thread died"))))
        })?;
        Ok(done.into_inner())
    }

    fn sample_holes(&self) -> Result<u64, TaskError> {
        let mut buffer = Buffer::new(GRAIN);
        let mut samples = 0;
        let step = self.holes.len().div_ceil(MAX_HOLES_SAMPLED).max(1);
        for hole in self.holes.iter().step_by(step) {
            let len = (hole.end - hole.start).min(GRAIN as u64);
            let middle = (hole.start + (hole.end - hole.start) / 2) / GRAIN as u64 * GRAIN as u64;
            let last = (hole.end - len) / GRAIN as u64 * GRAIN as u64;
            for at in [hole.start, middle.max(hole.start), last.max(hole.start)] {
                let len = usize::try_from((hole.end - at).min(len)).unwrap_or(GRAIN);
                let bytes = &mut buffer.as_mut_slice()[..len];
                self.target.read_at(bytes, at).map_err(|e| read_error(at, &e))?;
                if !is_zero(bytes) {
                    return Err(TaskError::for_good(
                        "read_back",
                        format!("byte {at} of the disk should read as zero and does not: old data shows through"),
                    ));
                }
                samples += 1;
            }
        }
        Ok(samples)
    }
}

fn check_extents(
    target: &Target,
    extents: &[Extent],
    progress: &Progress,
    total: u64,
    done: &std::sync::atomic::AtomicU64,
) -> Result<(), TaskError> {
    use std::sync::atomic::Ordering::Relaxed;
    let mut buffer = Buffer::new(BLOCK);
    for extent in extents {
        if progress.is_cancelled() {
            return Err(TaskError::cancelled());
        }
        let bytes = &mut buffer.as_mut_slice()[..extent.len as usize];
        target.read_at(bytes, extent.offset).map_err(|e| read_error(extent.offset, &e))?;
        if crc32fast::hash(bytes) != extent.crc {
            return Err(differs(extent.offset));
        }
        let so_far = done.fetch_add(u64::from(extent.len), Relaxed) + u64::from(extent.len);
        progress.report("read_back", so_far, total);
    }
    Ok(())
}

fn read_error(offset: u64, e: &io::Error) -> TaskError {
    TaskError::for_good("read_back", format!("the disk failed to read back byte {offset}: {e}"))
}

fn differs(offset: u64) -> TaskError {
    TaskError::for_good("read_back", format!("the disk did not keep what was written near byte {offset}: read back, it differs"))
}
