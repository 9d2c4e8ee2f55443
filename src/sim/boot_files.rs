//! Boot files for the demo: the real ones where this computer has them, else tiny placeholders. The simulated machines
//! fetch either; only a real machine could tell the difference.

use std::io;
use std::path::{Path, PathBuf};

/// Debian's package `ipxe`.
const IPXE_PACKAGE: &str = "/usr/lib/ipxe";
const LOADERS: [&str; 3] = ["undionly.kpxe", "snponly.efi", "ipxe.efi"];
pub const KERNEL: &str = "vmlinuz";
pub const RAMDISK: &str = "ramdisk.zst";

/// What was put into the boot directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootFiles {
    pub real: Vec<&'static str>,
    pub placeholders: Vec<&'static str>,
}

/// Fills `boot`; `built` is where `pxe/build` leaves kernel and ramdisk.
///
/// # Errors
/// When a file cannot be written or copied.
pub fn put(boot: &Path, built: &Path) -> io::Result<BootFiles> {
    std::fs::create_dir_all(boot)?;
    let mut files = BootFiles::default();
    let sources = LOADERS.iter().map(|name| (*name, vec![built.join(name), PathBuf::from(IPXE_PACKAGE).join(name)]));
    let both = [KERNEL, RAMDISK].iter().all(|name| built.join(name).is_file());
    let system = [KERNEL, RAMDISK].iter().map(|name| (*name, if both { vec![built.join(name)] } else { vec![] }));
    for (name, sources) in sources.chain(system) {
        match sources.iter().find(|path| path.is_file()) {
            Some(source) => {
                std::fs::copy(source, boot.join(name))?;
                files.real.push(name);
            }
            None => {
                std::fs::write(boot.join(name), placeholder(name))?;
                files.placeholders.push(name);
            }
        }
    }
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
        for name in LOADERS.into_iter().chain([KERNEL, RAMDISK]) {
            assert!(std::fs::metadata(dir.path().join("boot").join(name)).unwrap().len() > 8000, "{name}");
        }
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
