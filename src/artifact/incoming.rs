//! Files on their way into the store, and the stream they come from.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::Digest;

use crate::clock::fresh_uuid;
use crate::domain::id::Sha256;

const PREFIX: &str = "incoming-";
/// Holes are made of whole blocks of this size: file systems give nothing for smaller ones.
const BLOCK: usize = 64 * 1024;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A file that is being written: hashed as it grows, blocks of zeros left as holes, locked, removed when dropped.
pub struct Incoming {
    path: PathBuf,
    pub file: File,
    hash: sha2::Sha256,
    pub len: u64,
    kept: bool,
}

impl Incoming {
    pub fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("{PREFIX}{}", fresh_uuid()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let incoming = Self { path, file, hash: sha2::Sha256::new(), len: 0, kept: false };
        incoming.file.lock()?; // held until the file is closed: `sweep` then knows that somebody is at work
        Ok(incoming)
    }

    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        for block in bytes.chunks(BLOCK) {
            if block != &ZEROS[..block.len()] {
                self.file.write_all_at(block, self.len)?;
            }
            self.len += block.len() as u64;
        }
        Ok(())
    }

    /// Ends the writing and tells the digest.
    pub fn seal(&mut self) -> io::Result<Sha256> {
        self.file.set_len(self.len)?; // the last block may be a hole
        Ok(Sha256(self.hash.clone().finalize().into()))
    }

    /// Gives the file its name, durably: bytes first, then the name, then the directory that holds the name.
    pub fn keep(mut self, dir: &Path, name: &Sha256) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, dir.join(name.to_string()))?;
        self.kept = true;
        File::open(dir)?.sync_all()
    }
}

impl io::Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %e, "an unfinished import could not be removed; the next start tries again");
        }
    }
}

/// Removes the unfinished files that nobody holds a lock on.
pub fn sweep(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !entry.file_type()?.is_file() {
            continue;
        }
        let file = match File::open(entry.path()) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // finished or swept in this moment
            Err(e) => return Err(e),
        };
        match file.try_lock() {
            Ok(()) => match std::fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            },
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(())
}

/// One piece of a stream on its way to the importing thread.
pub enum Part {
    Chunk(Vec<u8>),
    End,
    Broken(io::Error),
}

/// The receiving side as a plain reader. Only [`Part::End`] is an end: a sender that vanishes is an error, or half an
/// upload would pass as a whole one.
pub struct Chunks {
    parts: tokio::sync::mpsc::Receiver<Part>,
    chunk: Vec<u8>,
    used: usize,
    ended: bool,
}

impl Chunks {
    pub fn new(parts: tokio::sync::mpsc::Receiver<Part>) -> Self {
        Self { parts, chunk: Vec::new(), used: 0, ended: false }
    }
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() && !self.ended {
            match self.parts.blocking_recv() {
                Some(Part::Chunk(chunk)) => (self.chunk, self.used) = (chunk, 0),
                Some(Part::End) => self.ended = true,
                Some(Part::Broken(e)) => return Err(e),
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the sender went away")),
            }
        }
        let n = out.len().min(self.chunk.len() - self.used);
        out[..n].copy_from_slice(&self.chunk[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}
