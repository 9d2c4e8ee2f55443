//! HPE's own description of array controllers, drives and logical drives, from before there was `Storage` (iLO 4 and 5).
//!
//! Newer iLOs serve both: drives and controllers are known by their serials then, logical drives only where `Storage` lists no
//! volume (seen: a DL360 Gen10 Plus whose `Volumes` counts one member and lists none).

use crate::bmc::BmcError;
use crate::bmc::redfish::parts::List;
use crate::bmc::redfish::quirks;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::domain::part::{Part, PartKind};

pub async fn read(walk: &mut Walk<'_>, system: &Resource, list: &mut List) -> Result<(), BmcError> {
    let Some(link) = quirks::oem_storage(&system.body) else { return Ok(()) };
    let Some(storage) = walk.get(&link).await? else { return Ok(()) };
    let Some(links) = storage.body.get("Links").or_else(|| storage.body.get("links")).cloned() else { return Ok(()) };
    let has_volumes = list.parts.iter().any(|p| p.kind == PartKind::Volume);
    for field in ["ArrayControllers", "HostBusAdapters"] {
        for controller in walk.follow_members(&links, field).await? {
            let part = walk.reader(&controller).part(PartKind::StorageController);
            list.add_doubtful(part);
            let Some(links) = controller.body.get("Links").or_else(|| controller.body.get("links")).cloned() else { continue };
            for drive in walk.follow_members(&links, "PhysicalDrives").await? {
                let part = physical(&mut walk.reader(&drive));
                list.add_doubtful(part);
            }
            for volume in walk.follow_members(&links, "LogicalDrives").await? {
                if !has_volumes {
                    let part = logical(&mut walk.reader(&volume));
                    list.add(part);
                }
            }
        }
    }
    Ok(())
}

fn capacity(r: &mut Reader) -> Option<u64> {
    r.count("CapacityMiB").filter(|n| *n > 0).map(|n| n.saturating_mul(1 << 20))
}

fn physical(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Drive);
    part.place = r.text("Location");
    if let Some(place) = &part.place {
        part.name = format!("Drive {place}");
    }
    part.facts.capacity_bytes = capacity(r);
    part.facts.protocol = r.text("InterfaceType");
    part.facts.media = r.text("MediaType");
    part.facts.encrypted = r.flag("EncryptedDrive");
    part.facts.life_left_percent = r.number("SSDEnduranceUtilizationPercentage").map(|used| 100.0 - used);
    reasons(r, "DiskDriveStatusReasons", &mut part);
    part
}

fn logical(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Volume);
    part.name = r.text("LogicalDriveName").unwrap_or(part.name);
    part.facts.capacity_bytes = capacity(r);
    part.facts.volume = r.text("Raid").map(|level| format!("RAID{level}"));
    part.facts.encrypted = r.flag("LogicalDriveEncryption");
    reasons(r, "LogicalDriveStatusReasons", &mut part);
    part
}

/// Why a drive is not well; `None` and `Ok` are no reasons.
fn reasons(r: &mut Reader, field: &str, part: &mut Part) {
    let words = r.words(field).into_iter().filter(|w| !matches!(w.as_str(), "None" | "Ok" | "OK" | "Unknown"));
    part.facts.alarms.extend(words.map(|w| format!("{field}: {w}")));
}
