//! Sensor data records and what they make of a raw reading. Sections are those of the IPMI specification v2.0, revision 1.1:
//! records 43, conversion 36.3, commands 33 and 35.
//!
//! The readers of `ipmi-rs-core` 0.6 panic on mutated records, mix up threshold masks and leave linearisation out, so these
//! are our own (`docs/adr/0005-ipmi-client.md`).

use crate::domain::hardware_log::LogSeverity;
use crate::domain::sensor::{Health, Reading, SensorKind, Unit};
use crate::wire::ipmi::text;
use crate::wire::ipmi_event::{self, THRESHOLD};
use crate::wire::sensor_value::{Access, Analog, Factors, Format, Units};

/// Record header (43): id, version, type, length of what follows.
pub const HEADER_BYTES: usize = 5;
/// Ids of the first record to ask for and of the end (33.12).
pub const FIRST: u16 = 0x0000;
pub const LAST: u16 = 0xffff;
/// The BMC's slave address (5.5).
pub const BMC: u8 = 0x20;
/// A shared record stands for at most 15 sensors (43.2, bits 3:0).
const SHARE_MASK: u8 = 0x0f;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("a sensor data record that ends early")]
    Short,
    #[error("conversion factors that give no number (M is 0)")]
    NoSlope,
    #[error("a reserved linearisation ({0:#04x})")]
    Linearisation(u8),
    #[error("an analog sensor without an analog format")]
    NotAnalog,
}

/// One record of the repository.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Full, compact or event-only; a shared record gives one for each of its sensors.
    Sensors(Vec<SensorRecord>),
    Fru(FruLocator),
    Mc(McLocator),
    /// Associations, OEM records: kept by type only.
    Other {
        kind: u8,
    },
}

/// What identifies a sensor at its BMC (35.14) and in log entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SensorKey {
    /// Slave address or software id of the owner.
    pub owner: u8,
    pub channel: u8,
    pub lun: u8,
    pub number: u8,
}

impl std::fmt::Display for SensorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sdr:{:02x}:{}:{:02x}", self.owner, self.lun, self.number)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct SensorRecord {
    pub key: SensorKey,
    pub name: String,
    pub entity: u8,
    pub instance: u8,
    pub sensor_type: u8,
    pub event_type: u8,
    pub content: Content,
}

/// What a sensor's value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A number, by a full record with an analog format.
    Analog(Analog),
    /// States only.
    Discrete,
    /// Sends events, cannot be read (43.3).
    EventOnly,
    /// A threshold sensor whose record makes no sense; what is wrong with it.
    Broken(BadRecord),
}

