//! Processors, accelerators and memory.

use crate::bmc::BmcError;
use crate::bmc::redfish::parts::List;
use crate::bmc::redfish::quirks;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::domain::part::{Part, PartKind, PartState};

pub async fn read(walk: &mut Walk<'_>, system: &Resource, list: &mut List) -> Result<(), BmcError> {
    for processor in walk.follow_members(&system.body, "Processors").await? {
        processor_with_metrics(walk, &processor, list).await?;
    }
    for dimm in walk.follow_members(&system.body, "Memory").await? {
        dimm_with_metrics(walk, &dimm, list).await?;
    }
    for controller in walk.follow_members(&system.body, "GraphicsControllers").await? {
        let mut r = walk.reader(&controller);
        let mut part = r.part(PartKind::Other);
        part.kind = if r.inside("Links").is_some_and(|l| !l.links("Processors").is_empty()) { PartKind::Gpu } else { PartKind::Other };
        list.add(part);
    }
    Ok(())
}

/// Processors and memory that only a chassis lists (modules of composed and accelerator systems).
pub async fn of_chassis(walk: &mut Walk<'_>, chassis: &Resource, list: &mut List) -> Result<(), BmcError> {
    for (field, is_memory) in [("Processors", false), ("Memory", true)] {
        // Most link the system's own collection, which was read.
        let read_before = chassis.body.get(field).and_then(crate::bmc::redfish::read::link_of).is_some_and(|l| walk.has_read(l));
        if read_before {
            continue;
        }
        for resource in walk.follow_members(&chassis.body, field).await? {
            if list.has(&resource.path) {
                continue;
            }
            if is_memory {
                dimm_with_metrics(walk, &resource, list).await?;
            } else {
                processor_with_metrics(walk, &resource, list).await?;
            }
        }
    }
    Ok(())
}

async fn processor_with_metrics(walk: &mut Walk<'_>, resource: &Resource, list: &mut List) -> Result<(), BmcError> {
    if list.has(&resource.path) {
        return Ok(());
    }
    let mut part = processor(&mut walk.reader(resource));
    if part.state != PartState::Absent {
        if let Some(metrics) = walk.follow(&resource.body, "Metrics").await? {
            processor_metrics(&mut walk.reader(&metrics), &mut part);
        }
        if let Some(environment) = walk.follow(&resource.body, "EnvironmentMetrics").await? {
            walk.reader(&environment).metrics_into(&mut part.facts.metrics);
        }
    }
    list.add(part);
    Ok(())
}

fn processor(r: &mut Reader) -> Part {
    let kind = match r.text("ProcessorType").as_deref() {
        Some("CPU") | None => PartKind::Cpu,
        Some("GPU") => PartKind::Gpu,
        Some("FPGA" | "DSP" | "Accelerator" | "Core" | "Thread" | "OEM" | "Partition" | "DPU" | "NPU" | "TPU") => PartKind::Other,
        Some(other) => {
            r.odd(format!("ProcessorType {other:?} is no type we know"));
            PartKind::Other
        }
    };
    let mut part = r.part(kind);
    // "Processors" for each of them (iLO 5) tells nothing apart; the socket does.
    if let Some(socket) = r.text("Socket")
        && (part.name == "Processors" || part.name == "Processor")
    {
        part.name = socket;
    }
    part.facts.cores = r.small_count("TotalEnabledCores").or_else(|| r.small_count("TotalCores"));
    part.facts.threads = r.small_count("TotalThreads");
    part.facts.speed_mhz = r.small_count("OperatingSpeedMHz").or_else(|| r.small_count("MaxSpeedMHz"));
    if let Some(mut summary) = r.inside("MemorySummary") {
        part.facts.capacity_bytes = summary.count("TotalMemorySizeMiB").map(mib);
    }
    if let Some(mut interface) = r.inside("SystemInterface")
        && let Some(mut pcie) = interface.inside("PCIe")
    {
        pcie_link(&mut pcie, &mut part);
    }
    if part.firmware.is_none()
        && let Some(mut id) = r.inside("ProcessorId")
    {
        part.firmware = id.text("MicrocodeInfo");
    }
    part
}

fn processor_metrics(r: &mut Reader, part: &mut Part) {
    let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    };
    let facts = &mut part.facts;
    facts.correctable_errors = sum(r.count("CorrectableCoreErrorCount"), r.count("CorrectableOtherErrorCount"));
    facts.uncorrectable_errors = sum(r.count("UncorrectableCoreErrorCount"), r.count("UncorrectableOtherErrorCount"));
    facts.thermal_throttle_secs = r.duration_secs("ThermalLimitThrottleDuration");
    facts.power_throttle_secs = r.duration_secs("PowerLimitThrottleDuration");
    r.metrics_into(&mut facts.metrics);
}

