//! Every part of a machine: a walk over its systems, chassis and managers.
//!
//! A part is known by where it was read, so one that two resources link to is listed once. A part that two *descriptions* list
//! (legacy `Power` and `PowerSubsystem`, an `Assembly` and the part itself) is taken from the better one.

mod compute;
mod cooling_and_power;
mod network;
mod smart_storage;
mod storage;

use std::collections::HashSet;

use serde_json::Value;

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::quirks;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::domain::bmc_features::Found;
use crate::domain::id::Mac;
use crate::domain::part::{Part, PartKind, PartState};
use crate::domain::sensor::Health;

/// Links of a system that are read here, or by another method of the driver, or are settings and not parts. Others are reported,
/// so that a new model's news are seen.
const SYSTEM_LINKS: &[&str] = &[
    // read here
    "Processors",
    "Memory",
    "Storage",
    "SimpleStorage",
    "EthernetInterfaces",
    "PCIeDevices",
    "GraphicsControllers",
    "NetworkInterfaces",
    // read elsewhere
    "Bios",
    "LogServices",
    "VirtualMedia",
    "Boot",
    "Links",
    // no parts of ours: descriptions of what other resources hold, or settings
    "PCIeFunctions",
    "MemoryDomains",
    "SecureBoot",
    "Certificates",
    "Assembly",
    "USBControllers",
    "FabricAdapters",
    "OperatingSystem",
    "KeyManagement",
    "Composition",
    "HostedServices",
    "Measurements",
    "ResourceBlocks",
    "Metrics",
    "VirtualMediaConfig",
    "MeasuredBoot",
    "ProcessorSummary",
    "MemorySummary",
];
const CHASSIS_LINKS: &[&str] = &[
    // read here
    "Power",
    "Thermal",
    "PowerSubsystem",
    "ThermalSubsystem",
    "NetworkAdapters",
    "PCIeDevices",
    "Drives",
    "Assembly",
    "LeakDetectors",
    "Memory",
    "Processors",
    // read elsewhere
    "Sensors",
    "LogServices",
    "Links",
    "EnvironmentMetrics",
    // no parts of ours
    "PCIeSlots",
    "FabricAdapters",
    "Certificates",
    "TrustedComponents",
    "MediaControllers",
    "MemoryDomains",
    "Controls",
    "Doors",
    "PowerDistribution",
    "Measurements",
    "ResourceBlocks",
    "HeatingCoolingInterfaces",
    "Metrics",
    "ThermalMetrics",
];

impl Redfish {
    /// Every part of the machine.
    pub(super) async fn read_parts(&self) -> Result<Found<Part>, BmcError> {
        let mut walk = Walk::new(self.http());
        let layout = self.layout(&mut walk).await?;
        let mut list = List::default();
        for path in &layout.systems {
            let Some(system) = walk.get(path).await? else { continue };
            list.add(system_part(&mut walk.reader(&system)));
            trusted_modules(&mut walk, &system, &mut list);
            compute::read(&mut walk, &system, &mut list).await?;
            storage::read(&mut walk, &system, &mut list).await?;
            smart_storage::read(&mut walk, &system, &mut list).await?;
            network::pcie(&mut walk, &system, &mut list).await?;
            unknown_links(&mut walk, &system, SYSTEM_LINKS);
        }
        for path in &layout.chassis {
            let Some(chassis) = walk.get(path).await? else { continue };
            list.add(chassis_part(&mut walk.reader(&chassis)));
            cooling_and_power::read(&mut walk, &chassis, &mut list).await?;
            storage::chassis_drives(&mut walk, &chassis, &mut list).await?;
            compute::of_chassis(&mut walk, &chassis, &mut list).await?;
            network::adapters(&mut walk, &chassis, "NetworkAdapters", &mut list).await?;
            network::pcie(&mut walk, &chassis, &mut list).await?;
            assembly(&mut walk, &chassis, &mut list).await?;
            unknown_links(&mut walk, &chassis, CHASSIS_LINKS);
        }
        for path in &layout.systems {
            let Some(system) = walk.get(path).await? else { continue };
            network::of_system(&mut walk, &system, &mut list).await?;
            storage::simple(&mut walk, &system, &mut list).await?;
        }
        for path in &layout.fabrics {
            network::switches(&mut walk, path, &mut list).await?;
        }
        for path in &layout.managers {
            if let Some(manager) = walk.get(path).await? {
                list.add(manager_part(&mut walk.reader(&manager)));
            }
        }
        let parts = list.finish();
        Ok(walk.found(parts))
    }
}

/// Parts found so far.
#[derive(Default)]
pub struct List {
    parts: Vec<Part>,
    sources: HashSet<String>,
    /// Every MAC that an adapter's ports or functions show.
    macs: HashSet<Mac>,
    /// Parts that may be another description of one in `parts`.
    doubtful: Vec<Part>,
}

impl List {
    /// Adds a part unless this very resource was added before.
    pub fn add(&mut self, part: Part) {
        // A drive has one serial number and may have two addresses: below its controller and below its enclosure.
        let is_known = part.kind == PartKind::Drive
            && part.serial.is_some()
            && self.parts.iter().any(|p| p.kind == PartKind::Drive && p.serial == part.serial);
        if !is_known && self.sources.insert(part.source.clone()) {
            self.parts.push(part);
        }
    }

    pub fn has(&self, source: &str) -> bool {
        self.sources.contains(source)
    }

    /// Adds a part only if no other shows its serial number; a controller or a drive only if no other of its kind does, because
    /// the card that a controller sits on has the same number.
    fn add_doubtful(&mut self, part: Part) {
        self.doubtful.push(part);
    }