#[derive(Clone, Debug, PartialEq)]
pub struct FruLocator {
    pub name: Option<String>,
    /// Address of the controller that answers for it.
    pub owner: u8,
    /// Set for a device to be read with Read FRU Data (43.8, bit 7 of byte 8); clear for a bare EEPROM on a bus.
    pub logical: bool,
    pub id: u8,
    pub entity: u8,
    pub instance: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub struct McLocator {
    pub name: Option<String>,
    pub address: u8,
    pub entity: u8,
    pub instance: u8,
}

pub(super) fn byte(b: &[u8], at: usize) -> Result<u8, BadRecord> {
    b.get(at).copied().ok_or(BadRecord::Short)
}

/// Type/length byte (43.15) at `at` and the text after it; a length beyond the record is cut.
fn id_string(b: &[u8], at: usize) -> Option<String> {
    let kind = *b.get(at)?;
    let rest = b.get(at + 1..)?;
    text(kind >> 6, rest.get(..usize::from(kind & 0x1f)).unwrap_or(rest))
}

impl Record {
    /// A whole record with its header; what is behind the length the header names is ignored.
    pub fn read(b: &[u8]) -> Result<Self, BadRecord> {
        let end = HEADER_BYTES + usize::from(byte(b, 4)?);
        let b = b.get(..end).unwrap_or(b);
        Ok(match byte(b, 3)? {
            0x01 => Self::Sensors(vec![full(b)?]),
            0x02 => Self::Sensors(shared(sensor(b, 12, 31, Content::Discrete)?, byte(b, 23)?, byte(b, 24)?)),
            0x03 => Self::Sensors(shared(sensor(b, 10, 16, Content::EventOnly)?, byte(b, 12)?, byte(b, 13)?)),
            0x11 => Self::Fru(FruLocator {
                owner: byte(b, 5)?,
                id: byte(b, 6)?,
                logical: byte(b, 7)? & 0x80 != 0,
                entity: byte(b, 12)?,
                instance: byte(b, 13)?,
                name: id_string(b, 15),
            }),
            0x12 => Self::Mc(McLocator { address: byte(b, 5)?, entity: byte(b, 12)?, instance: byte(b, 13)?, name: id_string(b, 15) }),
            kind => Self::Other { kind },
        })
    }
}

/// What sensor records begin with alike. `type_at` is where sensor type and event type stand, `name_at` the name's length byte.
fn sensor(b: &[u8], type_at: usize, name_at: usize, content: Content) -> Result<SensorRecord, BadRecord> {
    let channel_lun = byte(b, 6)?;
    let key = SensorKey { owner: byte(b, 5)?, channel: channel_lun >> 4, lun: channel_lun & 3, number: byte(b, 7)? };
    Ok(SensorRecord {
        key,
        name: id_string(b, name_at).unwrap_or_else(|| format!("sensor {:02x}", key.number)),
        entity: byte(b, 8)?,
        instance: byte(b, 9)?,
        sensor_type: byte(b, type_at)?,
        event_type: byte(b, type_at + 1)? & 0x7f,
        content,
    })
}

/// One record for several sensors (43.2, bytes 24 and 25): numbers follow one another, names get a suffix, and the entity
/// instance goes up too where bit 7 says so.
fn shared(first: SensorRecord, sharing: u8, modifier: u8) -> Vec<SensorRecord> {
    let count = (sharing & SHARE_MASK).max(1);
    if count == 1 {
        return vec![first];
    }
    (0..count)
        .map(|n| {
            let suffix = (modifier & 0x7f).wrapping_add(n);
            let name = match sharing >> 4 & 3 {
                0b00 => format!("{}{suffix}", first.name),
                // Alphabetic: A to Z, then AA.
                _ => format!("{}{}", first.name, letters(suffix)),
            };
            SensorRecord {
                key: SensorKey { number: first.key.number.wrapping_add(n), ..first.key },
                name,
                instance: if modifier & 0x80 != 0 { first.instance.wrapping_add(n) } else { first.instance },
                ..first.clone()
            }
        })
        .collect()
}

fn letters(n: u8) -> String {
    let last = char::from(b'A' + n % 26);
    if n < 26 { last.to_string() } else { format!("{}{last}", char::from(b'A' + (n / 26 - 1) % 26)) }
}

fn full(b: &[u8]) -> Result<SensorRecord, BadRecord> {
    let record = sensor(b, 12, 47, Content::Discrete)?;
    if record.event_type != THRESHOLD {
        return Ok(record);
    }
    let content = match Analog::read(b) {
        Ok(analog) => Content::Analog(analog),
        Err(BadRecord::Short) => return Err(BadRecord::Short),
        Err(why) => Content::Broken(why),
    };
    Ok(SensorRecord { content, ..record })
}

impl SensorRecord {
    /// What it measures: by its type (table 42-3) and, for types that leave it open, by its unit.
    pub fn kind(&self) -> SensorKind {
        let Content::Analog(analog) = &self.content else { return SensorKind::Discrete };
        match (self.sensor_type, analog.units.unit) {
            (ipmi_event::TEMPERATURE, _) => SensorKind::Temperature,
            (ipmi_event::VOLTAGE, _) => SensorKind::Voltage,
            (ipmi_event::FAN, _) => SensorKind::Fan,
            // Power is reported as "current" by boards that have no better type.
            (_, Unit::Watt) => SensorKind::Power,
            (ipmi_event::CURRENT, _) => SensorKind::Current,
            (_, Unit::Celsius) => SensorKind::Temperature,
            (_, Unit::Volt) => SensorKind::Voltage,
            (_, Unit::Ampere) => SensorKind::Current,
            (_, Unit::Joule) => SensorKind::Energy,
            (_, Unit::Rpm) => SensorKind::Fan,
            (_, Unit::Percent) => SensorKind::Share,
            (_, Unit::LitrePerMinute) => SensorKind::Flow,
            (_, Unit::Pascal) => SensorKind::Pressure,
            (_, Unit::Hertz | Unit::Second | Unit::None) => SensorKind::Other,
        }
    }

