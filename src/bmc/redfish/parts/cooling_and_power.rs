//! Fans, power supplies, batteries, leak detectors and their redundancy.

use crate::bmc::BmcError;
use crate::bmc::redfish::parts::List;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::sensors::element_path;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::domain::part::{Part, PartKind};

pub async fn read(walk: &mut Walk<'_>, chassis: &Resource, list: &mut List) -> Result<(), BmcError> {
    let (mut fans, mut supplies, mut redundancy) = (0, 0, [0, 0]);
    if let Some(thermal) = walk.follow(&chassis.body, "ThermalSubsystem").await? {
        for fan in walk.follow_members(&thermal.body, "Fans").await? {
            fans += 1;
            let part = walk.reader(&fan).part(PartKind::Fan);
            list.add(part);
        }
        redundancy[0] = groups(walk, &thermal, "FanRedundancy", list);
        if let Some(leaks) = walk.follow(&thermal.body, "LeakDetection").await? {
            leak_detectors(walk, &leaks, list).await?;
        }
    }
    // Some link the detectors from the chassis.
    leak_detectors(walk, chassis, list).await?;
    if let Some(power) = walk.follow(&chassis.body, "PowerSubsystem").await? {
        for supply in walk.follow_members(&power.body, "PowerSupplies").await? {
            supplies += 1;
            let mut part = power_supply(&mut walk.reader(&supply));
            if let Some(metrics) = walk.follow(&supply.body, "Metrics").await? {
                walk.reader(&metrics).metrics_into(&mut part.facts.metrics);
            }
            list.add(part);
        }
        for battery in walk.follow_members(&power.body, "Batteries").await? {
            let part = battery_part(&mut walk.reader(&battery));
            list.add(part);
        }
        redundancy[1] = groups(walk, &power, "PowerSupplyRedundancy", list);
    }
    if (fans == 0 || redundancy[0] == 0)
        && let Some(thermal) = walk.follow(&chassis.body, "Thermal").await?
    {
        if fans == 0 {
            elements(walk, &thermal, "Fans", list, legacy_fan).await?;
        }
        if redundancy[0] == 0 {
            groups(walk, &thermal, "Redundancy", list);
        }
    }
    if (supplies == 0 || redundancy[1] == 0)
        && let Some(power) = walk.follow(&chassis.body, "Power").await?
    {
        if supplies == 0 {
            elements(walk, &power, "PowerSupplies", list, power_supply).await?;
        }
        if redundancy[1] == 0 {
            groups(walk, &power, "Redundancy", list);
        }
    }
    Ok(())
}

/// The members of an array of a legacy resource.
async fn elements(
    walk: &mut Walk<'_>,
    resource: &Resource,
    field: &str,
    list: &mut List,
    read: fn(&mut Reader) -> Part,
) -> Result<(), BmcError> {
    for (i, entry) in walk.entries(resource, field).await?.iter().enumerate() {
        let mut part = read(&mut walk.reader(entry));
        // One name for all of them (iLO 5: "HpeServerPowerSupply") tells nothing apart.
        if field == "PowerSupplies" && !part.name.contains(|c: char| c.is_ascii_digit()) {
            part.name = format!("Power supply {}", i + 1);
        }
        list.add(part);
    }
    Ok(())
}

fn legacy_fan(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Fan);
    if let Some(name) = r.text("FanName")
        && !r.has("Name")
    {
        part.name = name;
    }
    part
}

/// A `PowerSupply`, modern or a member of legacy `Power`.
fn power_supply(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::PowerSupply);
    part.facts.capacity_watts = r.number("PowerCapacityWatts").filter(|w| *w > 0.0);
    part.facts.line_input = r.text("LineInputStatus");
    if part.part_number.is_none() {
        part.part_number = r.text("SparePartNumber");
    }
    part
}

fn battery_part(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Battery);
    part.facts.life_left_percent = r.number("StateOfHealthPercent");
    if part.facts.life_left_percent.is_none()
        && let Some(mut excerpt) = r.inside("StateOfHealthPercent")
    {
        part.facts.life_left_percent = excerpt.number("Reading");
    }
    part.facts.link = r.text("ChargeState");
    part
}

/// `LeakDetectors`, directly or below `LeakDetection`, and leak detector groups written as arrays.
async fn leak_detectors(walk: &mut Walk<'_>, holder: &Resource, list: &mut List) -> Result<(), BmcError> {
    for detector in walk.follow_members(&holder.body, "LeakDetectors").await? {
        let part = leak_detector(&mut walk.reader(&detector));
        list.add(part);
    }
    Ok(())
}

fn leak_detector(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::LeakDetector);
    if let Some(state) = r.text("DetectorState").filter(|s| s != "OK") {
        part.facts.alarms.push(format!("DetectorState: {state}"));
    }
    part
}

/// Redundancy groups (legacy `Redundancy`, modern `RedundantGroup`). Gives how many there are.
fn groups(walk: &mut Walk<'_>, resource: &Resource, field: &str, list: &mut List) -> usize {
    let entries = walk.reader(resource).list(field);
    let count = entries.len();
    for (i, entry) in entries.into_iter().enumerate() {
        let source = element_path(&resource.path, field, i, entry);
        let mut r = Reader::new(entry, &source, &mut walk.odd);
        let mut part = r.part(PartKind::Redundancy);
        if !r.has("Name") {
            part.name = format!("{field} {i}");
        }
        part.model = r.first_text(&["RedundancyType", "Mode"]);
        for number in ["MinNumNeeded", "MaxNumSupported", "MinNeededInGroup", "MaxSupportedInGroup"] {
            if let Some(n) = r.number(number) {
                part.facts.metrics.insert(number.to_owned(), n);
            }
        }
        list.add(part);
    }
    count
}
