//! The machine's own tables as files: a captured SMBIOS table, a tree of disks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use hostler::agent::probe::disk::read_disks;
use hostler::domain::inventory::DiskRef;
use hostler::wire::smbios;

/// QEMU 7.2, q35, SeaBIOS, with names and serials set on its command line.
const QEMU: &[u8] = include_bytes!("../fixtures/smbios/qemu-q35.bin");

#[test]
fn a_captured_smbios_table_names_machine_and_memory() {
    let found = smbios::parse(QEMU);
    let text = |serial: &Option<hostler::domain::id::Serial>| serial.as_ref().map(|s| s.as_str().to_owned());
    assert_eq!(found.system.manufacturer.as_deref(), Some("LabCorp"));
    assert_eq!(found.system.product.as_deref(), Some("LabServer-1"));
    assert_eq!(text(&found.system.serial).as_deref(), Some("LAB0001"));
    assert_eq!(found.system.uuid.map(|uuid| uuid.to_string()).as_deref(), Some("11223344-5566-4788-9900-525400770001"));
    assert_eq!(text(&found.system.chassis_serial).as_deref(), Some("CH1"));
    assert_eq!(found.system.asset_tag.as_deref(), Some("RACK1-U1"));
    assert_eq!(found.bios_vendor.as_deref(), Some("SeaBIOS"));
    assert_eq!(found.dimms.len(), 1);
    let dimm = &found.dimms[0];
    assert_eq!((dimm.slot.as_str(), text(&dimm.serial).as_deref(), dimm.speed_mts), ("DIMM_A 0", Some("MEM1"), Some(3200)));
}

#[test]
fn a_table_cut_anywhere_gives_less_and_never_a_panic() {
    for end in 0..QEMU.len() {
        let found = smbios::parse(&QEMU[..end]);
        assert!(found.dimms.len() <= 1);
    }
    // A structure that claims to be shorter than its own header would be read for ever.
    assert_eq!(smbios::parse(&[1, 0, 0, 0, 0, 0, 0, 0]).system.serial, None);
}

fn put(at: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn disks_tell_their_identity_each_in_its_own_place() {
    let dir = tempfile::tempdir().unwrap();
    let block = dir.path().join("block");
    let common =
        [("queue/logical_block_size", "512\n"), ("queue/rotational", "0\n"), ("removable", "0\n"), ("ro", "0\n"), ("size", "614400\n")];
    for name in ["vda", "nvme0n1", "sda", "loop0", "sr0", "nvme0c0n1"] {
        put(&block.join(name), &common);
    }
    put(&block.join("vda"), &[("serial", "VDISK1\n")]);
    put(
        &block.join("nvme0n1"),
        &[("device/serial", "NVDISK1             \n"), ("wwid", "eui.0025385b71b0a4e5\n"), ("device/model", "QEMU NVMe Ctrl  \n")],
    );
    put(&block.join("nvme0c0n1"), &[("hidden", "1\n")]);
    put(&block.join("sda"), &[("device/wwid", "t10.ATA     QEMU HARDDISK    X\n")]);
    // Captured from QEMU's SCSI disk: page 80h with a serial, page 83h with an NAA designator.
    fs::write(block.join("sda/device/vpd_pg80"), b"\0\x80\0\x09SCSIDISK1").unwrap();
    fs::write(block.join("sda/device/vpd_pg83"), b"\0\x83\0\x19\x02\0\0\x09SCSIDISK1\x01\x03\0\x08\x50\0\xc5\0\x12\x34\x56\x78").unwrap();
    symlink(dir.path(), dir.path().join("elsewhere")).unwrap();

    let disks = read_disks(dir.path());
    let named: Vec<_> =
        disks.iter().map(|d| (d.name.as_str(), d.serial.as_ref().map_or("", |s| s.as_str()), d.wwn.as_deref().unwrap_or(""))).collect();
    assert_eq!(
        named,
        [("nvme0n1", "NVDISK1", "eui.0025385b71b0a4e5"), ("sda", "SCSIDISK1", "naa.5000c50012345678"), ("vda", "VDISK1", "")]
    );
    assert_eq!((disks[0].transport.as_str(), disks[0].size_bytes), ("nvme", 314_572_800));
    assert!(disks.iter().all(|disk| DiskRef::to(disk).is_some_and(|meant| meant.matches(disk))));
}