    fn has_thresholds(&self) -> bool {
        match &self.content {
            Content::Analog(analog) => analog.limits.access != Access::None,
            Content::Discrete | Content::EventOnly | Content::Broken(_) => false,
        }
    }

    pub fn unit(&self) -> Unit {
        match &self.content {
            Content::Analog(analog) => analog.units.unit,
            Content::Discrete | Content::EventOnly | Content::Broken(_) => Unit::None,
        }
    }

    /// Reads the answer to Get Sensor Reading (35.14). `factors`: what holds for this reading, for non-linear sensors.
    pub fn reading(&self, data: &[u8], factors: Option<&Factors>) -> Reading {
        let unavailable = |why: &str| Reading::Unavailable { why: why.to_owned() };
        let [raw, flags, states @ ..] = data else { return unavailable("the BMC's answer is empty") };
        if flags & 0x20 != 0 {
            return unavailable("the BMC says that there is no reading now");
        }
        if flags & 0x40 == 0 {
            return unavailable("its scanning is switched off");
        }
        match &self.content {
            Content::Analog(analog) => match analog.value_by(factors.unwrap_or(&analog.factors), *raw) {
                Some(value) => Reading::Number { value },
                None => unavailable("its conversion factors give no number"),
            },
            Content::Broken(why) => Reading::Unavailable { why: format!("its record has {why}") },
            Content::EventOnly => unavailable("it only sends events"),
            Content::Discrete => {
                let [low, rest @ ..] = states else { return unavailable("the BMC gives no states") };
                // Bit 15 is reserved and set by some.
                let offsets = u16::from_le_bytes([*low, rest.first().copied().unwrap_or(0) & 0x7f]);
                let words =
                    (0..15).filter(|n| offsets >> n & 1 == 1).map(|n| ipmi_event::words(self.event_type, self.sensor_type, n)).collect();
                Reading::States { words, offsets }
            }
        }
    }

