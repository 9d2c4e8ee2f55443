//! Sensors of both generations: `Sensors` collections, `Thermal` and `Power`, and the excerpts of `ThermalSubsystem` and
//! `PowerSubsystem` where there is nothing else.
//!
//! What is read is found once and kept for an hour: a warm call costs one request per source. The order is the same each time,
//! so that a sensor that two sources show keeps one id: an expanded collection first (one request for all), then Thermal and
//! Power, then single members of a collection that cannot be expanded, and only those that the others do not show.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::read::{Reader, Status};
use crate::bmc::redfish::walk::{Resource, Walk, tidy};
use crate::domain::bmc_features::Found;
use crate::domain::part::PartState;
use crate::domain::sensor::{Reading, Sensor, SensorKind, Thresholds, Unit};

/// Lists with readings in `Thermal` and `Power`.
const LEGACY_LISTS: [&str; 5] = ["Temperatures", "Fans", "Voltages", "PowerControl", "PowerSupplies"];
/// How long the list of sources is used before it is looked for again: drives and power supplies come and go.
const ROUTE_FOR: Duration = Duration::from_secs(3600);

/// Where sensors of a machine are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A collection that comes with its members' contents.
    Collection(String),
    /// Legacy `Thermal` or `Power`.
    Legacy(String),
    /// The same beside a `Sensors` collection, which has the readings of the power supplies already under other names.
    LegacyBeside(String),
    /// One member of a collection that cannot be expanded.
    Member(String),
    /// `ThermalSubsystem/Fans`, `PowerSupplies` and their `Metrics`, `ThermalMetrics`, `EnvironmentMetrics`.
    Excerpts(String),
}

/// The sources and since when they are known.
#[derive(Clone, Debug)]
pub struct Route {
    /// With the place in the list of chassis, because two chassis may use one name.
    pub sources: Vec<(usize, Source)>,
    pub found_at: Instant,
}

/// Descriptions of which one sensor may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Sensors,
    Legacy,
    Excerpts,
}

impl Redfish {
    /// Every sensor of the machine.
    pub(super) async fn read_sensors(&self) -> Result<Found<Sensor>, BmcError> {
        let system = self.system_path().await?;
        if let Some(route) = self.sensor_route(&system).filter(|r| r.found_at.elapsed() < ROUTE_FOR) {
            let mut walk = Walk::new(self.http());
            let (sensors, _) = read_route(&mut walk, &route.sources).await?;
            let gone = walk.unread.iter().any(|u| u.what.contains("not there"));
            if !gone {
                return Ok(walk.found(sensors));
            }
        }
        self.find_sensors().await
    }

    async fn find_sensors(&self) -> Result<Found<Sensor>, BmcError> {
        let mut walk = Walk::new(self.http());
        let layout = self.layout(&mut walk).await?;
        let mut sources = Vec::new();
        for (at, chassis) in layout.chassis.iter().enumerate() {
            let Some(chassis) = walk.get(chassis).await? else { continue };
            let link = |field: &str| chassis.body.get(field).and_then(crate::bmc::redfish::read::link_of).map(str::to_owned);
            let (sensors, thermal, power) = (link("Sensors"), link("Thermal"), link("Power"));
            let mut singles = Vec::new();
            let mut has_collection = false;
            if let Some(collection) = sensors {
                let members = walk.members(&collection).await?;
                has_collection = !members.is_empty();
                if self.http().expand_works() {
                    push(&mut sources, at, Source::Collection(collection));
                } else {
                    singles = members.into_iter().map(|m| Source::Member(m.path)).collect();
                }
            }
            let has_legacy = thermal.is_some() || power.is_some();
            for legacy in [thermal, power].into_iter().flatten() {
                push(&mut sources, at, if has_collection { Source::LegacyBeside(legacy) } else { Source::Legacy(legacy) });
            }
            singles.into_iter().for_each(|s| push(&mut sources, at, s));
            // Excerpts are copies of sensors, so they are asked only where those are not to be had.
            if !has_collection && !has_legacy {
                for subsystem in ["ThermalSubsystem", "PowerSubsystem", "EnvironmentMetrics"] {
                    link(subsystem).into_iter().for_each(|s| push(&mut sources, at, Source::Excerpts(s)));
                }
            }
        }
        let (sensors, used) = read_route(&mut walk, &sources).await?;
        // A source that was read and showed nothing new is not asked again within the hour; one that could not be read is.
        let unread = |s: &Source| walk.unread.iter().any(|u| u.source == s.path());
        let sources = sources.into_iter().filter(|(_, s)| used.contains(s.path()) || unread(s)).collect();
        self.keep_sensor_route(&layout.system, Route { sources, found_at: Instant::now() });
        Ok(walk.found(sensors))
    }
}

