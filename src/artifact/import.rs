//! One import, on a thread of its own: receive, compare, recognise, unpack or convert, look at the disk, keep.

use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use sha2::Digest;

use crate::artifact::catalogue::Entry;
use crate::artifact::incoming::Incoming;
use crate::artifact::qcow2::{Extent, Qcow2, ReadError};
use crate::artifact::sniff::{self, Kind};
use crate::artifact::{Alive, ImportError, ImportSpec, Limits, SourceFormat, layout};
use crate::domain::id::Sha256;
use crate::domain::image::{Image, ImageFormat};
use crate::domain::time::Timestamp;

const CHUNK: usize = 1 << 20;
/// 3 packs a Debian image at about the speed of its hashing; the agent unpacks every level alike.
const ZSTD_LEVEL: i32 = 3;

/// Everything that was said about the file beforehand. What is `None` is not checked.
pub struct Known {
    pub spec: ImportSpec,
    pub format: Option<SourceFormat>,
    pub size_bytes: Option<u64>,
    pub raw_sha256: Option<Sha256>,
}

impl Known {
    pub fn from_entry(entry: &Entry) -> Self {
        Self {
            spec: ImportSpec {
                name: entry.name.clone(),
                arch: entry.arch,
                expected_sha256: entry.sha256,
                default_user: entry.default_user.clone(),
                boots_on: Some(entry.boots_on.clone()),
            },
            format: Some(entry.format),
            size_bytes: entry.size_bytes,
            raw_sha256: entry.raw_sha256,
        }
    }
}

pub fn run(dir: &Path, limits: &Limits, source: &mut dyn Read, known: Known, now: Timestamp, alive: &Alive) -> Result<Image, ImportError> {
    let store = Store { dir, limits, alive };
    let received = store.receive(source)?;
    let Received { mut file, sha256, head } = received;
    if let Some(expected) = known.size_bytes
        && expected != file.len
    {
        return Err(ImportError::WrongSize { expected, found: file.len });
    }
    if let Some(expected) = known.spec.expected_sha256
        && expected != sha256
    {
        return Err(ImportError::WrongHash { expected, found: sha256 });
    }
    let format = match sniff::kind(&head[..head.len().min(sniff::SNIFF_LEN)]) {
        Kind::Ours(format) => format,
        Kind::Foreign(name) => return Err(ImportError::Foreign(name)),
        Kind::Unknown => return Err(ImportError::Unknown),
    };
    if let Some(expected) = known.format
        && expected != format
    {
        return Err(ImportError::WrongFormat { expected, found: format });
    }
    file.file.rewind().map_err(|e| store.error(e))?;
    let (kept, stored_format, disk, sha256) = match format {
        SourceFormat::Raw => {
            let disk = Disk { size: file.len, sha256, head };
            (file, ImageFormat::Raw, disk, sha256)
        }
        SourceFormat::RawZst => {
            let decoder = zstd::stream::read::Decoder::new(&file.file).map_err(|e| store.error(e))?;
            let disk = store.unpack(decoder, format, file.len)?;
            (file, ImageFormat::RawZst, disk, sha256)
        }
        SourceFormat::RawGz => {
            let disk = store.unpack(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(CHUNK, &file.file)), format, file.len)?;
            (file, ImageFormat::RawGz, disk, sha256)
        }
        SourceFormat::Qcow2 => {
            let (converted, disk, sha256) = store.convert(&file)?;
            (converted, ImageFormat::RawZst, disk, sha256)
        }
    };
    if let Some(expected) = known.raw_sha256
        && expected != disk.sha256
    {
        return Err(ImportError::WrongRawHash { expected, found: disk.sha256 });
    }
    let boots_on = disk.check(known.spec.boots_on)?;
    let size_bytes = kept.len;
    alive.check()?;
    kept.keep(dir, &sha256).map_err(|e| store.error(e))?;
    Ok(Image {
        name: known.spec.name,
        arch: known.spec.arch,
        format: stored_format,
        size_bytes,
        sha256,
        raw_size_bytes: disk.size,
        raw_sha256: disk.sha256,
        boots_on,
        default_user: known.spec.default_user,
        imported_at: now,
    })
}

struct Received {
    file: Incoming,
    sha256: Sha256,
    head: Vec<u8>,
}

struct Store<'a> {
    dir: &'a Path,
    limits: &'a Limits,
    alive: &'a Alive,
}

