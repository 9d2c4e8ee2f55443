//! The board behind IPMI: sensor records and readings, the event log, FRUs (IPMI v2.0, sections 31 to 35). Sensors with numbers
//! are the board's; each processor, DIMM, power supply and drive has a discrete one beside.

use crate::domain::hardware_log::LogDirection;
use crate::domain::part::PartKind;
use crate::domain::sensor::{SensorKind, Unit};
use crate::domain::time::Timestamp;
use crate::sim::bmc::ChassisIdentity;
use crate::sim::bmc::board::journal::Record;
use crate::sim::bmc::board::parts::{BoardPart, Condition};
use crate::sim::bmc::board::sensors::{BoardSensor, Level};
use crate::sim::bmc::board::{Board, Host};
use crate::wire::fru::{self, Chassis, Fru, Product};
use crate::wire::ipmi_event::{DRIVE_SLOT, MEMORY, POWER_SUPPLY, PROCESSOR, SENSOR_SPECIFIC, THRESHOLD};
use crate::wire::sdr::{BMC, Content, FruLocator, SensorKey, SensorRecord};
use crate::wire::sel;
use crate::wire::sensor_value::{Access, Analog, Curve, Factors, Format, Limits, Units};

/// Scanning and events on (35.14, byte 3); reading unavailable.
const SCANNING: u8 = 0xc0;
const UNAVAILABLE: u8 = 0x20;
/// Reserved bits of the threshold status, set as real BMCs do.
const STATUS_RESERVED: u8 = 0xc0;
/// Sensor numbers of parts begin here; the board's log uses the same.
const PART_NUMBERS: u8 = 0x80;

/// Every sensor record, then FRU locators, with ids from 1 on.
pub fn records(board: &Board) -> Vec<Vec<u8>> {
    let sensors =
        board.sensors.iter().map(numeric).chain(part_sensors(board).map(|(number, part)| discrete(number, instance(board, part), part)));
    let mut out: Vec<Vec<u8>> = Vec::new();
    for record in sensors {
        out.push(record.write(u16::try_from(out.len() + 1).unwrap_or(u16::MAX)));
    }
    for (id, part) in fru_parts(board) {
        let (entity, instance) = entity_of(part.kind, instance(board, part));
        let name = Some(short(&part.name));
        let locator = FruLocator { name, owner: BMC, logical: true, id, entity, instance };
        out.push(locator.write(u16::try_from(out.len() + 1).unwrap_or(u16::MAX)));
    }
    out
}

/// Names in records have 16 bytes: without spaces, and the end tells more than the beginning.
fn short(name: &str) -> String {
    if name.len() <= 16 {
        return name.to_owned();
    }
    let packed: Vec<char> = name.chars().filter(|c| !c.is_whitespace()).collect();
    packed.get(packed.len().saturating_sub(16)..).unwrap_or_default().iter().collect()
}

fn numeric(sensor: &BoardSensor) -> SensorRecord {
    let analog = analog(sensor);
    let (entity, instance) = match sensor.context {
        "Intake" => (64, 1),
        "CPU" => (3, sensor.number),
        "Memory" => (32, sensor.number),
        "Fan" => (29, sensor.number),
        "StorageDevice" => (4, sensor.number),
        "NetworkingDevice" => (11, sensor.number),
        "PowerSupply" => (10, sensor.number),
        "Chassis" => (23, 1),
        _ => (7, 1),
    };
    SensorRecord {
        key: SensorKey { owner: BMC, channel: 0, lun: 0, number: sensor.number },
        name: short(&sensor.name),
        entity,
        instance,
        sensor_type: sensor.ipmi_type(),
        event_type: THRESHOLD,
        content: Content::Analog(analog),
    }
}

fn unit(kind: SensorKind) -> Unit {
    match kind {
        SensorKind::Temperature => Unit::Celsius,
        SensorKind::Voltage => Unit::Volt,
        SensorKind::Current => Unit::Ampere,
        SensorKind::Power => Unit::Watt,
        SensorKind::Energy => Unit::Joule,
        SensorKind::Fan => Unit::Rpm,
        SensorKind::Humidity | SensorKind::Share => Unit::Percent,
        SensorKind::Flow => Unit::LitrePerMinute,
        SensorKind::Pressure | SensorKind::Discrete | SensorKind::Other => Unit::None,
    }
}