impl Source {
    fn path(&self) -> &str {
        match self {
            Self::Collection(path) | Self::Legacy(path) | Self::LegacyBeside(path) | Self::Member(path) | Self::Excerpts(path) => path,
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Collection(_) | Self::Member(_) => Class::Sensors,
            Self::Legacy(_) | Self::LegacyBeside(_) => Class::Legacy,
            Self::Excerpts(_) => Class::Excerpts,
        }
    }
}

/// Adds a source unless another chassis links it too.
fn push(sources: &mut Vec<(usize, Source)>, chassis: usize, source: Source) {
    if !sources.iter().any(|(_, known)| *known == source) {
        sources.push((chassis, source));
    }
}

/// Reads the sources in order. Gives the sensors and the paths of sources that showed something no earlier one had.
async fn read_route(walk: &mut Walk<'_>, sources: &[(usize, Source)]) -> Result<(Vec<Sensor>, HashSet<String>), BmcError> {
    let (mut out, mut used): (Vec<Sensor>, HashSet<String>) = (Vec::new(), HashSet::new());
    let mut known: HashMap<(usize, SensorKind, String), Class> = HashMap::new();
    let mut ids: HashSet<String> = HashSet::new();
    for (chassis, source) in sources {
        let fresh = match source {
            Source::Collection(path) => {
                let members = walk.members(path).await?;
                members.iter().filter_map(|m| modern(&mut walk.reader(m))).collect()
            }
            Source::Member(path) => match walk.get(path).await? {
                Some(member) => modern(&mut walk.reader(&member)).into_iter().collect(),
                None => Vec::new(),
            },
            Source::Legacy(path) => match walk.get(path).await? {
                Some(resource) => legacy(walk, &resource, &LEGACY_LISTS, sources),
                None => Vec::new(),
            },
            Source::LegacyBeside(path) => match walk.get(path).await? {
                Some(resource) => legacy(walk, &resource, &LEGACY_LISTS[..4], sources),
                None => Vec::new(),
            },
            Source::Excerpts(path) => excerpts(walk, path).await?,
        };
        for sensor in fresh {
            // Names are compared between descriptions, not within one: two fans, two power supplies may share a name.
            // A duty cycle is a share in one and a fan in the other.
            let kind = if sensor.kind == SensorKind::Share { SensorKind::Fan } else { sensor.kind };
            let name = (*chassis, kind, plain_name(&sensor.name));
            let class = *known.entry(name).or_insert(source.class());
            if class != source.class() || !ids.insert(sensor.id.clone()) {
                continue;
            }
            used.insert(source.path().to_owned());
            out.push(sensor);
        }
    }
    Ok((out, used))
}

fn plain_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A reading, or why there is none. A sensor that is not enabled shows a number too on some boards (Supermicro X10: 0).
fn reading(status: &Status, value: Option<f64>) -> Reading {
    let why = match (&status.state, value) {
        (PartState::Absent, _) => "absent".to_owned(),
        (PartState::Idle(word), _) if matches!(word.as_str(), "Disabled" | "StandbyOffline") => format!("the BMC says {word}"),
        (PartState::Unavailable(word), _) if word != "Degraded" => format!("the BMC says {word}"),
        (_, Some(value)) => return Reading::Number { value },
        (_, None) => "no value".to_owned(),
    };
    Reading::Unavailable { why }
}