impl Store<'_> {
    fn error(&self, source: io::Error) -> ImportError {
        let dir = self.dir.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImportError::NoSpace { dir, source },
            _ => ImportError::Store { dir, source },
        }
    }

    fn receive(&self, source: &mut dyn Read) -> Result<Received, ImportError> {
        let mut file = Incoming::create(self.dir).map_err(|e| self.error(e))?;
        let (mut head, mut chunk) = (Vec::new(), vec![0; CHUNK]);
        loop {
            self.alive.check()?;
            let n = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(ImportError::Receive { received: file.len, source }),
            };
            if file.len + n as u64 > self.limits.max_file_bytes {
                return Err(ImportError::TooLarge { limit: self.limits.max_file_bytes });
            }
            keep_head(&mut head, &chunk[..n]);
            file.append(&chunk[..n]).map_err(|e| self.error(e))?;
        }
        if file.len == 0 {
            return Err(ImportError::Empty);
        }
        let sha256 = file.seal().map_err(|e| self.error(e))?;
        Ok(Received { file, sha256, head })
    }

    /// Reads a packed disk to its end. The decoders take several frames or members in a row, as their tools do, and
    /// refuse anything else behind the end.
    fn unpack(&self, mut decoder: impl Read, format: SourceFormat, file_len: u64) -> Result<Disk, ImportError> {
        let (mut disk, mut chunk) = (Measure::new(self.limits, file_len), vec![0; CHUNK]);
        loop {
            self.alive.check()?;
            match decoder.read(&mut chunk) {
                Ok(0) => return Ok(disk.finish()),
                Ok(n) => disk.add(&chunk[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // An error with an OS code is our disk; without one it is the decoder's word about the data.
                Err(e) if e.raw_os_error().is_some() => return Err(self.error(e)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(ImportError::Truncated { format, raw_bytes: disk.size }),
                Err(e) => return Err(ImportError::Damaged { format, raw_bytes: disk.size, detail: e.to_string() }),
            }
        }
    }

    /// qcow2 to raw.zst, in one pass.
    fn convert(&self, file: &Incoming) -> Result<(Incoming, Disk, Sha256), ImportError> {
        let mut image = Qcow2::open(&file.file, self.limits.max_raw_bytes)?;
        let mut disk = Measure::new(self.limits, file.len);
        disk.check(image.size())?;
        let out = Incoming::create(self.dir).map_err(|e| self.error(e))?;
        let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).map_err(|e| self.error(e))?;
        encoder.include_checksum(true).map_err(|e| self.error(e))?;
        encoder.set_pledged_src_size(Some(image.size())).map_err(|e| self.error(e))?;
        let zeros = vec![0; CHUNK];
        let mut put = |bytes: &[u8]| {
            self.alive.check()?;
            disk.add(bytes)?;
            io::Write::write_all(&mut encoder, bytes).map_err(|e| self.error(e))
        };
        image
            .read_all(|extent| match extent {
                Extent::Data(bytes) => put(bytes),
                Extent::Zeros(mut left) => {
                    while left > 0 {
                        let n = left.min(CHUNK as u64);
                        put(&zeros[..n as usize])?;
                        left -= n;
                    }
                    Ok(())
                }
            })
            .map_err(|e| match e {
                ReadError::Image(e) => ImportError::Qcow2(e),
                ReadError::Taker(e) => e,
            })?;
        let mut out = encoder.finish().map_err(|e| self.error(e))?;
        let sha256 = out.seal().map_err(|e| self.error(e))?;
        Ok((out, disk.finish(), sha256))
    }
}

fn keep_head(head: &mut Vec<u8>, bytes: &[u8]) {
    let room = layout::HEAD_LEN - head.len();
    head.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// A disk while it is unpacked.
struct Measure<'a> {
    limits: &'a Limits,
    file_len: u64,
    size: u64,
    hash: sha2::Sha256,
    head: Vec<u8>,
}

impl<'a> Measure<'a> {
    fn new(limits: &'a Limits, file_len: u64) -> Self {
        Self { limits, file_len, size: 0, hash: sha2::Sha256::new(), head: Vec::new() }
    }

    fn check(&self, size: u64) -> Result<(), ImportError> {
        let Limits { max_raw_bytes, max_ratio, ratio_free_bytes, .. } = *self.limits;
        if size > max_raw_bytes {
            return Err(ImportError::RawTooLarge { limit: max_raw_bytes });
        }
        if size > ratio_free_bytes && size / max_ratio > self.file_len {
            return Err(ImportError::TooDense { max_ratio });
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.check(self.size + bytes.len() as u64)?;
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
        keep_head(&mut self.head, bytes);
        Ok(())
    }

    fn finish(self) -> Disk {
        Disk { size: self.size, sha256: Sha256(self.hash.finalize().into()), head: self.head }
    }
}

/// The disk that an image unpacks to.
struct Disk {
    size: u64,
    sha256: Sha256,
    head: Vec<u8>,
}

impl Disk {
    /// What firmware it boots on, once it is seen to be whole.
    fn check(&self, said: Option<Vec<crate::domain::power::FirmwareKind>>) -> Result<Vec<crate::domain::power::FirmwareKind>, ImportError> {
        if self.size == 0 {
            return Err(ImportError::Empty);
        }
        match sniff::kind(&self.head[..self.head.len().min(sniff::SNIFF_LEN)]) {
            Kind::Ours(SourceFormat::Raw) | Kind::Unknown => {}
            Kind::Ours(SourceFormat::Qcow2) => return Err(ImportError::PackedTwice("a qcow2 image")),
            Kind::Ours(SourceFormat::RawZst | SourceFormat::RawGz) => return Err(ImportError::PackedTwice("a packed file")),
            Kind::Foreign(name) => return Err(ImportError::PackedTwice(name)),
        }
        if !self.size.is_multiple_of(512) {
            return Err(ImportError::OddSize(self.size));
        }
        let seen = layout::inspect(&self.head, self.size)?.boots_on;
        match said {
            Some(said) => Ok(said),
            None if seen.is_empty() => Err(ImportError::NotBootable),
            None => Ok(seen),
        }
    }
}
