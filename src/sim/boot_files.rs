//! Boot files for the demo: the real ones where this computer has them, else tiny placeholders. The simulated machines
//! fetch either; only a real machine could tell the difference.

use std::io;
use std::path::Path;

use sha2::Digest;

use crate::decide::boot::Loader;
use crate::domain::id::Sha256;
use crate::netboot::boot_files::{IPXE_DIR, KERNEL, RAMDISK};

/// What was put into the boot directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootFiles {
    pub real: Vec<&'static str>,
    pub placeholders: Vec<&'static str>,
}

/// Fills `boot` and records the checksums; `built` is where `hostler netboot setup` leaves what `pxe/build` made.
///
/// # Errors
/// When a file cannot be read or written.
pub fn put(boot: &Path, built: &Path) -> io::Result<BootFiles> {
    std::fs::create_dir_all(boot)?;
    let mut files = BootFiles::default();
    let mut sums = String::new();
    // Kernel and ramdisk belong together: only both, or none.
    let both = [KERNEL, RAMDISK].iter().all(|name| built.join(name).is_file());
    for name in Loader::ALL.map(Loader::file_name).into_iter().chain([KERNEL, RAMDISK]) {
        let sources = match name {
            KERNEL | RAMDISK if !both => vec![],
            _ => vec![built.join(name), Path::new(IPXE_DIR).join(name)],
        };
        let bytes = match sources.iter().find(|path| path.is_file()) {
            Some(source) => {
                files.real.push(name);
                std::fs::read(source)?
            }
            None => {
                files.placeholders.push(name);
                placeholder(name).into_bytes()
            }
        };
        std::fs::write(boot.join(name), &bytes)?;
        sums.push_str(&format!("{}  {name}\n", Sha256(sha2::Sha256::digest(&bytes).into())));
    }
    std::fs::write(boot.join("SHA256SUMS"), sums)?;
    Ok(files)
}

/// A few kilobytes that say what they are; long enough to take several TFTP blocks.
fn placeholder(name: &str) -> String {
    let line = format!("This is not {name}: hostler demo made this placeholder because the real file is not on this computer.\n");
    line.repeat(16 * 1024 / line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_built_ramdisk_kernel_and_ramdisk_are_placeholders() {
        let dir = tempfile::tempdir().unwrap();
        let files = put(&dir.path().join("boot"), &dir.path().join("none")).unwrap();
        assert!(files.placeholders.contains(&KERNEL) && files.placeholders.contains(&RAMDISK));
        // The service takes them as set up.
        crate::netboot::boot_files::load(&dir.path().join("boot")).unwrap();
    }

    #[test]
    fn a_built_kernel_without_its_ramdisk_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KERNEL), "K").unwrap();
        assert!(put(&dir.path().join("boot"), dir.path()).unwrap().placeholders.contains(&KERNEL));
        std::fs::write(dir.path().join(RAMDISK), "R").unwrap();
        assert!(put(&dir.path().join("boot"), dir.path()).unwrap().real.contains(&KERNEL));
    }
}