/// A member of a `Sensors` collection (DSP2046, Sensor).
pub fn modern(r: &mut Reader) -> Option<Sensor> {
    let status = r.status();
    let (kind, unit, factor) = kind_and_unit(r)?;
    let value = r.number("Reading").map(|v| v * factor);
    let range = (r.number("ReadingRangeMin").map(|v| v * factor), r.number("ReadingRangeMax").map(|v| v * factor));
    let (mut thresholds, mut hysteresis) = (Thresholds::default(), None);
    if let Some(mut t) = r.inside("Thresholds") {
        let mut limit = |name: &str| {
            let mut limit = t.inside(name)?;
            hysteresis = hysteresis.or(limit.number("HysteresisReading").map(|v| v * factor));
            limit.number("Reading").map(|v| v * factor)
        };
        thresholds = Thresholds {
            lower_caution: limit("LowerCaution"),
            lower_critical: limit("LowerCritical"),
            lower_fatal: limit("LowerFatal"),
            upper_caution: limit("UpperCaution"),
            upper_critical: limit("UpperCritical"),
            upper_fatal: limit("UpperFatal"),
        };
    }
    let name = r.first_text(&["Name", "Id"]).unwrap_or_else(|| kind.to_string());
    Some(Sensor {
        id: r.source.to_owned(),
        name,
        kind,
        unit,
        reading: reading(&status, value),
        thresholds: without_zeroes(thresholds),
        range,
        context: r.text("PhysicalContext"),
        health: status.health,
        hysteresis,
        source: r.source.to_owned(),
    })
}

