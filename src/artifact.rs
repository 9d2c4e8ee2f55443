//! The artifact store: image files by the digest of their bytes, in `STATE/artifacts/<sha256>`.
//!
//! What is in the store is whole: a file gets its name by one rename after it was checked, hashed and flushed. Until then it
//! is called `incoming-*`, locked by the process that writes it, and goes away with the import that failed; what a killed
//! process left behind is removed by the next [`Artifacts::open`].
//!
//! An import decides the format from the file's own first bytes ([`sniff`]), compares the digest with the expected one
//! before it unpacks anything, unpacks once within limits to learn size and digest of the disk, reads the partition table
//! ([`layout`]) to see that the end is there and which firmware can start it, and turns qcow2 ([`qcow2`]) into raw.zst,
//! since the agent writes streams.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use serde::Deserialize;
use sha2::Digest;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::domain::boot::Arch;
use crate::domain::id::{Name, Sha256};
use crate::domain::image::Image;
use crate::domain::power::{FirmwareKind, text_form};
use crate::domain::time::Timestamp;

pub mod catalogue;
mod import;
mod incoming;
pub mod layout;
pub mod qcow2;
pub mod sniff;

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum SourceFormat {
    #[serde(rename = "raw")]
    Raw,
    #[serde(rename = "raw.zst")]
    RawZst,
    #[serde(rename = "raw.gz")]
    RawGz,
    #[serde(rename = "qcow2")]
    Qcow2,
}
text_form!(SourceFormat { Raw = "raw", RawZst = "raw.zst", RawGz = "raw.gz", Qcow2 = "qcow2" });

/// What the importer knows about an image and the file cannot say.
#[derive(Clone, Debug)]
pub struct ImportSpec {
    pub name: Name,
    pub arch: Arch,
    /// Digest of the file as it is handed over (of the qcow2 file, not of what it is turned into).
    pub expected_sha256: Option<Sha256>,
    pub default_user: String,
    /// `None`: as the partition table says; an image that no firmware can start is then refused.
    pub boots_on: Option<Vec<FirmwareKind>>,
}

