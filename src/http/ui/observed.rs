//! The sections of a machine's page that show what its BMC says.

use askama::Template;

use crate::app::observe::{
    CapabilitiesView, HardwareLogView, Level, LogsView, Observed, PartView, PartsView, PollView, SPARK_SPAN, SensorView,
};
use crate::domain::access::{Actor, Role};
use crate::domain::bmc_features::{Capability, FirmwareItem};
use crate::domain::hardware_log::LogSeverity;
use crate::domain::id::MachineId;
use crate::domain::part::PartKind;
use crate::domain::poll::PollKind;
use crate::domain::reading::Quality;
use crate::domain::sensor::{Health, SensorKind, Thresholds};
use crate::domain::time::{Timestamp, spoken};
use crate::http::ui::page::Section;
use crate::http::ui::spark::{Spark, short};
use crate::http::ui::text::{Ago, Text, Until, absolute, binary_bytes, decimal_bytes};
use crate::http::ui::words::Tone;

/// Entries of the log on the machine's page; the rest is on the log's own page.
pub const LOG_LINES: u32 = 12;
const HISTORY_LINES: usize = 8;

/// The sections' ids, in their order.
const IDS: [&str; 6] = ["sec-led", "sec-sensors", "sec-parts", "sec-hwlog", "sec-firmware", "sec-capabilities"];