/// From `ReadingType` and `ReadingUnits` (UCUM): kind, our unit, and what a reading is multiplied with.
fn kind_and_unit(r: &mut Reader) -> Option<(SensorKind, Unit, f64)> {
    use SensorKind as K;
    let (kind, units) = (r.text("ReadingType"), r.text("ReadingUnits"));
    let (unit, factor) = match units.as_deref() {
        None => (None, 1.0),
        Some("Cel" | "C" | "DegreesC" | "degC" | "Celsius") => (Some(Unit::Celsius), 1.0),
        Some("V" | "Volts") => (Some(Unit::Volt), 1.0),
        Some("mV") => (Some(Unit::Volt), 1e-3),
        Some("A" | "Amps") => (Some(Unit::Ampere), 1.0),
        Some("mA") => (Some(Unit::Ampere), 1e-3),
        Some("W" | "Watts") => (Some(Unit::Watt), 1.0),
        Some("mW") => (Some(Unit::Watt), 1e-3),
        Some("kW") => (Some(Unit::Watt), 1e3),
        Some("J" | "Joules") => (Some(Unit::Joule), 1.0),
        Some("kW.h" | "kWh") => (Some(Unit::Joule), 3.6e6),
        Some("W.h" | "Wh") => (Some(Unit::Joule), 3.6e3),
        Some("RPM" | "{rev}/min" | "rev/min") => (Some(Unit::Rpm), 1.0),
        Some("%" | "Percent") => (Some(Unit::Percent), 1.0),
        Some("L/min" | "l/min") => (Some(Unit::LitrePerMinute), 1.0),
        Some("[ft_i]3/min" | "[cft_i]/min" | "CFM" | "cft_i/min") => (Some(Unit::LitrePerMinute), 28.316_846_592),
        Some("m3/min") => (Some(Unit::LitrePerMinute), 1e3),
        Some("Pa") => (Some(Unit::Pascal), 1.0),
        Some("kPa") => (Some(Unit::Pascal), 1e3),
        Some("Hz") => (Some(Unit::Hertz), 1.0),
        Some("MHz") => (Some(Unit::Hertz), 1e6),
        Some("s") => (Some(Unit::Second), 1.0),
        Some("A.h" | "m" | "cm" | "g/m3" | "1") => (Some(Unit::None), 1.0),
        Some(other) => {
            r.odd(format!("ReadingUnits {other:?} is no unit we know"));
            (Some(Unit::None), 1.0)
        }
    };
    let by_unit = match unit {
        Some(Unit::Celsius) => Some(K::Temperature),
        Some(Unit::Volt) => Some(K::Voltage),
        Some(Unit::Ampere) => Some(K::Current),
        Some(Unit::Watt) => Some(K::Power),
        Some(Unit::Joule) => Some(K::Energy),
        Some(Unit::Rpm) => Some(K::Fan),
        Some(Unit::Percent) => Some(K::Share),
        Some(Unit::LitrePerMinute) => Some(K::Flow),
        Some(Unit::Pascal) => Some(K::Pressure),
        Some(Unit::Hertz | Unit::Second | Unit::None) | None => None,
    };
    let (kind, usual) = match kind.as_deref() {
        Some("Temperature") => (K::Temperature, (Unit::Celsius, 1.0)),
        Some("Humidity") => (K::Humidity, (Unit::Percent, 1.0)),
        Some("AbsoluteHumidity") => (K::Humidity, (Unit::None, 1.0)),
        Some("Power") => (K::Power, (Unit::Watt, 1.0)),
        Some("EnergyJoules") => (K::Energy, (Unit::Joule, 1.0)),
        Some("EnergykWh") => (K::Energy, (Unit::Joule, 3.6e6)),
        Some("EnergyWh") => (K::Energy, (Unit::Joule, 3.6e3)),
        Some("Voltage") => (K::Voltage, (Unit::Volt, 1.0)),
        Some("Current") => (K::Current, (Unit::Ampere, 1.0)),
        Some("Rotational") => (K::Fan, (Unit::Rpm, 1.0)),
        Some("AirFlow") => (K::Flow, (Unit::LitrePerMinute, 28.316_846_592)),
        Some("AirFlowCMM") => (K::Flow, (Unit::LitrePerMinute, 1e3)),
        Some("LiquidFlow" | "LiquidFlowLPM") => (K::Flow, (Unit::LitrePerMinute, 1.0)),
        Some("Pressure" | "PressurePa" | "Barometric") => (K::Pressure, (Unit::Pascal, 1.0)),
        Some("PressurekPa") => (K::Pressure, (Unit::Pascal, 1e3)),
        Some("Percent") => (K::Share, (Unit::Percent, 1.0)),
        Some("Frequency") => (K::Other, (Unit::Hertz, 1.0)),
        Some("LiquidLevel" | "Altitude" | "ChargeAh" | "Heat" | "Count") => (K::Other, (Unit::None, 1.0)),
        // Neither said: a state without a number, or nothing we can name.
        None => match by_unit {
            Some(kind) => (kind, (unit.unwrap_or(Unit::None), factor)),
            None if r.has("Reading") => {
                r.odd("a reading without ReadingType or a unit we know");
                (K::Other, (Unit::None, 1.0))
            }
            None => (K::Discrete, (Unit::None, 1.0)),
        },
        Some(other) => {
            r.odd(format!("ReadingType {other:?} is no kind we know"));
            (by_unit.unwrap_or(K::Other), (unit.unwrap_or(Unit::None), factor))
        }
    };
    // A fan in percent is a fan (HPE), a share of something else is not.
    let fan = by_unit == Some(K::Share) && r.text("PhysicalContext").is_some_and(|c| c == "Fan") && kind == K::Share;
    let (unit, factor) = match unit {
        Some(unit) => (unit, factor),
        None => usual,
    };
    Some((if fan { K::Fan } else { kind }, unit, factor))
}

