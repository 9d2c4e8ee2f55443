//! What single vendors do differently, as rows of data. Everything else in this driver goes by what the BMC shows.
//!
//! A row needs a capture (tests/fixtures/redfish) and a test that fails without it.

use serde_json::Value;

use crate::bmc::redfish::view::clean;

/// One difference.
pub struct Quirk {
    /// What the service root's `Vendor` or the system's `Manufacturer` begins with; empty where the data itself tells.
    vendor: &'static str,
    does: Does,
}

enum Does {
    /// The serial number that SMBIOS shows is in another field than `SerialNumber`.
    SerialIn(&'static str),
    /// Firmware inventory members with ids that begin so are kept beside the one that runs.
    SpareFirmware(&'static [&'static str]),
    /// A part's status in words of its own below `Oem`, the words that are no alarm, and what it is called.
    PartStatusIn { pointer: &'static str, name: &'static str, fine: &'static [&'static str] },
    /// How far the machine's firmware came, where there is no `BootProgress`.
    BootProgressIn(&'static str),
    /// The bytes of an IPMI event beside a log entry.
    RawEventIn(&'static str),
    /// The serial number of the mainboard.
    BoardSerialIn(&'static str),
    /// Array controllers and their drives described beside, or instead of, `Storage`.
    StorageIn(&'static str),
}

const QUIRKS: &[Quirk] = &[
    // PowerEdge R750, iDRAC 9 6.00.30.00: `SKU` is the service tag, `SerialNumber` the board's (dell-poweredge-r750-idrac9).
    Quirk { vendor: "Dell", does: Does::SerialIn("SKU") },
    // Same capture: `Installed-159-1.8.2__BIOS…` runs, `Previous-159-1.2.4__BIOS…` is for going back.
    Quirk { vendor: "Dell", does: Does::SpareFirmware(&["Previous-", "Available-"]) },
    // ProLiant DL360 Gen10 Plus, iLO 5 v3.11 (hpe-proliant-dl360-ilo5); words from HPE's schema HpeMemoryExt.
    Quirk {
        vendor: "",
        does: Does::PartStatusIn {
            pointer: "/Oem/Hpe/DIMMStatus",
            name: "DIMMStatus",
            fine: &["GoodInUse", "GoodPartiallyInUse", "NotPresent", "Other", "Unknown", "AddedButUnused", "UpgradedButUnused"],
        },
    },
    Quirk {
        vendor: "",
        does: Does::PartStatusIn {
            pointer: "/Oem/ts_fujitsu/SignalStatus",
            name: "SignalStatus",
            fine: &["Ok", "OK", "NotPresent", "NotAvailable"],
        },
    },
    Quirk { vendor: "", does: Does::BootProgressIn("/Oem/Hpe/PostState") },
    Quirk { vendor: "", does: Does::StorageIn("/Oem/Hpe/Links/SmartStorage") },
    // iLO 4 writes "Hp" where later ones write "Hpe", otherwise the same (HPE's API reference for iLO 4, 2.30 and later).
    Quirk { vendor: "", does: Does::StorageIn("/Oem/Hp/Links/SmartStorage") },
    Quirk { vendor: "", does: Does::BootProgressIn("/Oem/Hp/PostState") },
    // X10SDV, AST2400 4.0 (supermicro-x10sdv-ast2400).
    Quirk { vendor: "", does: Does::RawEventIn("/Oem/Supermicro/RawEventData") },
    Quirk { vendor: "", does: Does::BoardSerialIn("/Oem/Supermicro/BoardSerialNumber") },
];

fn of_vendor(vendor: &str) -> impl Iterator<Item = &'static Does> {
    QUIRKS.iter().filter(move |q| q.vendor.is_empty() || vendor.starts_with(q.vendor)).map(|q| &q.does)
}

fn word(body: &Value, pointer: &str) -> Option<String> {
    body.pointer(pointer).and_then(Value::as_str).and_then(clean)
}

/// The field with the serial number that the machine itself shows in SMBIOS, for a manufacturer.
pub fn serial_field(manufacturer: &str) -> Option<&'static str> {
    of_vendor(manufacturer).find_map(|does| match does {
        Does::SerialIn(field) => Some(*field),
        Does::SpareFirmware(_)
        | Does::PartStatusIn { .. }
        | Does::BootProgressIn(_)
        | Does::RawEventIn(_)
        | Does::BoardSerialIn(_)
        | Does::StorageIn(_) => None,
    })
}

/// Whether a firmware inventory member is the one that runs; `None` where the vendor makes no difference.
pub fn firmware_in_use(vendor: &str, id: &str) -> Option<bool> {
    of_vendor(vendor).find_map(|does| match does {
        Does::SpareFirmware(prefixes) => Some(!prefixes.iter().any(|p| id.starts_with(p))),
        Does::SerialIn(_)
        | Does::PartStatusIn { .. }
        | Does::BootProgressIn(_)
        | Does::RawEventIn(_)
        | Does::BoardSerialIn(_)
        | Does::StorageIn(_) => None,
    })
}

/// What a part says of itself in its vendor's words, if that is an alarm.
pub fn oem_alarm(part: &Value) -> Option<String> {
    of_vendor("").find_map(|does| match does {
        Does::PartStatusIn { pointer, name, fine } => {
            let said = word(part, pointer)?;
            (!fine.contains(&said.as_str())).then(|| format!("{name}: {said}"))
        }
        Does::SerialIn(_)
        | Does::SpareFirmware(_)
        | Does::BootProgressIn(_)
        | Does::RawEventIn(_)
        | Does::BoardSerialIn(_)
        | Does::StorageIn(_) => None,
    })
}

/// How far the machine's firmware came, in its vendor's word.
pub fn boot_progress(system: &Value) -> Option<String> {
    of_vendor("").find_map(|does| match does {
        Does::BootProgressIn(pointer) => word(system, pointer),
        Does::SerialIn(_)
        | Does::SpareFirmware(_)
        | Does::PartStatusIn { .. }
        | Does::RawEventIn(_)
        | Does::BoardSerialIn(_)
        | Does::StorageIn(_) => None,
    })
}

/// The IPMI event record beside a log entry.
pub fn raw_event(entry: &Value) -> Option<&Value> {
    of_vendor("").find_map(|does| match does {
        Does::RawEventIn(pointer) => entry.pointer(pointer),
        Does::SerialIn(_)
        | Does::SpareFirmware(_)
        | Does::PartStatusIn { .. }
        | Does::BootProgressIn(_)
        | Does::BoardSerialIn(_)
        | Does::StorageIn(_) => None,
    })
}

/// The mainboard's serial number in a chassis: where it is, and what it says.
pub fn board_serial(chassis: &Value) -> Option<(&'static str, String)> {
    of_vendor("").find_map(|does| match does {
        Does::BoardSerialIn(pointer) => word(chassis, pointer).map(|serial| (*pointer, serial)),
        Does::SerialIn(_)
        | Does::SpareFirmware(_)
        | Does::PartStatusIn { .. }
        | Does::BootProgressIn(_)
        | Does::RawEventIn(_)
        | Does::StorageIn(_) => None,
    })
}

/// The vendor's own description of storage.
pub fn oem_storage(system: &Value) -> Option<String> {
    of_vendor("").find_map(|does| match does {
        Does::StorageIn(pointer) => system.pointer(pointer).and_then(crate::bmc::redfish::read::link_of).map(str::to_owned),
        Does::SerialIn(_)
        | Does::SpareFirmware(_)
        | Does::PartStatusIn { .. }
        | Does::BootProgressIn(_)
        | Does::RawEventIn(_)
        | Does::BoardSerialIn(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dimm_in_trouble_says_so_in_its_vendors_words() {
        let hpe = |status: &str| oem_alarm(&json!({"Oem": {"Hpe": {"DIMMStatus": status}}}));
        assert_eq!(hpe("GoodInUse"), None);
        assert_eq!(hpe("Degraded").as_deref(), Some("DIMMStatus: Degraded"));
        assert_eq!(oem_alarm(&json!({"Oem": {"ts_fujitsu": {"SignalStatus": "Error"}}})).as_deref(), Some("SignalStatus: Error"));
        assert_eq!(oem_alarm(&json!({"Oem": {"Hpe": {"DIMMStatus": 7}}})), None);
    }

    #[test]
    fn only_a_dell_keeps_its_smbios_serial_in_the_sku() {
        assert_eq!((serial_field("Dell Inc."), serial_field("HPE"), serial_field("")), (Some("SKU"), None, None));
    }

    #[test]
    fn spare_images_of_a_dell_do_not_run() {
        assert_eq!(firmware_in_use("Dell", "Previous-159-1.2.4__BIOS.Setup.1-1"), Some(false));
        assert_eq!(firmware_in_use("Dell", "Installed-159-1.8.2__BIOS.Setup.1-1"), Some(true));
        assert_eq!(firmware_in_use("HPE", "Previous-1"), None);
    }
}
