//! Drives, their controllers and volumes.

use crate::bmc::BmcError;
use crate::bmc::redfish::parts::compute::{pcie_link, raised};
use crate::bmc::redfish::parts::{List, bad_health};
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::sensors::element_path;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::domain::part::{Part, PartKind, PartState};

pub async fn read(walk: &mut Walk<'_>, system: &Resource, list: &mut List) -> Result<(), BmcError> {
    for storage in walk.follow_members(&system.body, "Storage").await? {
        controllers(walk, &storage, list).await?;
        for drive in walk.follow_members(&storage.body, "Drives").await? {
            add_drive(walk, &drive, list).await?;
        }
        for resource in walk.follow_members(&storage.body, "Volumes").await? {
            let part = volume(&mut walk.reader(&resource));
            list.add(part);
        }
    }
    Ok(())
}

/// The older description of the same disks, without serials: only where neither `Storage` nor an enclosure lists any.
pub async fn simple(walk: &mut Walk<'_>, system: &Resource, list: &mut List) -> Result<(), BmcError> {
    if list.parts.iter().any(|p| p.kind == PartKind::Drive && !p.source.contains("/SimpleStorage/")) {
        return Ok(());
    }
    for simple in walk.follow_members(&system.body, "SimpleStorage").await? {
        let devices = walk.reader(&simple).list("Devices");
        for (i, device) in devices.into_iter().enumerate() {
            let source = element_path(&simple.path, "Devices", i, device);
            let mut r = Reader::new(device, &source, &mut walk.odd);
            let mut part = r.part(PartKind::Drive);
            part.facts.capacity_bytes = r.count("CapacityBytes").filter(|n| *n > 0);
            list.add(part);
        }
    }
    Ok(())
}

/// Drives that an enclosure lists, its empty bays among them.
pub async fn chassis_drives(walk: &mut Walk<'_>, chassis: &Resource, list: &mut List) -> Result<(), BmcError> {
    for drive in walk.follow_members(&chassis.body, "Drives").await? {
        add_drive(walk, &drive, list).await?;
    }
    let links: Vec<String> = match walk.reader(chassis).inside("Links") {
        Some(links) => links.links("Drives").into_iter().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    for drive in walk.get_all(&links).await? {
        add_drive(walk, &drive, list).await?;
    }
    Ok(())
}

/// `Controllers`, the collection of 1.9 and later, and `StorageControllers`, the array of before; some send both.
async fn controllers(walk: &mut Walk<'_>, storage: &Resource, list: &mut List) -> Result<(), BmcError> {
    let modern = walk.follow_members(&storage.body, "Controllers").await?;
    let none = modern.is_empty();
    for controller in modern {
        let part = storage_controller(&mut walk.reader(&controller));
        list.add(part);
        if let Some(link) = controller.body.get("EnvironmentMetrics").and_then(crate::bmc::redfish::read::link_of)
            && !walk.has_read(link)
            && let Some(environment) = walk.get(link).await?
            && let Some(part) = list.parts.last_mut()
        {
            walk.reader(&environment).metrics_into(&mut part.facts.metrics);
        }
    }
    if none {
        for entry in walk.entries(storage, "StorageControllers").await? {
            let part = storage_controller(&mut walk.reader(&entry));
            list.add(part);
        }
    }
    Ok(())
}

fn storage_controller(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::StorageController);
    part.facts.protocol = Some(r.words("SupportedDeviceProtocols").join(", ")).filter(|p| !p.is_empty());
    if let Some(mut pcie) = r.inside("PCIeInterface") {
        pcie_link(&mut pcie, &mut part);
    }
    if let Some(mut cache) = r.inside("CacheSummary") {
        if let Some(word) = bad_health(cache.status().health) {
            part.facts.alarms.push(format!("Cache: {word}"));
        }
        part.facts.capacity_bytes = cache.count("TotalCacheSizeMiB").filter(|n| *n > 0).map(|n| n.saturating_mul(1 << 20));
    }
    nvme_warnings(r, &mut part);
    part
}

/// `NVMeControllerProperties.NVMeSMARTCriticalWarnings` (on the controller, and on the drive in some trees).
fn nvme_warnings(r: &mut Reader, part: &mut Part) {
    for holder in ["NVMeControllerProperties", "NVMe"] {
        if let Some(mut nvme) = r.inside(holder)
            && let Some(warnings) = nvme.inside("NVMeSMARTCriticalWarnings")
        {
            part.facts.alarms.extend(raised(&warnings, "CriticalWarning"));
        }
    }
}

async fn add_drive(walk: &mut Walk<'_>, resource: &Resource, list: &mut List) -> Result<(), BmcError> {
    if list.has(&resource.path) {
        return Ok(());
    }
    let mut part = drive(&mut walk.reader(resource));
    if part.state != PartState::Absent {
        for field in ["Metrics", "EnvironmentMetrics"] {
            if let Some(metrics) = walk.follow(&resource.body, field).await? {
                let mut r = walk.reader(&metrics);
                nvme_warnings(&mut r, &mut part);
                part.facts.correctable_errors = part.facts.correctable_errors.or(r.count("CorrectableIOReadErrorCount"));
                part.facts.uncorrectable_errors = part.facts.uncorrectable_errors.or(r.count("UncorrectableIOReadErrorCount"));
                r.metrics_into(&mut part.facts.metrics);
            }
        }
    }
    list.add(part);
    Ok(())
}

fn drive(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Drive);
    let facts = &mut part.facts;
    facts.capacity_bytes = r.count("CapacityBytes").filter(|n| *n > 0);
    facts.protocol = r.text("Protocol");
    facts.media = r.text("MediaType");
    facts.failure_predicted = r.flag("FailurePredicted");
    facts.life_left_percent = r.number("PredictedMediaLifeLeftPercent");
    facts.encrypted = match r.text("EncryptionStatus").as_deref() {
        Some("Unencrypted") => Some(false),
        Some("Unlocked" | "Locked" | "Foreign" | "UnlockedForeign" | "Encrypted") => Some(true),
        Some(_) | None => None,
    };
    if let Some(indicator) = r.text("StatusIndicator")
        && matches!(indicator.as_str(), "Fail" | "PredictiveFailureAnalysis" | "InACriticalArray" | "InAFailedArray" | "Rebuild")
    {
        facts.alarms.push(format!("StatusIndicator: {indicator}"));
    }
    for operation in operations(r) {
        facts.alarms.push(operation);
    }
    nvme_warnings(r, &mut part);
    part
}

fn volume(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Volume);
    part.facts.capacity_bytes = r.count("CapacityBytes").filter(|n| *n > 0);
    part.facts.encrypted = r.flag("Encrypted");
    let level = r.first_text(&["RAIDType", "VolumeType"]);
    let words: Vec<String> = level.into_iter().chain(operations(r)).collect();
    part.facts.volume = Some(words.join("; ")).filter(|w| !w.is_empty());
    part
}

/// `Operations[]`: what is under way, with its share done.
fn operations(r: &mut Reader) -> Vec<String> {
    let entries = r.list("Operations");
    let mut out = Vec::new();
    for entry in entries.into_iter().take(8) {
        let mut o = Reader::new(entry, r.source, r.odd);
        let Some(name) = o.first_text(&["OperationName", "Operation"]) else { continue };
        out.push(match o.number("PercentageComplete") {
            Some(percent) => format!("{name} {percent:.0} %"),
            None => name,
        });
    }
    out
}