/// All limits zero: the board sets none (Supermicro X10 writes 0 for each it has not). One zero among others is meant.
fn without_zeroes(t: Thresholds) -> Thresholds {
    let all = [t.lower_caution, t.lower_critical, t.lower_fatal, t.upper_caution, t.upper_critical, t.upper_fatal];
    let given = all.iter().flatten().count();
    if given >= 2 && all.iter().flatten().all(|v| *v == 0.0) { Thresholds::default() } else { t }
}

/// Whether a sensor is read as a member of a `Sensors` collection.
fn is_read(sources: &[(usize, Source)], sensor: &str) -> bool {
    let sensor = tidy(sensor);
    sources.iter().any(|(_, source)| match source {
        Source::Collection(path) => sensor.strip_prefix(tidy(path).as_str()).is_some_and(|rest| rest.starts_with('/')),
        Source::Member(path) => tidy(path) == sensor,
        Source::Legacy(_) | Source::LegacyBeside(_) | Source::Excerpts(_) => false,
    })
}

/// Everything in a `Thermal` or a `Power` resource.
fn legacy(walk: &mut Walk<'_>, resource: &Resource, lists: &[&str], sources: &[(usize, Source)]) -> Vec<Sensor> {
    let mut out = Vec::new();
    let body = std::sync::Arc::clone(&resource.body);
    for &list in lists {
        let entries = Reader::new(&body, &resource.path, &mut walk.odd).list(list);
        for (i, entry) in entries.into_iter().enumerate() {
            // A copy that names the sensor it is of (DSP2046, excerpts): read there.
            if entry.get("DataSourceUri").and_then(Value::as_str).is_some_and(|of| is_read(sources, of)) {
                continue;
            }
            let source = element_path(&resource.path, list, i, entry);
            let mut r = Reader::new(entry, &source, &mut walk.odd);
            match list {
                "PowerControl" => out.extend(power_control(&mut r, i)),
                "PowerSupplies" => out.extend(power_supply(&mut r, i)),
                _ => out.extend(legacy_sensor(&mut r, list)),
            }
        }
    }
    out
}

/// The path of an array member: its own where it has one in this resource, else a JSON pointer.
pub fn element_path(resource: &str, list: &str, index: usize, entry: &Value) -> String {
    let own = entry.get("@odata.id").and_then(Value::as_str).filter(|id| id.contains('#'));
    match own.and_then(crate::bmc::redfish::view::clean) {
        Some(own) if own.starts_with(resource) => own,
        _ => format!("{resource}#/{list}/{index}"),
    }
}

fn legacy_sensor(r: &mut Reader, list: &str) -> Option<Sensor> {
    let status = r.status();
    let (kind, unit, value) = match list {
        "Temperatures" => (SensorKind::Temperature, Unit::Celsius, r.number("ReadingCelsius").or_else(|| r.number("CurrentReading"))),
        "Voltages" => (SensorKind::Voltage, Unit::Volt, r.number("ReadingVolts")),
        _ => {
            // `Units` and `CurrentReading` are iLO 4's and Thermal 1.0's.
            let unit = match r.first_text(&["ReadingUnits", "Units"]).map(|u| u.to_ascii_lowercase()).as_deref() {
                Some("rpm") => Unit::Rpm,
                Some("percent" | "%") => Unit::Percent,
                None => Unit::None,
                Some(other) => {
                    r.odd(format!("a fan in {other:?}"));
                    Unit::None
                }
            };
            let value = r.number("Reading").or_else(|| r.number("CurrentReading")).or_else(|| r.number("ReadingRPM"));
            (SensorKind::Fan, unit, value)
        }
    };
    let thresholds = Thresholds {
        lower_caution: r.number("LowerThresholdNonCritical"),
        lower_critical: r.number("LowerThresholdCritical"),
        lower_fatal: r.number("LowerThresholdFatal"),
        upper_caution: r.number("UpperThresholdNonCritical").or_else(|| r.number("UpperThresholdUser").filter(|v| *v != 0.0)),
        upper_critical: r.number("UpperThresholdCritical"),
        upper_fatal: r.number("UpperThresholdFatal"),
    };
    let mut range = (r.number("MinReadingRange"), r.number("MaxReadingRange"));
    if kind == SensorKind::Temperature {
        range = (r.number("MinReadingRangeTemp").or(range.0), r.number("MaxReadingRangeTemp").or(range.1));
    }
    let name = r.first_text(&["Name", "FanName", "MemberId"]).unwrap_or_else(|| kind.to_string());
    let context = r.text("PhysicalContext");
    Some(base(r, name, kind, unit, reading(&status, value), status.health)).map(|s| Sensor {
        thresholds: without_zeroes(thresholds),
        range: if range == (Some(0.0), Some(0.0)) { (None, None) } else { range },
        context,
        ..s
    })
}