/// The finest slope that spans the sensor's range in a byte (36.3). Ranges below zero are signed.
fn factors(sensor: &BoardSensor) -> Factors {
    let (low, high) = sensor.range;
    let (format, span) = if low < 0.0 { (Format::TwosComplement, high.max(-low - 1.0) / 127.0) } else { (Format::Unsigned, high / 255.0) };
    let step = span.max(sensor.quantum);
    // M has ten bits, signed.
    let digits = (0..=7).rev().find(|d| (step * 10f64.powi(*d)).round() <= 511.0).unwrap_or(0);
    let m = (step * 10f64.powi(digits) - 1e-9).ceil().clamp(1.0, 511.0) as i16;
    Factors { format, m, b: 0, b_exponent: 0, r_exponent: -(digits as i8) }
}

fn analog(sensor: &BoardSensor) -> Analog {
    let factors = factors(sensor);
    let t = &sensor.thresholds;
    let limits = [t.lower_caution, t.lower_critical, t.lower_fatal, t.upper_caution, t.upper_critical, t.upper_fatal];
    let [flags, base, modifier] = Units::write(unit(sensor.kind));
    Analog {
        units: Units::read(flags, base, modifier),
        curve: Curve::Linear,
        factors,
        limits: Limits { access: Access::Readable, raw: limits.map(|l| l.map(|l| raw(&factors, l))) },
        hysteresis_raw: Some(raw(&factors, sensor.hysteresis).max(1)),
        range_raw: (raw(&factors, sensor.range.0), raw(&factors, sensor.range.1)),
    }
}

/// The raw value nearest to a reading.
fn raw(factors: &Factors, value: f64) -> u8 {
    let steps = (value / f64::from(factors.m) * 10f64.powi(-i32::from(factors.r_exponent))).round();
    match factors.format {
        Format::Unsigned => steps.clamp(0.0, 255.0) as u8,
        Format::OnesComplement | Format::TwosComplement => steps.clamp(-128.0, 127.0) as i8 as u8,
    }
}

/// Sensor type and the offsets of: there, failed, failing (table 42-3).
fn states_of(kind: PartKind) -> Option<(u8, [u8; 3])> {
    match kind {
        PartKind::Cpu => Some((PROCESSOR, [7, 0, 12])),
        PartKind::Dimm => Some((MEMORY, [6, 1, 5])),
        PartKind::PowerSupply => Some((POWER_SUPPLY, [0, 1, 2])),
        PartKind::Drive => Some((DRIVE_SLOT, [0, 1, 2])),
        _ => None,
    }
}

/// Parts with a discrete sensor, numbered by their place in the board's list.
fn part_sensors(board: &Board) -> impl Iterator<Item = (u8, &BoardPart)> {
    let numbered = (PART_NUMBERS..=0xfe).zip(&board.parts);
    numbered.filter(|(_, part)| states_of(part.kind).is_some())
}

fn entity_of(kind: PartKind, instance: u8) -> (u8, u8) {
    let entity = match kind {
        PartKind::Cpu => 3,
        PartKind::Drive => 4,
        PartKind::PowerSupply => 10,
        PartKind::Dimm => 32,
        PartKind::NetworkAdapter | PartKind::StorageController => 11,
        _ => 7,
    };
    (entity, instance)
}

/// Which one of its kind, from 1.
fn instance(board: &Board, part: &BoardPart) -> u8 {
    let place = board.of_kind(part.kind).position(|p| p.id == part.id).unwrap_or(0);
    u8::try_from(place + 1).unwrap_or(u8::MAX)
}

fn discrete(number: u8, instance: u8, part: &BoardPart) -> SensorRecord {
    let (sensor_type, _) = states_of(part.kind).unwrap_or((0, [0; 3]));
    let (entity, instance) = entity_of(part.kind, instance);
    SensorRecord {
        key: SensorKey { owner: BMC, channel: 0, lun: 0, number },
        name: short(&format!("{} Status", part.place)),
        entity,
        instance,
        sensor_type,
        event_type: SENSOR_SPECIFIC,
        content: Content::Discrete,
    }
}