    /// The BMC's own judgement: comparison with thresholds (35.14, byte 4), or the weight of asserted states.
    pub fn health(&self, data: &[u8], reading: &Reading) -> Option<Health> {
        match reading {
            Reading::Unavailable { .. } => None,
            Reading::Number { .. } => Some(match data.get(2)? & 0x3f {
                // Without thresholds there is nothing to be well below of.
                0 if !self.has_thresholds() => return None,
                0 => Health::Ok,
                // Bits 0 and 3: the non-critical limits.
                status if status & !0b00_1001 == 0 => Health::Warning,
                _ => Health::Critical,
            }),
            Reading::States { offsets, .. } => {
                (0..15).filter(|n| offsets >> n & 1 == 1).map(|n| ipmi_event::severity(self.event_type, self.sensor_type, n)).max().map(
                    |worst| match worst {
                        LogSeverity::Info => Health::Ok,
                        LogSeverity::Warning => Health::Warning,
                        LogSeverity::Critical => Health::Critical,
                    },
                )
            }
        }
    }
}

/// A record's header and body, with the length filled in.
fn framed(id: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    let [low, high] = id.to_le_bytes();
    // 51h: the version of the specification (33.9).
    [&[low, high, 0x51, kind, u8::try_from(body.len()).unwrap_or(u8::MAX)], body].concat()
}

/// Type/length byte and 8-bit text, at most 16 bytes (43.1).
fn write_id_string(name: &str) -> Vec<u8> {
    let bytes = name.as_bytes();
    let bytes = bytes.get(..bytes.len().min(16)).unwrap_or_default();
    [&[0xc0 | u8::try_from(bytes.len()).unwrap_or(0)], bytes].concat()
}

impl SensorRecord {
    /// As our simulated BMC stores it: a full record for numbers, a compact one for states (43.1, 43.2).
    pub fn write(&self, id: u16) -> Vec<u8> {
        let key = [self.key.owner, self.key.channel << 4 | self.key.lun, self.key.number, self.entity, self.instance];
        let kinds = [self.sensor_type, self.event_type];
        let name = write_id_string(&self.name);
        match &self.content {
            Content::Analog(a) => {
                // Scanning and events on; threshold access in bits 3:2, hysteresis readable in 5:4.
                let access = match a.limits.access {
                    Access::None => 0b00,
                    Access::Readable => 0b01,
                    Access::Fixed => 0b11,
                };
                let hysteresis = u8::from(a.hysteresis_raw.is_some());
                let mask = (0..6).filter(|n| a.limits.raw[*n].is_some()).fold(0u8, |mask, n| mask | 1 << n);
                // Comparisons that Get Sensor Reading returns: lower in bits 14:12 of the first mask, upper of the second.
                let (lower, upper) = ((mask & 7) << 4, (mask >> 3) << 4);
                let mut body = key.to_vec();
                body.extend_from_slice(&[0x7f, hysteresis << 4 | access << 2]);
                body.extend_from_slice(&kinds);
                body.extend_from_slice(&[0xff, lower | 0x0f, 0xff, upper | 0x0f, mask, 0]);
                let [flags, base, modifier] = Units::write(a.units.unit);
                let format = match a.factors.format {
                    Format::Unsigned => 0b00,
                    Format::OnesComplement => 0b01,
                    Format::TwosComplement => 0b10,
                };
                body.extend_from_slice(&[format << 6 | flags, base, modifier, a.curve.code()]);
                body.extend_from_slice(&a.factors.write());
                body.extend_from_slice(&[0, 0, 0, 0, a.range_raw.1, a.range_raw.0]);
                body.extend([5, 4, 3, 2, 1, 0].map(|n: usize| a.limits.raw[n].unwrap_or(0)));
                let hysteresis = a.hysteresis_raw.unwrap_or(0);
                body.extend_from_slice(&[hysteresis, hysteresis, 0, 0, 0]);
                framed(id, 0x01, &[body, name].concat())
            }
            Content::Discrete | Content::Broken(_) => {
                let mut body = key.to_vec();
                body.extend_from_slice(&[0x67, 0x40]);
                body.extend_from_slice(&kinds);
                body.extend_from_slice(&[0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f]);
                // No analog format, no units; not shared.
                body.extend_from_slice(&[0xc0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
                framed(id, 0x02, &[body, name].concat())
            }
            Content::EventOnly => framed(id, 0x03, &[key.as_slice(), &kinds, &[1, 0, 0, 0], &name].concat()),
        }
    }
}

impl FruLocator {
    pub fn write(&self, id: u16) -> Vec<u8> {
        let head = [self.owner, self.id, u8::from(self.logical) << 7, 0, 0, 0x10, 0, self.entity, self.instance, 0];
        framed(id, 0x11, &[head.as_slice(), &write_id_string(self.name.as_deref().unwrap_or_default())].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sensor_value::Limits;
    use proptest::prelude::*;

    /// A full record by the table of 43.1, byte by byte: `CPU Temp`, 2's complement, upper limits 80, 90, 100.
    fn cpu_temp() -> Vec<u8> {
        let mut b = vec![0x04, 0x00, 0x51, 0x01, 0]; // header: id 4, type full
        b.extend_from_slice(&[0x20, 0x00, 0x01]); // owner BMC, LUN 0, number 1
        b.extend_from_slice(&[0x03, 0x01]); // entity processor 1
        b.extend_from_slice(&[0x7f, 0x58]); // initialised; auto re-arm, hysteresis readable, thresholds readable and settable
        b.extend_from_slice(&[0x01, 0x01]); // temperature, threshold
        b.extend_from_slice(&[0x80, 0x0a, 0x80, 0x7a, 0x38, 0x38]); // masks; readable: the three upper ones
        b.extend_from_slice(&[0x80, 0x01, 0x00]); // 2's complement, degrees C
        b.extend_from_slice(&[0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00]); // linear, M = 1
        b.extend_from_slice(&[0x00, 0x00, 0x00, 0x00, 0x7f, 0x80]); // range
        b.extend_from_slice(&[100, 90, 80, 0, 0, 0]); // upper non-recoverable, critical, non-critical, lower
        b.extend_from_slice(&[2, 2, 0, 0, 0]); // hysteresis
        b.extend_from_slice(&[0xc8]);
        b.extend_from_slice(b"CPU Temp");
        b[4] = (b.len() - HEADER_BYTES) as u8;
        b
    }

    fn one(bytes: &[u8]) -> SensorRecord {
        match Record::read(bytes).unwrap() {
            Record::Sensors(mut sensors) => sensors.remove(0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_record_is_read_field_by_field() {
        let sensor = one(&cpu_temp());
        assert_eq!(sensor.key.to_string(), "sdr:20:0:01");
        assert_eq!((sensor.name.as_str(), sensor.kind(), sensor.unit()), ("CPU Temp", SensorKind::Temperature, Unit::Celsius));
        assert_eq!((sensor.entity, sensor.instance), (3, 1));
        let Content::Analog(analog) = &sensor.content else { panic!() };
        assert_eq!(analog.limits, Limits { access: Access::Readable, raw: [None, None, None, Some(80), Some(90), Some(100)] });
        assert_eq!((analog.hysteresis(), analog.range()), (Some(2.0), (Some(-128.0), Some(127.0))));
        // 35.14: reading 0xfb is -5; events and scanning on; nothing crossed.
        let data = [0xfb, 0xc0, 0xc0];
        let reading = sensor.reading(&data, None);
        assert_eq!((reading.number(), sensor.health(&data, &reading)), (Some(-5.0), Some(Health::Ok)));
        for (status, want) in [(0xc8, Health::Warning), (0xd8, Health::Critical), (0xe0, Health::Critical), (0xc1, Health::Warning)] {
            assert_eq!(sensor.health(&[95, 0xc0, status], &Reading::Number { value: 95.0 }), Some(want), "{status:#x}");
        }
    }

    /// Defect C1 at its root: what cannot be read is unknown, never zero and never gone.
    #[test]
    fn c1_a_reading_that_is_not_there_is_unavailable_and_not_zero() {
        let sensor = one(&cpu_temp());
        for data in [[0, 0xe0, 0xc0].as_slice(), &[0, 0x80, 0xc0], &[0, 0xa0, 0xc0], &[0], &[]] {
            let reading = sensor.reading(data, None);
            assert!(matches!(reading, Reading::Unavailable { .. }), "{data:?}");
            assert_eq!(sensor.health(data, &reading), None);
        }
    }

    #[test]
    fn a_compact_record_gives_states_in_words_and_a_shared_one_several_sensors() {
        // 43.2: PSU status, sensor-specific, power supply; shared by 2, numeric suffix from 1, instances count up.
        let mut b = vec![0x05, 0x00, 0x51, 0x02, 0, 0x20, 0x00, 0x30, 0x0a, 0x01, 0x67, 0x40, 0x08, 0x6f];
        b.extend_from_slice(&[0x0f, 0x00, 0x0f, 0x00, 0x0f, 0x00, 0xc0, 0x00, 0x00, 0x02, 0x81, 0, 0, 0, 0, 0, 0, 0xc3]);
        b.extend_from_slice(b"PSU");
        b[4] = (b.len() - HEADER_BYTES) as u8;
        let Record::Sensors(sensors) = Record::read(&b).unwrap() else { panic!() };
        let told: Vec<_> = sensors.iter().map(|s| (s.name.as_str(), s.key.number, s.instance)).collect();
        assert_eq!(told, [("PSU1", 0x30, 1), ("PSU2", 0x31, 2)]);
        let data = [0, 0xc0, 0x03, 0x80];
        let reading = sensors[1].reading(&data, None);
        assert_eq!(
            reading,
            Reading::States { words: vec!["Presence detected".into(), "Power Supply Failure detected".into()], offsets: 3 },
            "bit 15 is reserved"
        );
        assert_eq!(sensors[1].health(&data, &reading), Some(Health::Critical));
        assert_eq!(sensors[1].reading(&[0, 0xc0, 0], None), Reading::States { words: vec![], offsets: 0 });
        assert_eq!((letters(0), letters(25), letters(26)), ("A".into(), "Z".into(), "AA".into()));
    }

    #[test]
    fn locators_and_event_only_records_are_read() {
        let fru = FruLocator { name: Some("PSU1 FRU".into()), owner: BMC, logical: true, id: 3, entity: 10, instance: 1 };
        assert_eq!(Record::read(&fru.write(7)), Ok(Record::Fru(fru)));
        // 43.9: a controller at 2Ch.
        let mc = [0x09, 0, 0x51, 0x12, 0x0d, 0x2c, 0, 0, 0x21, 0, 0, 0, 0x2e, 0x01, 0, 0xc2, b'M', b'E'];
        assert_eq!(Record::read(&mc), Ok(Record::Mc(McLocator { name: Some("ME".into()), address: 0x2c, entity: 0x2e, instance: 1 })));
        // 43.3: event-only, memory.
        let event = [0x0a, 0, 0x51, 0x03, 0x0f, 0x21, 0, 0x10, 0x20, 1, 0x0c, 0x6f, 1, 0, 0, 0, 0xc3, b'E', b'C', b'C'];
        let sensor = one(&event);
        assert_eq!((sensor.name.as_str(), sensor.content, sensor.key.owner), ("ECC", Content::EventOnly, 0x21));
        assert_eq!(Record::read(&[1, 0, 0x51, 0xc0, 3, 1, 2, 3]), Ok(Record::Other { kind: 0xc0 }));
    }

    #[test]
    fn impossible_factors_are_refused_with_their_reason_and_the_sensor_stays_known() {
        let mut flat = cpu_temp();
        flat[24] = 0;
        let sensor = one(&flat);
        assert_eq!(sensor.content, Content::Broken(BadRecord::NoSlope));
        assert_eq!(
            sensor.reading(&[5, 0xc0, 0], None),
            Reading::Unavailable { why: "its record has conversion factors that give no number (M is 0)".into() }
        );
        let mut curve = cpu_temp();
        curve[23] = 0x7f;
        assert_eq!(one(&curve).content, Content::Broken(BadRecord::Linearisation(0x7f)));
        let mut digital = cpu_temp();
        digital[20] = 0xc0;
        assert_eq!(one(&digital).content, Content::Broken(BadRecord::NotAnalog));
    }

    #[test]
    fn what_the_simulated_bmc_writes_is_read_back_the_same() {
        let sensor = one(&cpu_temp());
        assert_eq!(one(&sensor.write(4)), sensor);
        let discrete =
            SensorRecord { content: Content::Discrete, event_type: 0x6f, sensor_type: 0x0d, name: "Drive0".into(), ..sensor.clone() };
        assert_eq!(one(&discrete.write(5)), discrete);
        let event = SensorRecord { content: Content::EventOnly, ..discrete };
        assert_eq!(one(&event.write(6)), event);
    }

    #[test]
    fn a_record_cut_anywhere_or_with_any_byte_changed_does_not_panic() {
        let use_it = |b: &[u8]| {
            if let Ok(Record::Sensors(sensors)) = Record::read(b) {
                for s in sensors {
                    let reading = s.reading(&[200, 0xc0, 0xff, 0xff], None);
                    drop((s.kind(), s.unit(), s.health(&[200, 0xc0, 0xff], &reading), s.write(1)));
                    if let Content::Analog(a) = &s.content {
                        let limits = a.thresholds(&[Some(0), Some(255), None, Some(128), Some(1), Some(127)]);
                        assert!([limits.lower_caution, a.hysteresis(), a.range().0].into_iter().flatten().all(f64::is_finite));
                    }
                }
            }
        };
        let good = cpu_temp();
        for length in 0..good.len() {
            use_it(&good[..length]);
        }
        for at in 0..good.len() {
            for flip in 1..=255u8 {
                let mut bad = good.clone();
                bad[at] ^= flip;
                use_it(&bad);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(kind in 0u8..20, bytes in proptest::collection::vec(any::<u8>(), 0..80), answer in proptest::collection::vec(any::<u8>(), 0..6)) {
            let record = [&[1, 0, 0x51, kind, 60], bytes.as_slice()].concat();
            for b in [&record, &bytes] {
                if let Ok(Record::Sensors(sensors)) = Record::read(b) {
                    for s in sensors {
                        let reading = s.reading(&answer, None);
                        prop_assert!(reading.number().is_none_or(f64::is_finite));
                        let health = s.health(&answer, &reading);
                        let is_read = !matches!(reading, Reading::Unavailable { .. });
                        prop_assert!(health.is_none() || is_read);
                    }
                }
            }
        }
    }
}