/// `PowerControl`: what the machine draws, with its limit as the upper caution.
fn power_control(r: &mut Reader, index: usize) -> Option<Sensor> {
    let status = r.status();
    let value = r.number("PowerConsumedWatts");
    if value.is_none() && !r.has("PowerConsumedWatts") {
        return None;
    }
    let name = r.text("Name").unwrap_or_else(|| if index == 0 { "Power consumption".into() } else { format!("Power consumption {index}") });
    let limit = r.inside("PowerLimit").and_then(|mut l| l.number("LimitInWatts")).filter(|l| *l > 0.0);
    let capacity = r.number("PowerCapacityWatts").filter(|c| *c > 0.0);
    let sensor = base(r, name, SensorKind::Power, Unit::Watt, reading(&status, value), status.health);
    Some(Sensor { thresholds: Thresholds { upper_caution: limit, ..Thresholds::default() }, range: (None, capacity), ..sensor })
}

/// The readings of a legacy `PowerSupplies` entry.
fn power_supply(r: &mut Reader, index: usize) -> Vec<Sensor> {
    let status = r.status();
    let place =
        r.text("Name").filter(|n| n.contains(|c: char| c.is_ascii_digit())).unwrap_or_else(|| format!("Power supply {}", index + 1));
    let mut out = Vec::new();
    let readings = [
        ("input voltage", "LineInputVoltage", SensorKind::Voltage, Unit::Volt),
        ("input power", "PowerInputWatts", SensorKind::Power, Unit::Watt),
        ("output power", "PowerOutputWatts", SensorKind::Power, Unit::Watt),
        ("output power", "LastPowerOutputWatts", SensorKind::Power, Unit::Watt),
    ];
    for (what, field, kind, unit) in readings {
        let Some(value) = r.number(field) else { continue };
        let name = format!("{place} {what}");
        if out.iter().any(|s: &Sensor| s.name == name) {
            continue;
        }
        let mut sensor = base(r, name, kind, unit, reading(&status, Some(value)), None);
        sensor.id = format!("{}/{field}", sensor.id);
        sensor.context = Some("PowerSupply".into());
        out.push(sensor);
    }
    out
}

fn base(r: &Reader, name: String, kind: SensorKind, unit: Unit, reading: Reading, health: Option<crate::domain::sensor::Health>) -> Sensor {
    Sensor {
        id: r.source.to_owned(),
        name,
        kind,
        unit,
        reading,
        thresholds: Thresholds::default(),
        range: (None, None),
        context: None,
        health,
        hysteresis: None,
        source: r.source.to_owned(),
    }
}