/// The answer to Get Sensor Reading (35.14); `None` for a sensor that is not there.
pub fn reading(board: &Board, number: u8, now: Timestamp, host: &Host) -> Option<Vec<u8>> {
    if let Some(sensor) = board.sensors.iter().find(|s| s.number == number) {
        let Some(value) = board.reading(sensor, now, host) else { return Some(vec![0, SCANNING | UNAVAILABLE, STATUS_RESERVED]) };
        // The non-critical bit is set with the critical one (35.14, byte 4: "at or below").
        let status = match sensor.level {
            Level::Normal => 0,
            Level::LowerCaution => 0b00_0001,
            Level::LowerCritical => 0b00_0011,
            Level::LowerFatal => 0b00_0111,
            Level::UpperCaution => 0b00_1000,
            Level::UpperCritical => 0b01_1000,
            Level::UpperFatal => 0b11_1000,
        };
        return Some(vec![raw(&factors(sensor), value), SCANNING, STATUS_RESERVED | status]);
    }
    let (_, part) = part_sensors(board).find(|(n, _)| *n == number)?;
    let (_, [there, failed, failing]) = states_of(part.kind)?;
    let offsets: u16 = match part.condition {
        Condition::Working => 1 << there,
        Condition::Failing => 1 << there | 1 << failing,
        Condition::Failed => 1 << there | 1 << failed,
        Condition::Removed => 0,
    };
    let [low, high] = offsets.to_le_bytes();
    Some(vec![0, SCANNING, low, 0x80 | high])
}

/// The answer to Get Sensor Thresholds (35.9).
pub fn thresholds(board: &Board, number: u8) -> Option<Vec<u8>> {
    let raw = analog(board.sensors.iter().find(|s| s.number == number)?).limits.raw;
    let mask = (0u8..).zip(raw).filter(|(_, t)| t.is_some()).fold(0, |mask, (n, _)| mask | 1 << n);
    Some([&[mask], raw.map(|t| t.unwrap_or(0)).as_slice()].concat())
}

/// Watts that the machine draws, for DCMI.
pub fn watts(board: &Board, now: Timestamp, host: &Host) -> Option<u16> {
    let sensor = board.sensors.iter().find(|s| s.kind == SensorKind::Power && s.context == "Chassis")?;
    Some(board.reading(sensor, now, host).unwrap_or(0.0).clamp(0.0, 65535.0) as u16)
}

/// FRU 0 and the FRUs of parts: ids from 1 on.
fn fru_parts(board: &Board) -> impl Iterator<Item = (u8, &BoardPart)> {
    let with = |p: &&BoardPart| matches!(p.kind, PartKind::PowerSupply | PartKind::NetworkAdapter | PartKind::StorageController);
    (1u8..).zip(board.parts.iter().filter(with))
}

/// What a FRU holds; `None` for a number that has none, and for an empty place.
pub fn fru(board: &Board, identity: &ChassisIdentity, id: u8) -> Option<Vec<u8>> {
    let text = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
    if id == 0 {
        let product = Product {
            manufacturer: text(&identity.manufacturer),
            name: text(&identity.model),
            serial: text(&identity.serial),
            asset_tag: identity.asset_tag.clone(),
            ..Product::default()
        };
        // 23: rack mount chassis.
        let chassis = Chassis { kind: 23, serial: text(&identity.serial), ..Chassis::default() };
        let made = board.started_at.minus(std::time::Duration::from_secs(3 * 365 * 86_400));
        let name = Some("System Board".to_owned());
        let board = fru::Board { made_at: Some(made), manufacturer: text(&identity.manufacturer), name, ..fru::Board::default() };
        return Some(fru::write(&Fru { chassis: Some(chassis), board: Some(board), product: Some(product), flaws: Vec::new() }));
    }
    let (_, part) = fru_parts(board).find(|(n, p)| *n == id && p.is_there())?;
    let product = Product {
        manufacturer: text(&part.manufacturer),
        name: text(&part.model),
        part_number: text(&part.part_number),
        version: part.firmware.clone(),
        serial: text(&part.serial),
        ..Product::default()
    };
    Some(fru::write(&Fru { product: Some(product), ..Fru::default() }))
}

