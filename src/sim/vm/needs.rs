//! What virtual machines need of this computer, found or said: what is missing and how to get it, one sentence each.

use std::path::{Path, PathBuf};

use crate::decide::boot::Loader;
use crate::netboot::boot_files::{self, IPXE_DIR};
use crate::server::config::default_state;
use crate::sim::vm::qemu::{Tools, Uefi};

const QEMU: &str = "qemu-system-x86_64";
const SETPRIV: &str = "setpriv";
/// Code and empty variables, which must fit: Debian and Ubuntu with 4 MiB flash, Fedora, Arch.
const OVMF: [(&str, &str); 3] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
];
const SEABIOS: [&str; 3] = ["/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin", "/usr/share/seabios/bios.bin"];
const IPXE_ROMS: [&str; 3] = ["/usr/lib/ipxe/qemu/efi-virtio.rom", "/usr/share/ipxe/qemu/efi-virtio.rom", "/usr/share/qemu/efi-virtio.rom"];
/// Where `pxe/build` and the image recipes write to, below the directory the command is given in.
const BUILT: &str = "target/pxe";
const IMAGES: [&str; 2] = ["target/images/tiny.raw.zst", "target/images/debian-12.raw.zst"];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub tools: Tools,
    /// Holds kernel, ramdisk and disk loader.
    pub ramdisk_dir: PathBuf,
}

/// Where to look.
pub struct Places {
    /// Directories of programs.
    pub path: Vec<PathBuf>,
    /// In front of every absolute path: a root directory of a test's own.
    pub root: PathBuf,
    /// For what is built in a clone of the repository.
    pub here: PathBuf,
    /// Where `hostler netboot setup` leaves boot files.
    pub boot_dir: PathBuf,
}

impl Places {
    /// This computer.
    pub fn real() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut path: Vec<PathBuf> = std::env::split_paths(&path).collect();
        path.extend(["/usr/bin", "/bin"].map(PathBuf::from));
        Self { path, root: "/".into(), here: ".".into(), boot_dir: default_state().join("boot") }
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        self.path.iter().map(|dir| dir.join(name)).find(|file| file.is_file())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn is_there(&self, path: &str) -> bool {
        self.at(path).is_file()
    }

    /// `given`, else where `hostler netboot setup` or `pxe/build` put kernel and ramdisk.
    pub fn ramdisk_dir(&self, given: Option<&Path>) -> Option<PathBuf> {
        let places = match given {
            Some(given) => vec![given.to_owned()],
            None => vec![self.boot_dir.clone(), self.here.join(BUILT)],
        };
        places.into_iter().find(|dir| boot_files::has_ramdisk(dir))
    }

    /// An image that real machines can boot: `given`, else one that was built.
    ///
    /// # Errors
    /// The sentence that says how to make one.
    pub fn image(&self, given: Option<&Path>) -> Result<PathBuf, String> {
        match given {
            Some(given) if given.is_file() => Ok(given.to_owned()),
            Some(given) => Err(format!("There is no image {}.", given.display())),
            None => IMAGES.iter().map(|image| self.here.join(image)).find(|image| image.is_file()).ok_or_else(|| {
                "No image is here that a virtual machine could boot: make one as root with images/tiny/build target/images, or name one with --vm-image FILE."
                    .to_owned()
            }),
        }
    }

    /// Everything but the image.
    ///
    /// # Errors
    /// One sentence for each thing that is missing.
    pub fn look(&self, pxe: Option<&Path>) -> Result<Found, Vec<String>> {
        let mut missing = Vec::new();
        let qemu = self.program(QEMU);
        if qemu.is_none() {
            missing.push(format!("QEMU is not here ({QEMU} is not in PATH): install it with apt-get install qemu-system-x86."));
        }
        let setpriv = self.program(SETPRIV);
        if setpriv.is_none() {
            missing.push(format!("The program {SETPRIV} is not here: install it with apt-get install util-linux."));
        }
        let bios = SEABIOS.iter().any(|f| self.is_there(f)) && IPXE_ROMS.iter().any(|f| self.is_there(f));
        let ovmf = OVMF.iter().find(|(code, variables)| self.is_there(code) && self.is_there(variables));
        let ramdisk_dir = self.ramdisk_dir(pxe);
        let loaders = self.loaders(ramdisk_dir.as_deref());
        if ovmf.is_none() && !bios {
            missing.push("No firmware for virtual machines is here: install it with apt-get install ovmf seabios ipxe-qemu.".to_owned());
        } else if !bios && !loaders {
            missing.push("The loaders that UEFI machines boot from are not here: install them with apt-get install ipxe.".to_owned());
        }
        if ramdisk_dir.is_none() {
            let place = pxe.map_or_else(|| format!("{} or {BUILT}", self.boot_dir.display()), |p| p.display().to_string());
            missing.push(format!(
                "The ramdisk is not here (vmlinuz and ramdisk.zst in {place}): make it with pxe/build {BUILT}, or name its directory with --pxe DIR."
            ));
        }
        match (qemu, setpriv, ramdisk_dir) {
            (Some(qemu), Some(setpriv), Some(ramdisk_dir)) if missing.is_empty() => {
                let uefi = ovmf.filter(|_| loaders).map(|(code, vars)| Uefi { code: self.at(code), variables: self.at(vars) });
                Ok(Found { tools: Tools { qemu, setpriv, uefi, bios }, ramdisk_dir })
            }
            _ => Err(missing),
        }
    }