/// Bounds on what an import may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_file_bytes: u64,
    pub max_raw_bytes: u64,
    /// Unpacked bytes per packed byte, beyond `ratio_free_bytes`. Real systems pack 2 to 10 to 1, mostly empty disks up to
    /// some hundreds; zstd makes 1 byte out of 16,000 zeros.
    pub max_ratio: u64,
    pub ratio_free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_file_bytes: 256 << 30, max_raw_bytes: 256 << 30, max_ratio: 2000, ratio_free_bytes: 16 << 30 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{} cannot be read", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("the image could not be received: its sender stopped or the connection broke after {received} bytes")]
    Receive {
        received: u64,
        #[source]
        source: io::Error,
    },
    #[error("the file is empty")]
    Empty,
    #[error("the file is larger than the limit of {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the file has {found} bytes and should have {expected}: it is not the image that was announced, or not all of it")]
    WrongSize { expected: u64, found: u64 },
    #[error("the file's sha256 is {found} and should be {expected}: it is damaged, cut short, or another file")]
    WrongHash { expected: Sha256, found: Sha256 },
    #[error("the unpacked image's sha256 is {found} and should be {expected}")]
    WrongRawHash { expected: Sha256, found: Sha256 },
    #[error("the file is {0}; images are raw disks, also packed with zstd or gzip, or qcow2")]
    Foreign(&'static str),
    #[error("the file is not a disk image: its first sector has no boot signature, and it is neither zstd, gzip nor qcow2")]
    Unknown,
    #[error("the catalogue says {expected}, but the file is {found}")]
    WrongFormat { expected: SourceFormat, found: SourceFormat },
    #[error("the packed file holds {0} and not a raw disk; unpack it and import what is inside")]
    PackedTwice(&'static str),
    #[error("the {format} file is cut short: the packed data ends after {raw_bytes} unpacked bytes")]
    Truncated { format: SourceFormat, raw_bytes: u64 },
    #[error("the {format} file is damaged, or something else stands behind its end, after {raw_bytes} unpacked bytes ({detail})")]
    Damaged { format: SourceFormat, raw_bytes: u64, detail: String },
    #[error("the unpacked disk is larger than the limit of {limit} bytes")]
    RawTooLarge { limit: u64 },
    #[error("the file unpacks to more than {max_ratio} times its size, which no real system does")]
    TooDense { max_ratio: u64 },
    #[error(transparent)]
    Qcow2(#[from] qcow2::Qcow2Error),
    #[error("the image is not complete: {0}")]
    Layout(#[from] layout::LayoutError),
    #[error("the unpacked disk has {0} bytes, which is not a whole number of 512-byte sectors: it is cut short")]
    OddSize(u64),
    #[error(
        "no firmware can start this disk: it has neither boot code in its MBR nor an EFI system partition; say what it boots on to take it anyway"
    )]
    NotBootable,
    #[error("no space left in {}: free some, or move the state directory", dir.display())]
    NoSpace {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write to the artifact store {}", dir.display())]
    Store {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the import was cancelled")]
    Cancelled,
}

impl ImportError {
    /// Whether another try with the same bytes would fail again. The rest is our storage or the way here.
    pub fn is_fault_of_image(&self) -> bool {
        match self {
            Self::Open { .. } | Self::Receive { .. } | Self::NoSpace { .. } | Self::Store { .. } | Self::Cancelled => false,
            Self::Qcow2(e) => !matches!(e, qcow2::Qcow2Error::Io(_)),
            Self::NotAFile(_)
            | Self::Empty
            | Self::TooLarge { .. }
            | Self::WrongSize { .. }
            | Self::WrongHash { .. }
            | Self::WrongRawHash { .. }
            | Self::Foreign(_)
            | Self::Unknown
            | Self::WrongFormat { .. }
            | Self::PackedTwice(_)
            | Self::Truncated { .. }
            | Self::Damaged { .. }
            | Self::RawTooLarge { .. }
            | Self::TooDense { .. }
            | Self::Layout(_)
            | Self::OddSize(_)
            | Self::NotBootable => true,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("artifact {0} is not in the store; import the image again")]
    Missing(Sha256),
    #[error("artifact {name} is damaged on disk: its bytes now have the sha256 {found}; import the image again")]
    Damaged { name: Sha256, found: Sha256 },
    #[error("artifact {name} cannot be read")]
    Read {
        name: Sha256,
        #[source]
        source: io::Error,
    },
}

/// The store. Clones share one directory; several processes may, too.
#[derive(Clone, Debug)]
pub struct Artifacts {
    dir: Arc<Path>,
    limits: Limits,
}

impl Artifacts {
    /// Makes the directory if needed and removes what killed imports left in it.
    pub fn open(dir: &Path) -> Result<Self, ImportError> {
        Self::open_with(dir, Limits::default())
    }

    pub fn open_with(dir: &Path, limits: Limits) -> Result<Self, ImportError> {
        let fail = |source| ImportError::Store { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(fail)?;
        incoming::sweep(dir).map_err(fail)?;
        Ok(Self { dir: dir.into(), limits })
    }

    /// Where the artifact is, if it is in the store.
    pub fn path_of(&self, sha256: &Sha256) -> PathBuf {
        self.dir.join(sha256.to_string())
    }

    /// Takes in a file as it is, held to its digest; gives its size. Firmware is no image: nothing is unpacked.
    ///
    /// # Errors
    /// `Damaged` when its bytes are others than said: it is not kept.
    pub async fn take_file(&self, path: &Path, sha256: &Sha256) -> Result<u64, ArtifactError> {
        let (dir, path, name) = (Arc::clone(&self.dir), path.to_owned(), *sha256);
        let taken = blocking(move || {
            let mut file = File::open(path)?;
            let (mut incoming, mut buffer) = (incoming::Incoming::create(&dir)?, vec![0; 1 << 20]);
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    n => incoming.append(&buffer[..n])?,
                }
            }
            let (found, size) = (incoming.seal()?, incoming.len);
            if found == name {
                incoming.keep(&dir, &found)?;
            }
            Ok((found, size))
        });
        match taken.await.map_err(|e| ArtifactError::of(name, e))? {
            (found, size) if found == name => Ok(size),
            (found, _) => Err(ArtifactError::Damaged { name, found }),
        }
    }

    /// Opens an artifact for reading at any place, and tells its size.
    pub async fn open_artifact(&self, sha256: &Sha256) -> Result<(tokio::fs::File, u64), ArtifactError> {
        let fail = |e| ArtifactError::of(*sha256, e);
        let file = tokio::fs::File::open(self.path_of(sha256)).await.map_err(fail)?;
        let len = file.metadata().await.map_err(fail)?.len();
        Ok((file, len))
    }

    /// Reads the whole artifact and compares its bytes with its name.
    pub async fn verify(&self, sha256: &Sha256) -> Result<(), ArtifactError> {
        let (name, path) = (*sha256, self.path_of(sha256));
        let hashed = blocking(move || {
            let mut file = File::open(path)?;
            let (mut hash, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 20]);
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(Sha256(hash.finalize().into())),
                    n => hash.update(&buffer[..n]),
                }
            }
        });
        match hashed.await.map_err(|e| ArtifactError::of(name, e))? {
            found if found == name => Ok(()),
            found => Err(ArtifactError::Damaged { name, found }),
        }
    }

    /// Takes an artifact out of the store; `false` when it was not there. Transfers that run keep their open file.
    pub async fn remove(&self, sha256: &Sha256) -> Result<bool, ArtifactError> {
        match tokio::fs::remove_file(self.path_of(sha256)).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(ArtifactError::of(*sha256, e)),
        }
    }

    /// Imports a local file. It is copied: later changes to it do not reach the store.
    pub async fn import_file(&self, path: &Path, spec: ImportSpec, now: Timestamp) -> Result<Image, ImportError> {
        self.import_known_file(path, import::Known { spec, format: None, size_bytes: None, raw_sha256: None }, now).await
    }

    /// Imports the file of a catalogue entry, held to everything that the entry says. `base`: the catalogue's directory.
    /// Entries without a file (a URL, or a recipe that was not run) are not for this function.
    pub async fn import_entry(&self, entry: &catalogue::Entry, path: &Path, now: Timestamp) -> Result<Image, ImportError> {
        self.import_known_file(path, import::Known::from_entry(entry), now).await
    }

    async fn import_known_file(&self, path: &Path, known: import::Known, now: Timestamp) -> Result<Image, ImportError> {
        let (path, job, watch) = (path.to_owned(), self.clone(), Arc::new(()));
        let alive = Alive(Arc::downgrade(&watch));
        blocking_import(move || {
            let fail = |source| ImportError::Open { path: path.clone(), source };
            // Looked at before it is opened: opening a FIFO would wait for ever, a device would never end.
            if !std::fs::metadata(&path).map_err(fail)?.is_file() {
                return Err(ImportError::NotAFile(path));
            }
            let mut file = File::open(&path).map_err(fail)?;
            import::run(&job.dir, &job.limits, &mut file, known, now, &alive)
        })
        .await
    }

    /// Imports what a stream carries, such as the body of an upload. Dropping the future cancels the import and removes
    /// what was written.
    pub async fn import_stream(&self, mut stream: impl AsyncRead + Unpin, spec: ImportSpec, now: Timestamp) -> Result<Image, ImportError> {
        let (chunks, rest) = tokio::sync::mpsc::channel(4);
        let (job, watch) = (self.clone(), Arc::new(()));
        let alive = Alive(Arc::downgrade(&watch));
        let known = import::Known { spec, format: None, size_bytes: None, raw_sha256: None };
        let mut importer = std::pin::pin!(blocking_import(move || {
            import::run(&job.dir, &job.limits, &mut incoming::Chunks::new(rest), known, now, &alive)
        }));
        let feed = async {
            loop {
                let mut chunk = Vec::with_capacity(1 << 20);
                let read = (&mut stream).take(1 << 20).read_to_end(&mut chunk).await;
                let got = !chunk.is_empty();
                // A failed send: the importer stopped early because it refuses the image; its result tells why.
                if got && chunks.send(incoming::Part::Chunk(chunk)).await.is_err() {
                    return;
                }
                let end = match read {
                    Ok(_) if got => continue,
                    Ok(_) => incoming::Part::End,
                    Err(e) => incoming::Part::Broken(e),
                };
                drop(chunks.send(end).await);
                return;
            }
        };
        tokio::select! {
            biased;
            result = &mut importer => return result,
            () = feed => {}
        }
        importer.await
    }
}

/// Whether anybody still waits for the import: the future holds the other end.
struct Alive(Weak<()>);

impl Alive {
    fn check(&self) -> Result<(), ImportError> {
        if self.0.strong_count() == 0 { Err(ImportError::Cancelled) } else { Ok(()) }
    }
}

impl ArtifactError {
    fn of(name: Sha256, e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::NotFound { Self::Missing(name) } else { Self::Read { name, source: e } }
    }
}

/// Runs file work on a thread that may block. A panic there is ours and goes on here.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, io::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(io::Error::new(io::ErrorKind::Interrupted, "the service is shutting down")),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    on_thread(work).await?
}

async fn blocking_import(work: impl FnOnce() -> Result<Image, ImportError> + Send + 'static) -> Result<Image, ImportError> {
    on_thread(work).await.unwrap_or(Err(ImportError::Cancelled))
}
