//! The boot files in `STATE/boot`: where they come from, and proof that they are still what was set up.
//!
//! | file | from |
//! |---|---|
//! | `undionly.kpxe`, `snponly.efi`, `ipxe.efi` | Debian's `ipxe` package, `/usr/lib/ipxe` |
//! | `vmlinuz`, `ramdisk.zst`, `local-x64.efi` | `pxe/build` |
//! | `SHA256SUMS` | written here, in the format of `sha256sum` |

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::Digest;

use crate::decide::boot::Loader;
use crate::domain::id::Sha256;

/// Where Debian's `ipxe` package puts its files.
pub const IPXE_DIR: &str = "/usr/lib/ipxe";
pub const KERNEL: &str = "vmlinuz";
pub const RAMDISK: &str = "ramdisk.zst";
const SUMS: &str = "SHA256SUMS";
/// What `pxe/build` makes.
const BUILT: [&str; 3] = [KERNEL, RAMDISK, Loader::DiskX64.file_name()];

#[derive(Debug, thiserror::Error)]
pub enum BootFilesError {
    #[error("the network boot loader {name} is missing in {dir}; install Debian's package with: apt-get install ipxe")]
    NoLoader { name: &'static str, dir: PathBuf },
    #[error("{file} is missing; run: hostler netboot setup")]
    NotSetUp { file: PathBuf },
    #[error("{dir} lacks {file}; make kernel, ramdisk and disk loader with: pxe/build {dir}")]
    NoRamdisk { dir: PathBuf, file: &'static str },
    #[error(
        "{file} is not what was set up (sha256 {found}, recorded {recorded}); run hostler netboot setup again, and find out who changed it"
    )]
    Changed { file: PathBuf, found: Sha256, recorded: Sha256 },
    #[error("line {line:?} of {file} is not a checksum")]
    BadSums { file: PathBuf, line: String },
    #[error("cannot read or write {file}")]
    Io {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, BootFilesError>;

/// The small boot files, held in memory: what TFTP and HTTP give away by name.
#[derive(Clone, Default)]
pub struct BootFiles {
    loaders: HashMap<&'static str, Bytes>,
}

impl BootFiles {
    /// The loaders, each as `(name, bytes)`: for tests and the simulated rack.
    pub fn from_loaders(loaders: impl IntoIterator<Item = (Loader, Bytes)>) -> Self {
        Self { loaders: loaders.into_iter().map(|(l, b)| (l.file_name(), b)).collect() }
    }

    pub fn loader(&self, name: &str) -> Option<Bytes> {
        self.loaders.get(name).cloned()
    }
}

/// What a set-up did, for the person who ran it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    pub name: String,
    pub size: u64,
    pub sha256: Sha256,
}

/// Copies the iPXE loaders from `ipxe_dir`, and kernel, ramdisk and disk loader from `ramdisk_dir` if given, into `boot_dir`, and records
/// their checksums. Files already there are replaced whole; other entries of the checksum file stay.
pub fn set_up(boot_dir: &Path, ipxe_dir: &Path, ramdisk_dir: Option<&Path>) -> Result<Vec<Installed>> {
    std::fs::create_dir_all(boot_dir).map_err(at(boot_dir))?;
    let mut sums = read_sums(boot_dir)?;
    let mut done = Vec::new();
    for loader in Loader::IPXE {
        let name = loader.file_name();
        let from = ipxe_dir.join(name);
        if !from.is_file() {
            return Err(BootFilesError::NoLoader { name, dir: ipxe_dir.to_owned() });
        }
        done.push(install(boot_dir, name, &from, None)?);
    }
    if let Some(dir) = ramdisk_dir {
        let built = read_sums(dir)?;
        for name in BUILT {
            let from = dir.join(name);
            if !from.is_file() {
                return Err(BootFilesError::NoRamdisk { dir: dir.to_owned(), file: name });
            }
            done.push(install(boot_dir, name, &from, built.get(name))?);
        }
    }
    sums.extend(done.iter().map(|f| (f.name.clone(), f.sha256)));
    let text: String = sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    replace(boot_dir, SUMS, text.as_bytes())?;
    Ok(done)
}

/// Checks every recorded file and reads the loaders. `Ok` also without kernel and ramdisk: see [`has_ramdisk`].
pub fn load(boot_dir: &Path) -> Result<BootFiles> {
    let sums = read_sums(boot_dir)?;
    let mut files = BootFiles::default();
    for loader in Loader::ALL {
        let name = loader.file_name();
        let file = boot_dir.join(name);
        // The disk loader comes with the ramdisk: without both, nothing was deployed from here.
        if loader == Loader::DiskX64 && !sums.contains_key(name) && !has_ramdisk(boot_dir) {
            continue;
        }
        let recorded = *sums.get(name).filter(|_| file.is_file()).ok_or_else(|| BootFilesError::NotSetUp { file: file.clone() })?;
        let bytes = std::fs::read(&file).map_err(at(&file))?;
        check(&file, Sha256(sha2::Sha256::digest(&bytes).into()), recorded)?;
        files.loaders.insert(name, Bytes::from(bytes));
    }
    for name in [KERNEL, RAMDISK] {
        let file = boot_dir.join(name);
        if let Some(recorded) = sums.get(name) {
            check(&file, hash(&file)?, *recorded)?;
        }
    }
    Ok(files)
}

/// Whether kernel and ramdisk are there.
pub fn has_ramdisk(boot_dir: &Path) -> bool {
    [KERNEL, RAMDISK].iter().all(|name| boot_dir.join(name).is_file())
}

fn install(boot_dir: &Path, name: &str, from: &Path, recorded: Option<&Sha256>) -> Result<Installed> {
    let bytes = std::fs::read(from).map_err(at(from))?;
    let sha256 = Sha256(sha2::Sha256::digest(&bytes).into());
    if let Some(recorded) = recorded {
        check(from, sha256, *recorded)?;
    }
    replace(boot_dir, name, &bytes)?;
    Ok(Installed { name: name.to_owned(), size: bytes.len() as u64, sha256 })
}

/// Writes beside and renames: a machine that boots meanwhile gets the old file or the new one, never half of one.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (new, file) = (dir.join(format!(".{name}.new")), dir.join(name));
    std::fs::write(&new, bytes).map_err(at(&new))?;
    std::fs::rename(&new, &file).map_err(at(&file))
}

