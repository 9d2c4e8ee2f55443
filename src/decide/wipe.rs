//! What a release must wipe, and whether an agent's evidence proves that it did.
//!
//! Every disk that stays in the machine is in the order, and every disk we ever wrote is; one that cannot be stops the
//! release. A disk that is left out must never be reported as wiped.

use crate::domain::inventory::{Disk, DiskRef, Inventory};
use crate::wire::agent::WipeEvidence;

/// Why the disks cannot be wiped: a stable word, and sentences for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub what: String,
    pub remedy: &'static str,
}

/// The disks to wipe, `written` being those Hostler wrote since the last proven wipe. Empty only if there is none of either.
///
/// # Errors
/// `disk_not_wipeable`, `disk_without_identity`, `written_disk_missing`.
pub fn order(inventory: &Inventory, written: &[DiskRef], machine: &str) -> Result<Vec<DiskRef>, Refusal> {
    let mut ordered: Vec<(&Disk, DiskRef)> = Vec::new();
    for disk in inventory.disks.iter().filter(|d| !d.removable && d.size_bytes > 0) {
        let named = DiskRef::to(disk).ok_or_else(|| Refusal {
            code: "disk_without_identity",
            what: format!("the disk {} of {machine} has neither serial nor WWN, so it cannot be named safely for a wipe", disk.name),
            remedy: "wipe it by hand, then abort and forget the machine",
        })?;
        if disk.read_only {
            return Err(not_wipeable(&named, machine, "is read-only"));
        }
        ordered.push((disk, named));
    }
    for written in written {
        if ordered.iter().any(|(disk, _)| written.matches(disk)) {
            continue;
        }
        return Err(match inventory.disks.iter().find(|d| written.matches(d)) {
            Some(_) => not_wipeable(written, machine, "was written by us and now says that it is removable or empty"),
            None => Refusal {
                code: "written_disk_missing",
                what: format!("{written} of {machine} was written by us and is not in the machine now"),
                remedy: "put the disk back and retry; if it is gone for good, abort and forget the machine, and treat the disk as holding data",
            },
        });
    }
    Ok(ordered.into_iter().map(|(_, named)| named).collect())
}

fn not_wipeable(disk: &DiskRef, machine: &str, why: &str) -> Refusal {
    Refusal {
        code: "disk_not_wipeable",
        what: format!("{disk} of {machine} {why}, so it cannot be wiped; nothing was wiped"),
        remedy: "look at its write protection and its health (worn SSDs turn read-only), or take the disk out and treat it as holding \
                 data; restart the machine into the ramdisk, then retry",
    }
}

/// Whether `evidence` shows for each ordered disk that all of it was read back. `Err` is a sentence.
pub fn proven(ordered: &[DiskRef], evidence: &serde_json::Value) -> Result<(), String> {
    let evidence: WipeEvidence =
        serde_json::from_value(evidence.clone()).map_err(|e| format!("what the agent tells of the wipe cannot be read ({e})"))?;
    for disk in ordered {
        let mut told = evidence.disks.iter().filter(|d| {
            let named = disk.serial.is_some() || disk.wwn.is_some();
            named && (disk.serial.is_none() || disk.serial == d.serial) && (disk.wwn.is_none() || disk.wwn == d.wwn)
        });
        match told.next() {
            None => return Err(format!("the agent says that it wiped and does not name {disk}")),
            Some(d) if d.bytes_read_back != disk.size_bytes => {
                return Err(format!("the agent read back {} of {} bytes of {disk}", d.bytes_read_back, disk.size_bytes));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn disk(name: &str, serial: Option<&str>) -> Disk {
        Disk { name: name.into(), serial: serial.map(|s| s.parse().unwrap()), size_bytes: 1000, ..Disk::default() }
    }

    fn with(disks: Vec<Disk>) -> Inventory {
        Inventory { disks, ..Inventory::default() }
    }

    fn code(disks: Vec<Disk>, written: &[DiskRef]) -> Result<usize, &'static str> {
        order(&with(disks), written, "m1").map(|o| o.len()).map_err(|r| r.code)
    }

    #[test]
    fn every_fixed_disk_is_ordered_and_a_reader_or_a_stick_is_not() {
        let stick = Disk { removable: true, ..disk("sdb", Some("S")) };
        let empty = Disk { size_bytes: 0, ..disk("sdc", None) };
        assert_eq!(code(vec![disk("sda", Some("A")), disk("nvme0n1", Some("B")), stick, empty], &[]), Ok(2));
        assert_eq!(code(vec![], &[]), Ok(0));
    }

    #[test]
    fn a_read_only_disk_stops_the_release() {
        let worn = Disk { read_only: true, ..disk("sdb", Some("B")) };
        assert_eq!(code(vec![disk("sda", Some("A")), worn.clone()], &[]), Err("disk_not_wipeable"));
        assert_eq!(code(vec![worn], &[]), Err("disk_not_wipeable"), "also when nothing else is left to wipe");
    }

    #[test]
    fn a_written_disk_is_in_the_order_or_the_release_stops() {
        let a = disk("sda", Some("A"));
        let written = [DiskRef::to(&a).unwrap()];
        assert_eq!(code(vec![a.clone()], &written), Ok(1));
        assert_eq!(code(vec![], &written), Err("written_disk_missing"));
        assert_eq!(code(vec![disk("sdb", Some("B"))], &written), Err("written_disk_missing"));
        assert_eq!(code(vec![Disk { removable: true, ..a.clone() }], &written), Err("disk_not_wipeable"));
        assert_eq!(code(vec![Disk { read_only: true, ..a }], &written), Err("disk_not_wipeable"));
    }

    #[test]
    fn a_disk_that_cannot_be_named_stops_the_release() {
        assert_eq!(code(vec![disk("sda", None)], &[]), Err("disk_without_identity"));
    }

    #[test]
    fn only_a_full_read_back_of_each_ordered_disk_proves_a_wipe() {
        let ordered: Vec<DiskRef> = [disk("sda", Some("A")), disk("sdb", Some("B"))].iter().filter_map(DiskRef::to).collect();
        let told = |serial: &str, bytes: u64| json!({ "serial": serial, "bytes_read_back": bytes });
        assert_eq!(proven(&ordered, &json!({ "disks": [told("B", 1000), told("A", 1000)] })), Ok(()));
        for lacking in [
            json!({ "test": true }),
            json!(null),
            json!({ "disks": [] }),
            json!({ "disks": [told("A", 1000)] }),
            json!({ "disks": [told("A", 1000), told("C", 1000)] }),
            json!({ "disks": [told("A", 1000), told("B", 999)] }),
            json!({ "disks": [told("A", 1000), { "serial": "B" }] }),
            json!({ "disks": [told("A", 1000), { "bytes_read_back": 1000 }] }),
        ] {
            assert!(proven(&ordered, &lacking).is_err(), "{lacking}");
        }
    }

    /// As agents have sent it since protocol 1: what is stored and sent stays readable.
    #[test]
    fn evidence_of_protocol_1_is_read() {
        let sent = json!({ "disks": [{
            "disk": "sda", "serial": "A", "wwn": null, "size_bytes": 1000, "method": "blkdiscard", "bytes_zeroed": 1000,
            "bytes_read_back": 1000, "overwritten_again": 0, "seconds": 3,
        }] });
        assert_eq!(proven(&[DiskRef::to(&disk("sda", Some("A"))).unwrap()], &sent), Ok(()));
        let read: WipeEvidence = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), sent);
    }
}