/// Renders the sections; a machine without a BMC has them empty and hidden.
///
/// # Errors
/// askama's, when a template cannot be written.
pub fn sections(id: MachineId, o: Option<&Observed>, actor: &Actor, csrf: &str, now: Timestamp) -> askama::Result<Vec<Section>> {
    let Some(o) = o else {
        return Ok(IDS.map(|id| Section { id, html: format!(r#"<section id="{id}" hidden></section>"#) }).to_vec());
    };
    let html = [
        Led::of(id, o, actor, csrf).render()?,
        Sensors::of(o, now).render()?,
        Parts::of(&o.parts).render()?,
        HardwareLog::of(id, &o.logs).render()?,
        Firmware::of(o).render()?,
        Sheet::of(&o.capabilities).render()?,
    ];
    Ok(IDS.into_iter().zip(html).map(|(id, html)| Section { id, html }).collect())
}

/// What is said above a section about the polls behind it.
struct Freshness {
    /// Old: shown as a warning, with why.
    old: Option<Text>,
    heard: Option<Ago>,
    every: String,
    unsupported: bool,
}

impl Freshness {
    fn of(p: &PollView) -> Self {
        let old = p.stale.then(|| {
            let why = p.fault.as_deref().map(|f| format!(" {f}")).unwrap_or_default();
            Text::new(&match p.last_ok_at {
                Some(_) => format!("No answer about {} for three intervals: what is shown here is old.{why}", p.kind.noun()),
                None => format!("The BMC has not answered about {} yet.{why}", p.kind.noun()),
            })
        });
        Self {
            old,
            heard: p.last_ok_at.map(Ago),
            every: spoken(std::time::Duration::from_secs(p.interval_secs)),
            unsupported: p.unsupported,
        }
    }
}

#[derive(Template)]
#[template(path = "ui/machine/led.html")]
struct Led {
    id: MachineId,
    csrf: String,
    lit: Option<(Until, Text)>,
    refused: Option<Text>,
    /// The BMC says that it has none.
    absent: Option<Text>,
}

impl Led {
    fn of(id: MachineId, o: &Observed, actor: &Actor, csrf: &str) -> Self {
        let line = o.capabilities.items.iter().find(|s| s.capability == Capability::LocatorLed);
        Self {
            id,
            csrf: csrf.to_owned(),
            lit: o.led.as_ref().map(|l| (Until(l.off_at), Text::new(&l.actor))),
            refused: (actor.role < Role::Tech).then(|| Text::new(&format!("needs the role {}, yours is {}", Role::Tech, actor.role))),
            absent: line.filter(|l| !l.offered).map(|l| Text::new(&l.evidence)),
        }
    }
}

struct SensorLine {
    number: u32,
    name: Text,
    context: Option<Text>,
    value: Text,
    tone: Tone,
    /// In a word, where the tone is not all.
    word: Option<&'static str>,
    limits: String,
    spark: Option<Spark>,
    at: Option<Ago>,
    why: Option<Text>,
    old: bool,
    source: Text,
}

struct SensorGroup {
    title: &'static str,
    lines: Vec<SensorLine>,
}

#[derive(Template)]
#[template(path = "ui/machine/sensors.html")]
struct Sensors {
    fresh: Freshness,
    groups: Vec<SensorGroup>,
    count: usize,
    ill: usize,
    unsure: usize,
}

impl Sensors {
    fn of(o: &Observed, now: Timestamp) -> Self {
        let mut groups: Vec<SensorGroup> = Vec::new();
        let (mut ill, mut unsure) = (0, 0);
        for s in &o.sensors.items {
            let line = SensorLine::of(s, o.sparks.get(&s.number).map_or(&[][..], Vec::as_slice), now);
            ill += usize::from(matches!(line.tone, Tone::Crit | Tone::Warn));
            unsure += usize::from(s.quality != Quality::Good);
            let title = kind_word(s.kind);
            match groups.last_mut().filter(|g| g.title == title) {
                Some(group) => group.lines.push(line),
                None => groups.push(SensorGroup { title, lines: vec![line] }),
            }
        }
        Self { fresh: Freshness::of(&o.sensors.poll), groups, count: o.sensors.items.len(), ill, unsure }
    }
}

fn kind_word(kind: SensorKind) -> &'static str {
    match kind {
        SensorKind::Temperature => "Temperatures",
        SensorKind::Voltage => "Voltages",
        SensorKind::Current => "Currents",
        SensorKind::Power => "Power",
        SensorKind::Energy => "Energy",
        SensorKind::Fan => "Fans",
        SensorKind::Humidity => "Humidity",
        SensorKind::Flow => "Flow",
        SensorKind::Pressure => "Pressure",
        SensorKind::Share => "Shares",
        SensorKind::Discrete => "States",
        SensorKind::Other => "Other",
    }
}

impl SensorLine {
    fn of(s: &SensorView, samples: &[crate::domain::reading::Sample], now: Timestamp) -> Self {
        let unit = s.unit.symbol();
        let value = match (s.value, s.words.is_empty()) {
            (Some(value), _) => format!("{}{unit}", short(value)),
            (None, false) => s.words.join(", "),
            (None, true) if s.at.is_some() => "nothing asserted".to_owned(),
            (None, true) => "no value".to_owned(),
        };
        let (tone, word) = match s.quality {
            Quality::Stale => (Tone::Off, Some("old")),
            Quality::Unavailable => (Tone::Off, Some("unavailable")),
            Quality::Implausible => (Tone::Off, Some("not believed")),
            Quality::Historical => (Tone::Off, Some("historical")),
            Quality::Good => match (s.level, s.health) {
                (Some(Level::Fatal), _) => (Tone::Crit, Some("fatal")),
                (Some(Level::Critical), _) => (Tone::Crit, Some("critical")),
                (Some(Level::Caution), _) => (Tone::Warn, Some("caution")),
                // Within its limits, and yet the BMC is not content: neither is believed silently.
                (Some(Level::Normal), Some(Health::Critical | Health::Warning)) => (Tone::Warn, Some("disputed by the BMC")),
                (None, Some(Health::Critical)) => (Tone::Crit, Some("critical, says the BMC")),
                (None, Some(Health::Warning)) => (Tone::Warn, Some("warning, says the BMC")),
                (Some(Level::Normal), Some(Health::Ok) | None) | (None, Some(Health::Ok) | None) => (Tone::Ok, None),
            },
        };
        Self {
            number: s.number,
            name: Text::new(&s.name),
            context: s.context.as_deref().filter(|c| *c != s.name).map(Text::new),
            value: Text::new(&value),
            tone,
            word,
            limits: limits(&s.thresholds, unit),
            spark: Spark::of(samples, now.minus(SPARK_SPAN), now, unit),
            at: s.at.map(Ago),
            why: s.why.as_deref().map(Text::new),
            old: s.quality != Quality::Good,
            source: Text::new(&s.source),
        }
    }
}

/// `3 to 38, critical at 42.5 °C`: where it should be, then where it gets bad.
fn limits(t: &Thresholds, unit: &str) -> String {
    let within = match (t.lower_caution, t.upper_caution) {
        (Some(l), Some(h)) => Some(format!("{} to {}", short(l), short(h))),
        (Some(l), None) => Some(format!("above {}", short(l))),
        (None, Some(h)) => Some(format!("below {}", short(h))),
        (None, None) => None,
    };
    let at = |word: &str, low: Option<f64>, high: Option<f64>| {
        let ends: Vec<String> = [low, high].into_iter().flatten().map(short).collect();
        (!ends.is_empty()).then(|| format!("{word} at {}", ends.join(" and ")))
    };
    let words: Vec<String> = [within, at("critical", t.lower_critical, t.upper_critical), at("fatal", t.lower_fatal, t.upper_fatal)]
        .into_iter()
        .flatten()
        .collect();
    if words.is_empty() { String::new() } else { format!("{}{unit}", words.join(", ")) }
}

struct PartLine {
    place: Text,
    name: Option<Text>,
    about: Text,
    serial: Option<Text>,
    extra: Vec<Text>,
    tone: Tone,
    word: Option<Text>,
    gone: Option<Ago>,
}

struct PartGroup {
    title: &'static str,
    lines: Vec<PartLine>,
    empty: usize,
}

#[derive(Template)]
#[template(path = "ui/machine/parts.html")]
struct Parts {
    fresh: Freshness,
    groups: Vec<PartGroup>,
    history: Vec<(Ago, Text)>,
    odd: Vec<(Text, Text)>,
}

impl Parts {
    fn of(view: &PartsView) -> Self {
        let mut groups: Vec<PartGroup> = Vec::new();
        for p in &view.items {
            let title = part_word(p.kind);
            if groups.last().is_none_or(|g| g.title != title) {
                groups.push(PartGroup { title, lines: Vec::new(), empty: 0 });
            }
            let Some(group) = groups.last_mut() else { continue };
            // A slot that was always empty is counted, not listed.
            if p.state == "absent" && p.serial.is_none() {
                group.empty += 1;
            } else {
                group.lines.push(PartLine::of(p));
            }
        }
        Self {
            fresh: Freshness::of(&view.poll),
            groups,
            history: view.history.iter().take(HISTORY_LINES).map(|e| (Ago(e.at), Text::new(&e.text))).collect(),
            odd: view.not_understood.iter().take(50).map(|o| (Text::new(&o.source), Text::new(&o.what))).collect(),
        }
    }
}

fn part_word(kind: PartKind) -> &'static str {
    match kind {
        PartKind::PowerSupply => "Power supplies",
        PartKind::Fan => "Fans",
        PartKind::Dimm => "Memory",
        PartKind::Cpu => "Processors",
        PartKind::Gpu => "GPUs",
        PartKind::Drive => "Drives",
        PartKind::StorageController => "Storage controllers",
        PartKind::Volume => "Volumes",
        PartKind::NetworkAdapter => "Network adapters",
        PartKind::NetworkPort => "Network ports",
        PartKind::PcieDevice => "PCIe devices",
        PartKind::Battery => "Batteries",
        PartKind::LeakDetector => "Leak detectors",
        PartKind::Transceiver => "Transceivers",
        PartKind::Baseboard => "Boards",
        PartKind::Chassis => "Chassis",
        PartKind::Bmc => "BMC",
        PartKind::System => "System",
        PartKind::Redundancy => "Redundancy",
        PartKind::Other => "Other parts",
    }
}

impl PartLine {
    fn of(p: &PartView) -> Self {
        let place = p.place.clone().unwrap_or_else(|| p.name.clone());
        let about = [&p.manufacturer, &p.model].into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        let f = &p.facts;
        let mut extra: Vec<String> = Vec::new();
        extra.extend(f.capacity_bytes.map(|n| if p.kind == PartKind::Dimm { binary_bytes(n) } else { decimal_bytes(n) }));
        extra.extend(f.capacity_watts.map(|w| format!("{} W", short(w))));
        extra.extend(f.speed_mhz.map(|m| format!("{m} MHz")));
        extra.extend(
            f.speed_mbps.filter(|m| *m > 0).map(|m| if m >= 1000 { format!("{} Gbit/s", m / 1000) } else { format!("{m} Mbit/s") }),
        );
        extra.extend(f.cores.map(|c| format!("{c} cores")));
        extra.extend(f.media.clone());
        extra.extend(f.protocol.clone());
        extra.extend(f.link.clone());
        extra.extend(f.mac.map(|m| m.to_string()));
        extra.extend(p.part_number.as_ref().map(|n| format!("part {n}")));
        extra.extend(p.firmware.as_ref().map(|v| format!("firmware {v}")));
        extra.extend(f.life_left_percent.map(|l| format!("{} % life left", short(l))));
        extra.extend(f.line_input.clone().filter(|l| l != "Normal").map(|l| format!("input {l}")));
        extra.extend(f.uncorrectable_errors.filter(|n| *n > 0).map(|n| format!("{n} uncorrectable errors")));
        extra.extend(f.correctable_errors.filter(|n| *n > 0).map(|n| format!("{n} corrected errors")));
        extra.extend(f.failure_predicted.filter(|is| *is).map(|_| "failure predicted".to_owned()));
        extra.extend(f.alarms.iter().take(8).cloned());
        let (tone, word) = match (p.gone_at, p.health, p.state.as_str()) {
            (Some(_), _, _) => (Tone::Off, Some("gone".to_owned())),
            (None, Some(Health::Critical), _) => (Tone::Crit, Some("critical".to_owned())),
            (None, Some(Health::Warning), _) => (Tone::Warn, Some("warning".to_owned())),
            (None, Some(Health::Ok), "present" | "not said") => (Tone::Ok, None),
            (None, None, "present" | "not said") => (Tone::Off, Some("no judgement".to_owned())),
            (None, Some(Health::Ok) | None, other) => (Tone::Off, Some(other.to_owned())),
        };
        Self {
            name: Some(Text::new(&p.name)).filter(|_| place != p.name),
            place: Text::new(&place),
            about: Text::new(&about),
            serial: p.serial.as_ref().map(Text::from),
            extra: extra.iter().map(|e| Text::new(e)).collect(),
            tone,
            word: word.map(|w| Text::new(&w)),
            gone: p.gone_at.map(Ago),
        }
    }
}

/// One entry of the BMC's log.
pub struct EntryLine {
    pub id: String,
    pub tone: Tone,
    pub severity: String,
    pub message: Text,
    pub origin: Option<Text>,
    pub code: Option<Text>,
    pub log: Text,
    pub entry: Text,
    /// By the BMC's clock.
    pub at: Option<String>,
    pub received: Ago,
    pub historical: bool,
    pub evidence: String,
}

impl EntryLine {
    pub fn of(e: &HardwareLogView) -> Self {
        let tone = match (e.historical, e.severity) {
            (true, _) => Tone::Off,
            (false, LogSeverity::Info) => Tone::Ok,
            (false, LogSeverity::Warning) => Tone::Warn,
            (false, LogSeverity::Critical) => Tone::Crit,
        };
        Self {
            id: e.id.to_string(),
            tone,
            severity: e.severity.to_string(),
            message: Text::new(&e.message),
            origin: e.origin.as_deref().map(Text::new),
            code: e.message_id.as_deref().map(Text::new),
            log: Text::new(e.log.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&e.log)),
            entry: Text::new(&e.entry),
            at: e.at.map(absolute),
            received: Ago(e.received_at),
            historical: e.historical,
            evidence: e.evidence.to_string(),
        }
    }
}

#[derive(Template)]
#[template(path = "ui/machine/hwlog.html")]
struct HardwareLog {
    id: MachineId,
    fresh: Freshness,
    entries: Vec<EntryLine>,
    more: bool,
    fill: Vec<Text>,
}

impl HardwareLog {
    fn of(id: MachineId, view: &LogsView) -> Self {
        let fill = view.logs.iter().filter_map(|m| {
            let (used, total) = (m.used?, m.total.filter(|t| *t > 0)?);
            (u64::from(used) * 10 >= u64::from(total) * 9)
                .then(|| Text::new(&format!("{} is nearly full: {used} of {total} entries.", m.log)))
        });
        Self {
            id,
            fresh: Freshness::of(&view.poll),
            entries: view.items.iter().map(EntryLine::of).collect(),
            more: view.next.is_some(),
            fill: fill.collect(),
        }
    }
}

struct FirmwareLine {
    name: Text,
    version: Text,
    updateable: bool,
    ill: bool,
}

struct BiosLine {
    name: Text,
    value: Text,
    pending: Option<Text>,
}

#[derive(Template)]
#[template(path = "ui/machine/firmware.html")]
struct Firmware {
    fresh: Freshness,
    items: Vec<FirmwareLine>,
    bios_fresh: Freshness,
    bios: Vec<BiosLine>,
    pending: usize,
}

impl Firmware {
    fn of(o: &Observed) -> Self {
        let line = |f: &FirmwareItem| FirmwareLine {
            name: Text::new(&f.name),
            version: Text::new(f.version.as_deref().unwrap_or("not said")),
            updateable: f.updateable == Some(true),
            ill: f.health.is_some_and(|h| h != Health::Ok),
        };
        let differs = |b: &crate::domain::bmc_features::BiosAttribute| b.pending.is_some() && b.pending != b.value;
        let mut bios: Vec<_> = o.bios.items.iter().collect();
        // What waits for the next boot comes first.
        bios.sort_by_key(|b| (!differs(b), b.name.clone()));
        Self {
            fresh: Freshness::of(&o.firmware.poll),
            items: o.firmware.items.iter().filter(|f| f.in_use != Some(false)).map(line).collect(),
            bios_fresh: Freshness::of(&o.bios.poll),
            pending: bios.iter().filter(|b| differs(b)).count(),
            bios: bios
                .into_iter()
                .map(|b| BiosLine {
                    name: Text::new(b.display_name.as_deref().unwrap_or(&b.name)),
                    value: Text::new(b.value.as_deref().unwrap_or("not said")),
                    pending: b.pending.as_deref().filter(|_| differs(b)).map(Text::new),
                })
                .collect(),
        }
    }
}

struct CapabilityLine {
    word: &'static str,
    offered: bool,
    evidence: Text,
}

struct PollLine {
    what: &'static str,
    heard: Option<Ago>,
    every: String,
    state: &'static str,
    tone: Tone,
    fault: Option<Text>,
}

#[derive(Template)]
#[template(path = "ui/machine/capabilities.html")]
struct Sheet {
    fresh: Freshness,
    lines: Vec<CapabilityLine>,
    polls: Vec<PollLine>,
    /// Requests of the last whole hour, and their mean over the day.
    asked: Option<String>,
}

impl Sheet {
    fn of(view: &CapabilitiesView) -> Self {
        let mut lines: Vec<CapabilityLine> = view
            .items
            .iter()
            .map(|s| CapabilityLine { word: capability_word(s.capability), offered: s.offered, evidence: Text::new(&s.evidence) })
            .collect();
        lines.sort_by_key(|l| !l.offered);
        let polls = view
            .polls
            .iter()
            .map(|p| {
                let (tone, state) = match (p.unsupported, p.stale, p.failures, p.last_ok_at) {
                    (true, _, _, _) => (Tone::Off, "not offered"),
                    (false, true, _, _) => (Tone::Warn, "silent"),
                    (false, false, 0, None) => (Tone::Off, "not asked yet"),
                    (false, false, 0, Some(_)) => (Tone::Ok, "answers"),
                    (false, false, _, _) => (Tone::Warn, "failed last"),
                };
                PollLine {
                    what: poll_word(p.kind),
                    heard: p.last_ok_at.map(Ago),
                    every: spoken(std::time::Duration::from_secs(p.interval_secs)),
                    state,
                    tone,
                    fault: p.fault.as_deref().map(Text::new),
                }
            })
            .collect();
        let asked = view.traffic.last().map(|now| {
            let sum = |f: fn(&crate::app::observe::TrafficView) -> u64| view.traffic.iter().map(f).sum::<u64>();
            let words = |requests: u64, commands: u64| match (requests, commands) {
                (r, 0) => format!("{r} requests"),
                (0, c) => format!("{c} IPMI commands"),
                (r, c) => format!("{r} requests and {c} IPMI commands"),
            };
            let hours = view.traffic.len();
            let all = words(sum(|t| t.requests), sum(|t| t.commands));
            let since = if hours == 1 { "the last hour".to_owned() } else { format!("the last {hours} hours") };
            format!("{} this hour, {all} in {since}.", words(now.requests, now.commands))
        });
        Self { fresh: Freshness::of(&view.poll), lines, polls, asked }
    }
}

fn poll_word(kind: PollKind) -> &'static str {
    match kind {
        PollKind::Power => "Power",
        PollKind::Sensors => "Sensors",
        PollKind::Logs => "Logs",
        PollKind::Parts => "Parts",
        PollKind::Firmware => "Firmware",
        PollKind::Bios => "BIOS settings",
        PollKind::Capabilities => "Capabilities",
    }
}