fn secs(t: Timestamp) -> u32 {
    u32::try_from(t.unix_secs()).unwrap_or(0)
}

/// Get SEL Info (31.2).
pub fn sel_info(board: &Board) -> sel::Info {
    let log = &board.host_log;
    let free = log.capacity.saturating_sub(log.len()) * sel::RECORD_BYTES;
    sel::Info {
        entries: u16::try_from(log.len()).unwrap_or(u16::MAX),
        free_bytes: u16::try_from(free).unwrap_or(u16::MAX - 1),
        added: secs(log.changed_at),
        erased: log.cleared_at.map_or(0, secs),
        overflow: log.is_full(),
        can_reserve: true,
    }
}

/// Get SEL Entry (31.5): the next id and the record.
pub fn sel_entry(board: &Board, id: u16) -> Option<Vec<u8>> {
    let mut records = board.host_log.records();
    let found = match id {
        sel::FIRST => records.next(),
        sel::LAST => records.next_back(),
        id => board.host_log.records().find(|r| r.id == u32::from(id)),
    }?;
    let next = board.host_log.records().find(|r| r.id > found.id).map_or(sel::LAST, |r| r.id as u16);
    Some([next.to_le_bytes().as_slice(), &sel_record(found)].concat())
}

fn sel_record(record: &Record) -> [u8; sel::RECORD_BYTES] {
    let [i0, i1] = (record.id as u16).to_le_bytes();
    let [t0, t1, t2, t3] = secs(record.at).to_le_bytes();
    match record.ipmi {
        Some(e) => {
            let end = if record.direction == LogDirection::Deasserted { 0x80 } else { 0 };
            // Generator 20h, event message revision 4 (32.1).
            [i0, i1, 0x02, t0, t1, t2, t3, BMC, 0, 4, e.sensor_type, e.sensor_number, end | e.event_type, e.offset, e.data2, e.data3]
        }
        // What IPMI has no words for: a vendor's record with the beginning of the text.
        None => {
            let mut out = [i0, i1, 0xc0, t0, t1, t2, t3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            for (to, from) in out.iter_mut().skip(10).zip(record.message.bytes()) {
                *to = from;
            }
            out
        }
    }
}

/// Add SEL Entry (31.6): the id it got, `None` when the log is full or the bytes are no event.
pub fn add_sel_entry(board: &mut Board, bytes: &[u8], now: Timestamp) -> Option<u16> {
    let record = sel::Record::read(bytes)?;
    let at = board.clock(now);
    let message = record.message(None);
    let added = board.host_log.add(Record {
        id: 0,
        at,
        severity: record.severity(),
        direction: record.direction(),
        message,
        message_id: "Base.1.17.Success".to_owned(),
        message_args: Vec::new(),
        ipmi: record.event(),
        origin: None,
    })?;
    Some(added.id as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::bmc::board::{parts, sensors};
    use crate::sim::hardware::Hardware;

    /// A byte is coarse, and no coarser than it must be.
    #[test]
    fn a_raw_reading_is_within_half_a_step_of_the_boards() {
        for number in 1..9 {
            let parts = parts::draw(&Hardware::draw(5, number).inventory, 5);
            for sensor in sensors::draw(&parts, 5) {
                let analog = analog(&sensor);
                let step = f64::from(analog.factors.m) / 10f64.powi(-i32::from(analog.factors.r_exponent));
                for value in [sensor.range.0.max(-128.0), sensor.base, sensor.range.1.min(127.0 * step.max(1.0))] {
                    let back = analog.value(raw(&analog.factors, value)).unwrap();
                    assert!((back - value).abs() <= step / 2.0 + 1e-6, "{}: {value} reads back as {back}", sensor.name);
                }
                assert!(step <= (sensor.range.1 / 127.0).max(sensor.quantum) * 1.02, "{}: {step}", sensor.name);
            }
        }
    }
}