/// `PCIeInterface` and its like.
pub fn pcie_link(r: &mut Reader, part: &mut Part) {
    part.facts.lanes_in_use = r.small_count("LanesInUse");
    part.facts.lanes_max = r.small_count("MaxLanes");
    part.facts.pcie_gen = r.text("PCIeType");
    part.facts.pcie_gen_max = r.text("MaxPCIeType");
}

/// `PCIeErrors` of a device, a processor or a port.
pub fn pcie_errors(r: &mut Reader, part: &mut Part) {
    part.facts.correctable_errors = r.count("CorrectableErrorCount");
    let (fatal, other) = (r.count("FatalErrorCount"), r.count("NonFatalErrorCount"));
    if fatal.is_some() || other.is_some() {
        part.facts.uncorrectable_errors = Some(fatal.unwrap_or(0).saturating_add(other.unwrap_or(0)));
    }
    r.metrics_into(&mut part.facts.metrics);
}

fn mib(n: u64) -> u64 {
    n.saturating_mul(1 << 20)
}

async fn dimm_with_metrics(walk: &mut Walk<'_>, resource: &Resource, list: &mut List) -> Result<(), BmcError> {
    if list.has(&resource.path) {
        return Ok(());
    }
    let mut part = dimm(&mut walk.reader(resource));
    // An empty slot's metrics are one request each for nothing.
    if part.state != PartState::Absent
        && let Some(metrics) = walk.follow(&resource.body, "Metrics").await?
    {
        memory_metrics(&mut walk.reader(&metrics), &mut part);
    }
    list.add(part);
    Ok(())
}

fn dimm(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::Dimm);
    // `MemorySize` and `SizeMB`-like names are of Memory before 1.0 (iLO 4 keeps them below its own type).
    let size = r.count("CapacityMiB").or_else(|| r.count("SizeMB"));
    part.facts.capacity_bytes = size.filter(|n| *n > 0).map(mib);
    part.facts.speed_mhz = r.small_count("OperatingSpeedMhz").filter(|n| *n > 0);
    part.facts.media = r.text("MemoryDeviceType").or_else(|| r.text("MemoryType"));
    if part.state == PartState::NotSaid && part.facts.capacity_bytes.is_none() && part.serial.is_none() {
        part.state = PartState::Absent;
    }
    if part.place.is_none()
        && let Some(mut at) = r.inside("MemoryLocation")
    {
        let words = ["Socket", "MemoryController", "Channel", "Slot"].map(|w| at.count(w).map(|n| format!("{} {n}", w.to_lowercase())));
        part.place = Some(words.into_iter().flatten().collect::<Vec<_>>().join(", ")).filter(|p| !p.is_empty());
    }
    if let Some(alarm) = quirks::oem_alarm(r.body) {
        part.facts.alarms.push(alarm);
    }
    part
}

fn memory_metrics(r: &mut Reader, part: &mut Part) {
    // Counts since the module was made say more than those since the last reset of the counter.
    for period in ["LifeTime", "CurrentPeriod"] {
        if let Some(mut counts) = r.inside(period) {
            let facts = &mut part.facts;
            facts.correctable_errors = facts.correctable_errors.or(counts.count("CorrectableECCErrorCount"));
            facts.uncorrectable_errors = facts.uncorrectable_errors.or(counts.count("UncorrectableECCErrorCount"));
            let mut inner = std::collections::BTreeMap::new();
            counts.metrics_into(&mut inner);
            facts.metrics.extend(inner.into_iter().map(|(name, value)| (format!("{period}.{name}"), value)));
        }
    }
    let Some(mut health) = r.inside("HealthData") else { return };
    part.facts.life_left_percent = health.number("PredictedMediaLifeLeftPercent");
    for condition in ["DataLossDetected", "PerformanceDegraded"] {
        if health.flag(condition) == Some(true) {
            part.facts.alarms.push(condition.to_owned());
        }
    }
    if let Some(trips) = health.inside("AlarmTrips") {
        part.facts.alarms.extend(raised(&trips, "AlarmTrip"));
    }
}

/// The fields of an object of flags that are true, each as an alarm.
pub fn raised(r: &Reader, what: &str) -> Vec<String> {
    let Some(fields) = r.body.as_object() else { return Vec::new() };
    let on = fields.iter().filter(|(_, v)| **v == serde_json::Value::Bool(true));
    on.filter_map(|(name, _)| Some(format!("{what}: {}", crate::bmc::redfish::view::clean(name)?))).take(32).collect()
}