fn capability_word(capability: Capability) -> &'static str {
    match capability {
        Capability::Power => "Power on and off",
        Capability::PowerCycle => "Power cycle",
        Capability::SoftOff => "Shut down gently",
        Capability::BootOnce => "Boot from a device once",
        Capability::BootOrder => "Boot order",
        Capability::BootProgress => "Boot progress",
        Capability::Sensors => "Sensors",
        Capability::Parts => "List of parts",
        Capability::Logs => "Logs",
        Capability::ClearLog => "Clear logs",
        Capability::Events => "Push events",
        Capability::FirmwareInventory => "Firmware list",
        Capability::FirmwareUpdate => "Firmware update",
        Capability::BiosSettings => "BIOS settings",
        Capability::Accounts => "Accounts",
        Capability::VirtualMedia => "Virtual media",
        Capability::LocatorLed => "Locator LED",
        Capability::BmcReset => "Restart the BMC",
        Capability::SerialConsole => "Serial console",
        Capability::Fru => "FRU data",
        Capability::PowerReading => "Power reading",
        Capability::BmcNetwork => "BMC network settings",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_a_technician_says_them() {
        let none = Thresholds::default;
        assert_eq!(limits(&none(), " °C"), "");
        let fan = Thresholds { lower_caution: Some(1200.0), lower_critical: Some(900.0), ..none() };
        assert_eq!(limits(&fan, " RPM"), "above 1200, critical at 900 RPM");
        let inlet = Thresholds { lower_caution: Some(3.0), upper_caution: Some(38.0), upper_critical: Some(42.5), ..none() };
        assert_eq!(limits(&inlet, " °C"), "3 to 38, critical at 42.5 °C");
    }
}