    fn finish(mut self) -> Vec<Part> {
        for part in std::mem::take(&mut self.doubtful) {
            let by_kind = matches!(part.kind, PartKind::StorageController | PartKind::Drive);
            let known = part.serial.is_some() && self.parts.iter().any(|p| p.serial == part.serial && (!by_kind || p.kind == part.kind));
            if !known {
                self.add(part);
            }
        }
        self.parts
    }
}

fn system_part(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::System);
    part.firmware = r.text("BiosVersion");
    let dell_tag = crate::bmc::redfish::view::serial(r.body);
    part.serial = dell_tag.and_then(|s| s.parse().ok());
    if let Some(mut memory) = r.inside("MemorySummary") {
        part.facts.capacity_bytes =
            memory.number("TotalSystemMemoryGiB").filter(|g| (0.0..1e9).contains(g)).map(|g| (g * f64::from(1 << 30)) as u64);
        summary_alarm(&mut memory, "MemorySummary", &mut part);
    }
    if let Some(mut processors) = r.inside("ProcessorSummary") {
        (part.facts.cores, part.facts.threads) = (processors.small_count("CoreCount"), processors.small_count("LogicalProcessorCount"));
        summary_alarm(&mut processors, "ProcessorSummary", &mut part);
    }
    if let Some(mut watchdog) = r.inside("HostWatchdogTimer")
        && let Some(word) = bad_health(watchdog.status().health)
    {
        part.facts.alarms.push(format!("HostWatchdogTimer: {word}"));
    }
    part
}

/// Legacy trees have the health of memory and processors only in sum.
fn summary_alarm(r: &mut Reader, name: &str, part: &mut Part) {
    let status = r.status();
    if let Some(word) = bad_health(status.rollup.or(status.health)) {
        part.facts.alarms.push(format!("{name}: {word}"));
    }
}

pub fn bad_health(health: Option<Health>) -> Option<Health> {
    health.filter(|h| *h != Health::Ok)
}

fn trusted_modules(walk: &mut Walk<'_>, system: &Resource, list: &mut List) {
    let modules = walk.reader(system).list("TrustedModules");
    for (i, module) in modules.into_iter().enumerate() {
        let source = format!("{}#/TrustedModules/{i}", system.path);
        let mut r = Reader::new(module, &source, &mut walk.odd);
        let mut part = r.part(PartKind::Other);
        part.name = format!("TPM {}", r.text("InterfaceType").unwrap_or_default()).trim().to_owned();
        list.add(part);
    }
}

fn chassis_part(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Chassis);
    if part.model.is_none() {
        part.model = r.text("ChassisType");
    }
    if let Some(mut security) = r.inside("PhysicalSecurity")
        && let Some(state) = security.text("IntrusionSensor").filter(|s| s != "Normal")
    {
        part.facts.alarms.push(format!("IntrusionSensor: {state}"));
    }
    part
}

fn manager_part(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Bmc);
    part.facts.last_reset = r.time("LastResetTime");
    if part.name == "Manager" {
        part.name = r.first_text(&["Model", "Id"]).unwrap_or(part.name);
    }
    part
}

/// The boards of a chassis (DSP2046, Assembly): the mainboard, and what else has a serial that no other part shows.
async fn assembly(walk: &mut Walk<'_>, chassis: &Resource, list: &mut List) -> Result<(), BmcError> {
    if let Some((pointer, serial)) = quirks::board_serial(&chassis.body)
        && let Ok(serial) = serial.parse()
    {
        let source = format!("{}#{pointer}", chassis.path);
        let empty = Value::Object(serde_json::Map::new());
        let part = Reader::new(&empty, &source, &mut walk.odd).part(PartKind::Baseboard);
        list.add_doubtful(Part { serial: Some(serial), state: PartState::Present, ..part });
    }
    let Some(assembly) = walk.follow(&chassis.body, "Assembly").await? else { return Ok(()) };
    for (i, entry) in walk.reader(&assembly).list("Assemblies").into_iter().enumerate() {
        let source = crate::bmc::redfish::sensors::element_path(&assembly.path, "Assemblies", i, entry);
        let mut r = Reader::new(entry, &source, &mut walk.odd);
        let context = r.text("PhysicalContext").unwrap_or_default();
        let mut part = r.part(PartKind::Other);
        part.manufacturer = part.manufacturer.or_else(|| r.first_text(&["Producer", "Vendor"]));
        if part.state == PartState::NotSaid && part.serial.is_none() && part.part_number.is_none() {
            continue;
        }
        let name = format!("{} {}", part.name, part.model.as_deref().unwrap_or_default()).to_ascii_lowercase();
        let is_board = matches!(context.as_str(), "SystemBoard" | "Board") && !name.contains("riser") && !name.contains("dimm")
            || name.contains("system board")
            || name.contains("planar")
            || name.contains("motherboard");
        if is_board {
            part.kind = PartKind::Baseboard;
        }
        // Without a serial it is the label of a part that is listed elsewhere (iDRAC 9: one for each DIMM and drive).
        if is_board || part.serial.is_some() {
            list.add_doubtful(part);
        }
    }
    Ok(())
}

/// Notes links that no reader follows.
fn unknown_links(walk: &mut Walk<'_>, resource: &Resource, known: &[&str]) {
    let Some(fields) = resource.body.as_object() else { return };
    let unknown = fields.iter().filter(|(name, value)| {
        let is_link = value.as_object().is_some_and(|o| o.len() == 1) && value.get("@odata.id").is_some_and(Value::is_string);
        is_link && !known.contains(&name.as_str())
    });
    for (name, _) in unknown {
        crate::bmc::redfish::read::note(&mut walk.odd, &resource.path, format!("a link {name} that is not read"));
    }
}