/// Copies of readings in a subsystem, for a BMC that has no `Sensors` and no legacy resources.
async fn excerpts(walk: &mut Walk<'_>, path: &str) -> Result<Vec<Sensor>, BmcError> {
    let Some(subsystem) = walk.get(path).await? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for fan in walk.follow_members(&subsystem.body, "Fans").await? {
        out.extend(fan_speed(&mut walk.reader(&fan)));
    }
    if let Some(metrics) = walk.follow(&subsystem.body, "ThermalMetrics").await? {
        out.extend(all_excerpts(&mut walk.reader(&metrics), "", None));
    }
    for supply in walk.follow_members(&subsystem.body, "PowerSupplies").await? {
        let name = walk.reader(&supply).first_text(&["Name", "Id"]).unwrap_or_default();
        if let Some(metrics) = walk.follow(&supply.body, "Metrics").await? {
            out.extend(all_excerpts(&mut walk.reader(&metrics), &format!("{name} "), Some("PowerSupply")));
        }
    }
    if subsystem.body.get("Fans").is_none() && subsystem.body.get("PowerSupplies").is_none() {
        out.extend(all_excerpts(&mut walk.reader(&subsystem), "", None));
    }
    Ok(out)
}

/// A `Fan` of ThermalSubsystem. `SpeedPercent` is an excerpt with the share in `Reading` and the speed in `SpeedRPM`.
fn fan_speed(r: &mut Reader) -> Option<Sensor> {
    let status = r.status();
    let name = r.first_text(&["Name", "Id"])?;
    let mut speed = r.inside("SpeedPercent")?;
    let (unit, value) = match (speed.number("SpeedRPM"), speed.number("Reading")) {
        (Some(rpm), _) => (Unit::Rpm, Some(rpm)),
        (None, share) => (Unit::Percent, share),
    };
    Some(base(r, name, SensorKind::Fan, unit, reading(&status, value), status.health))
}

/// Every excerpt of a resource: `InputVoltage: {Reading}`, and lists of them (`TemperatureReadingsCelsius`, `RailVoltage`).
fn all_excerpts(r: &mut Reader, prefix: &str, context: Option<&str>) -> Vec<Sensor> {
    let mut out = Vec::new();
    let Some(fields) = r.body.as_object() else { return out };
    for (field, value) in fields {
        let Some((kind, unit)) = excerpt_kind(field) else { continue };
        let entries: Vec<&Value> = match value {
            Value::Array(items) => items.iter().collect(),
            one => vec![one],
        };
        for (i, entry) in entries.iter().enumerate().filter(|(_, e)| e.is_object()) {
            let mut e = Reader::new(entry, r.source, r.odd);
            let Some(value) = e.number("Reading") else { continue };
            let own = e.text("DeviceName");
            let number = if entries.len() > 1 { format!(" {}", i + 1) } else { String::new() };
            let name = own.unwrap_or_else(|| format!("{prefix}{field}{number}"));
            let status = Status::default();
            let context = e.text("PhysicalContext").or_else(|| context.map(str::to_owned));
            let mut sensor = base(&e, name, kind, unit, reading(&status, Some(value)), None);
            sensor.id = format!("{}#/{field}/{i}", r.source);
            sensor.context = context;
            out.push(sensor);
        }
    }
    out
}

/// What an excerpt measures, by the end of its name (DSP2046 puts the unit there).
fn excerpt_kind(field: &str) -> Option<(SensorKind, Unit)> {
    let ends = |end: &str| field.ends_with(end);
    Some(match field {
        _ if ends("Celsius") => (SensorKind::Temperature, Unit::Celsius),
        _ if ends("Watts") => (SensorKind::Power, Unit::Watt),
        _ if ends("Amps") => (SensorKind::Current, Unit::Ampere),
        _ if ends("Voltage") || ends("Volts") => (SensorKind::Voltage, Unit::Volt),
        _ if ends("Hz") => (SensorKind::Other, Unit::Hertz),
        "FanSpeedPercent" | "FanSpeedsPercent" => (SensorKind::Fan, Unit::Percent),
        "HumidityPercent" => (SensorKind::Humidity, Unit::Percent),
        _ => return None,
    })
}