fn check(file: &Path, found: Sha256, recorded: Sha256) -> Result<()> {
    if found == recorded { Ok(()) } else { Err(BootFilesError::Changed { file: file.to_owned(), found, recorded }) }
}

fn hash(file: &Path) -> Result<Sha256> {
    let mut hasher = sha2::Sha256::new();
    let mut reader = std::fs::File::open(file).map_err(at(file))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut reader, &mut buffer).map_err(at(file))? {
            0 => return Ok(Sha256(hasher.finalize().into())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn read_sums(dir: &Path) -> Result<BTreeMap<String, Sha256>> {
    let file = dir.join(SUMS);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(BootFilesError::Io { file, source }),
    };
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|line| {
            let bad = || BootFilesError::BadSums { file: file.clone(), line: line.chars().take(100).collect() };
            let (sum, name) = line.split_once(char::is_whitespace).ok_or_else(bad)?;
            Ok((name.trim_start_matches([' ', '*']).to_owned(), sum.parse().map_err(|_| bad())?))
        })
        .collect()
}

fn at(file: &Path) -> impl FnOnce(io::Error) -> BootFilesError {
    let file = file.to_owned();
    |source| BootFilesError::Io { file, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        for loader in Loader::IPXE {
            std::fs::write(dir.path().join(loader.file_name()), loader.file_name()).expect("write");
        }
        dir
    }

    #[test]
    fn set_up_copies_records_and_verifies() {
        let (package, state) = (package(), tempfile::tempdir().expect("tempdir"));
        let done = set_up(state.path(), package.path(), None).expect("set up");
        assert_eq!(done.len(), 3);
        assert!(!has_ramdisk(state.path()));
        let files = load(state.path()).expect("verified");
        assert_eq!(files.loader("snponly.efi"), Some(Bytes::from_static(b"snponly.efi")));
        assert_eq!(files.loader("SHA256SUMS"), None);
        let sums = std::fs::read_to_string(state.path().join(SUMS)).expect("sums");
        assert!(sums.lines().all(|l| l.len() > 66 && &l[64..66] == "  "), "{sums}");
    }

    #[test]
    fn kernel_and_ramdisk_come_from_the_build_and_stay_when_only_loaders_are_set_up_again() {
        let (package, built, state) = (package(), tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        assert!(matches!(set_up(state.path(), package.path(), Some(built.path())), Err(BootFilesError::NoRamdisk { .. })));
        for name in BUILT {
            std::fs::write(built.path().join(name), name).expect("write");
        }
        set_up(state.path(), package.path(), Some(built.path())).expect("set up");
        set_up(state.path(), package.path(), None).expect("set up again");
        assert!(has_ramdisk(state.path()));
        load(state.path()).expect("verified");
        std::fs::write(state.path().join(RAMDISK), "other").expect("write");
        assert!(matches!(load(state.path()), Err(BootFilesError::Changed { .. })));
    }

    #[test]
    fn a_changed_loader_is_refused_with_what_to_do() {
        let (package, state) = (package(), tempfile::tempdir().expect("tempdir"));
        set_up(state.path(), package.path(), None).expect("set up");
        std::fs::write(state.path().join("snponly.efi"), "evil").expect("write");
        let error = load(state.path()).err().expect("refused").to_string();
        assert!(error.contains("snponly.efi is not what was set up") && error.contains("netboot setup"), "{error}");
    }

    #[test]
    fn a_missing_package_is_said_with_the_command_that_installs_it() {
        let (empty, state) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let error = set_up(state.path(), empty.path(), None).expect_err("refused").to_string();
        assert!(error.contains("apt-get install ipxe"), "{error}");
        let error = load(state.path()).err().expect("refused").to_string();
        assert!(error.contains("hostler netboot setup"), "{error}");
    }
}
