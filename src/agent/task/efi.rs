//! UEFI boot variables, written through efivarfs (UEFI Specification 2.10 section 3.1.3 and 3.3).
//!
//! `BootNext` sends exactly the next boot to the disk. `BootOrder` keeps the order it has: our entry is only appended
//! when it is not in it yet, because some firmware deletes entries outside the order. A machine whose operator put the
//! network first still asks the network first on every later boot, and Hostler answers.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::agent::task::TaskError;
use crate::agent::task::grow::{Partition, TYPE_ESP};

/// EFI_GLOBAL_VARIABLE.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const LABEL: &str = "Hostler disk";
/// Non-volatile, for boot and runtime.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];

/// The removable-media path of section 3.5.1.1: what every image that boots on UEFI carries.
#[cfg(target_arch = "x86_64")]
pub const FALLBACK_LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";
#[cfg(target_arch = "aarch64")]
pub const FALLBACK_LOADER: &str = r"\EFI\BOOT\BOOTAA64.EFI";

/// An EFI_LOAD_OPTION for a loader on the EFI system partition `esp`.
pub fn load_option(esp: &Partition, loader: &str) -> Vec<u8> {
    let mut path = Vec::new();
    // Hard drive media device path (10.3.5.1): type 4, subtype 1, 42 bytes.
    path.extend([4, 1, 42, 0]);
    path.extend(esp.number.to_le_bytes());
    path.extend(esp.first_lba.to_le_bytes());
    path.extend((esp.last_lba + 1 - esp.first_lba).to_le_bytes());
    path.extend(esp.unique_guid);
    path.extend([2, 2]); // GPT, signature is a GUID
    // File path media device path (10.3.5.4): type 4, subtype 4.
    let file = utf16(loader);
    path.extend([4, 4]);
    path.extend(u16::try_from(4 + file.len()).unwrap_or(u16::MAX).to_le_bytes());
    path.extend(file);
    path.extend([0x7f, 0xff, 4, 0]); // end of the whole path

    let mut option = vec![1, 0, 0, 0]; // LOAD_OPTION_ACTIVE
    option.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    option.extend(utf16(LABEL));
    option.extend(path);
    option
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The EFI system partition among `partitions`.
pub fn esp(partitions: &[Partition]) -> Option<&Partition> {
    partitions.iter().find(|p| p.type_guid == TYPE_ESP)
}

/// Makes the next boot, and only that, start the loader on `esp`. Returns the number of the boot entry used.
///
/// # Errors
/// `boot_entry` when the firmware does not take a variable (full, locked, or not mounted).
pub fn boot_next_from(vars: &Path, esp: &Partition) -> Result<u16, TaskError> {
    let option = load_option(esp, FALLBACK_LOADER);
    let number = entry_number(vars)?;
    write_var(vars, &entry_name(number), &option)?;
    let mut order = read_var(vars, "BootOrder").unwrap_or_default();
    if !order.chunks_exact(2).any(|entry| entry == number.to_le_bytes()) {
        order.extend(number.to_le_bytes());
        write_var(vars, "BootOrder", &order)?;
    }
    write_var(vars, "BootNext", &number.to_le_bytes())?;
    if read_var(vars, "BootNext").as_deref() != Some(&number.to_le_bytes()) {
        return Err(TaskError::for_good("boot_entry", "the firmware took BootNext but does not show it"));
    }
    Ok(number)
}

/// Our own entry from an earlier deploy, or else the lowest free number.
fn entry_number(vars: &Path) -> Result<u16, TaskError> {
    let listed = fs::read_dir(vars).map_err(|e| TaskError::for_good("boot_entry", format!("cannot list {}: {e}", vars.display())))?;
    let mut taken = std::collections::BTreeSet::new();
    let label = utf16(LABEL);
    for entry in listed.flatten() {
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|n| n.strip_suffix(GLOBAL)).and_then(|n| n.strip_prefix("Boot")).and_then(|n| n.strip_suffix('-'));
        let Some(number) = number.filter(|n| n.len() == 4).and_then(|n| u16::from_str_radix(n, 16).ok()) else {
            continue;
        };
        if read_var(vars, &entry_name(number)).is_some_and(|option| option.get(6..).is_some_and(|rest| rest.starts_with(&label))) {
            return Ok(number);
        }
        taken.insert(number);
    }
    (0..=u16::MAX).find(|n| !taken.contains(n)).ok_or_else(|| TaskError::for_good("boot_entry", "all 65536 boot entries are taken"))
}

fn entry_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

fn var_path(vars: &Path, name: &str) -> PathBuf {
    vars.join(format!("{name}-{GLOBAL}"))
}

/// The value of a global variable, without its attributes.
pub fn read_var(vars: &Path, name: &str) -> Option<Vec<u8>> {
    let bytes = fs::read(var_path(vars, name)).ok()?;
    bytes.get(4..).map(<[u8]>::to_vec)
}

fn write_var(vars: &Path, name: &str, value: &[u8]) -> Result<(), TaskError> {
    let path = var_path(vars, name);
    // efivarfs wants attributes and value in one write.
    let bytes = [&ATTRIBUTES, value].concat();
    File::create(&path)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|e| TaskError::for_good("boot_entry", format!("the firmware did not take {name}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn esp() -> Partition {
        Partition { number: 1, type_guid: TYPE_ESP, unique_guid: [0xab; 16], first_lba: 2048, last_lba: 71_679, block_bytes: 512 }
    }

    fn put(vars: &Path, name: &str, value: &[u8]) {
        write_var(vars, name, value).unwrap();
    }

    #[test]
    fn a_load_option_is_laid_out_as_the_specification_says() {
        let option = load_option(&esp(), r"\A");
        // attributes, path length 42 + 10 + 4, the label
        assert_eq!(option[..6], [1, 0, 0, 0, 56, 0]);
        let path = &option[6 + 2 * (LABEL.len() + 1)..];
        assert_eq!(path[..8], [4, 1, 42, 0, 1, 0, 0, 0]);
        assert_eq!(path[8..24], [0, 8, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0, 0, 0, 0]);
        assert_eq!(path[40..42], [2, 2]);
        assert_eq!(path[42..], [4, 4, 10, 0, b'\\', 0, b'A', 0, 0, 0, 0x7f, 0xff, 4, 0]);
    }

    #[test]
    fn a_network_first_boot_order_stays_network_first() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "BootOrder", &[3, 0, 0, 0]);
        put(dir.path(), "Boot0000", b"other");
        put(dir.path(), "Boot0003", b"network");
        assert_eq!(boot_next_from(dir.path(), &esp()).unwrap(), 1);
        assert_eq!(read_var(dir.path(), "BootOrder").unwrap(), [3, 0, 0, 0, 1, 0]);
        assert_eq!(read_var(dir.path(), "BootNext").unwrap(), [1, 0]);
    }

    #[test]
    fn a_second_deploy_uses_the_same_entry_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = boot_next_from(dir.path(), &esp()).unwrap();
        let second = boot_next_from(dir.path(), &Partition { number: 2, ..esp() }).unwrap();
        assert_eq!((first, second), (0, 0));
        assert_eq!(read_var(dir.path(), "BootOrder").unwrap(), [0, 0]);
        assert_eq!(read_var(dir.path(), "Boot0000").unwrap(), load_option(&Partition { number: 2, ..esp() }, FALLBACK_LOADER));
    }
}