    /// A UEFI machine boots a loader by TFTP, and its disk by another one.
    fn loaders(&self, ramdisk_dir: Option<&Path>) -> bool {
        [Loader::Snponly, Loader::DiskX64].iter().all(|loader| {
            let name = loader.file_name();
            ramdisk_dir.is_some_and(|dir| dir.join(name).is_file()) || self.at(IPXE_DIR).join(name).is_file()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, files: &[&str]) {
        for file in files {
            let file = root.join(file.trim_start_matches('/'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "x").unwrap();
        }
    }

    fn places(root: &Path) -> Places {
        Places { path: vec![root.join("usr/bin")], root: root.to_owned(), here: root.join("clone"), boot_dir: root.join("state/boot") }
    }

    const PROGRAMS: [&str; 2] = ["/usr/bin/qemu-system-x86_64", "/usr/bin/setpriv"];
    const BIOS: [&str; 2] = [SEABIOS[0], IPXE_ROMS[0]];
    const UEFI: [&str; 3] = [OVMF[0].0, OVMF[0].1, "/usr/lib/ipxe/snponly.efi"];
    const RAMDISK: [&str; 3] = ["clone/target/pxe/vmlinuz", "clone/target/pxe/ramdisk.zst", "clone/target/pxe/local-x64.efi"];

    #[test]
    fn each_missing_thing_is_one_sentence_that_says_how_to_get_it() {
        let root = tempfile::tempdir().unwrap();
        let missing = places(root.path()).look(None).unwrap_err();
        assert_eq!(missing.len(), 4, "{missing:?}");
        for (sentence, way) in missing.iter().zip(["qemu-system-x86", "util-linux", "ovmf seabios", "pxe/build"]) {
            assert!(sentence.contains(way) && sentence.ends_with('.'), "{sentence}");
        }
        assert!(places(root.path()).image(None).unwrap_err().contains("images/tiny/build"));
    }

    #[test]
    fn one_firmware_is_enough() {
        for (firmware, uefi, bios) in [(&BIOS[..], false, true), (&UEFI[..], true, false)] {
            let root = tempfile::tempdir().unwrap();
            put(root.path(), &[&PROGRAMS[..], firmware, &RAMDISK].concat());
            let found = places(root.path()).look(None).unwrap();
            assert_eq!((found.tools.uefi.is_some(), found.tools.bios), (uefi, bios));
        }
    }

    #[test]
    fn uefi_without_its_loaders_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), &[&PROGRAMS[..], &UEFI[..2], &RAMDISK].concat());
        assert!(places(root.path()).look(None).unwrap_err()[0].contains("apt-get install ipxe"));
        put(root.path(), &BIOS);
        assert_eq!(places(root.path()).look(None).unwrap().tools.uefi, None);
    }

    #[test]
    fn what_was_set_up_goes_before_what_was_built_and_what_is_named_before_both() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), &RAMDISK);
        let places = places(root.path());
        assert_eq!(places.ramdisk_dir(None), Some(root.path().join("clone/target/pxe")));
        put(root.path(), &["state/boot/vmlinuz", "state/boot/ramdisk.zst"]);
        assert_eq!(places.ramdisk_dir(None), Some(root.path().join("state/boot")));
        assert_eq!(places.ramdisk_dir(Some(&root.path().join("nowhere"))), None);
    }
}
