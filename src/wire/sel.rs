//! The system event log. Sections are those of the IPMI specification v2.0, revision 1.1: commands 31, records 32.

use crate::domain::hardware_log::{IpmiEvent, LogDirection, LogSeverity};
use crate::domain::time::Timestamp;
use crate::wire::ipmi_event::{self, FIRMWARE_PROGRESS, SENSOR_SPECIFIC, THRESHOLD};
use crate::wire::sdr::{Content, SensorRecord};

/// Every record has this length (32.1).
pub const RECORD_BYTES: usize = 16;
/// Ids of the first and of the last record to ask for; `LAST` is also what follows the last (31.5).
pub const FIRST: u16 = 0x0000;
pub const LAST: u16 = 0xffff;
/// Times up to here count from the BMC's start, because its clock was not set (37.1).
const PRE_INIT: u32 = 0x2000_0000;
const UNSPECIFIED: u32 = 0xffff_ffff;

/// Get SEL Info (31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    pub entries: u16,
    pub free_bytes: u16,
    /// As the BMC counts time; see [`time`].
    pub added: u32,
    pub erased: u32,
    /// Entries were dropped for want of space.
    pub overflow: bool,
    pub can_reserve: bool,
}

impl Info {
    pub fn read(b: &[u8]) -> Option<Self> {
        let [_version, e0, e1, f0, f1, a0, a1, a2, a3, r0, r1, r2, r3, support] = *b.first_chunk::<14>()?;
        Some(Self {
            entries: u16::from_le_bytes([e0, e1]),
            free_bytes: u16::from_le_bytes([f0, f1]),
            added: u32::from_le_bytes([a0, a1, a2, a3]),
            erased: u32::from_le_bytes([r0, r1, r2, r3]),
            overflow: support & 0x80 != 0,
            can_reserve: support & 0x02 != 0,
        })
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![0x51];
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.free_bytes.to_le_bytes());
        out.extend_from_slice(&self.added.to_le_bytes());
        out.extend_from_slice(&self.erased.to_le_bytes());
        out.push(u8::from(self.overflow) << 7 | u8::from(self.can_reserve) << 1);
        out
    }

    /// Used and total entries. 0xffff free bytes mean "that many or more" (31.2): then the total is unknown.
    pub fn fill(&self) -> Option<(u32, u32)> {
        let used = u32::from(self.entries);
        (self.free_bytes != u16::MAX).then(|| (used, used + u32::from(self.free_bytes) / RECORD_BYTES as u32))
    }
}

/// A time of the BMC (37.1). `None` for "unspecified" and for a clock that was never set.
pub fn time(secs: u32) -> Option<Timestamp> {
    (secs > PRE_INIT && secs != UNSPECIFIED).then(|| Timestamp(i64::from(secs) * 1_000_000))
}

/// One entry as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: u16,
    /// All sixteen bytes.
    pub bytes: [u8; RECORD_BYTES],
    pub body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Type 02h (32.1).
    Event { time: u32, generator: u16, deasserted: bool, event: IpmiEvent },
    /// C0h to DFh (32.2).
    OemTimed { kind: u8, time: u32, manufacturer: u32, data: [u8; 6] },
    /// E0h to FFh (32.3), and types nobody defined.
    Oem { kind: u8, data: [u8; 13] },
}

impl Record {
    /// `None` when there are fewer than sixteen bytes.
    pub fn read(b: &[u8]) -> Option<Self> {
        let bytes = *b.first_chunk::<RECORD_BYTES>()?;
        let [i0, i1, kind, data @ ..] = bytes;
        let [t0, t1, t2, t3, rest @ ..] = data;
        let time = u32::from_le_bytes([t0, t1, t2, t3]);
        let [g0, g1, g2, d0, d1, d2, d3, d4, d5] = rest;
        let body = match kind {
            0x02 => Body::Event {
                time,
                generator: u16::from_le_bytes([g0, g1]),
                deasserted: d2 & 0x80 != 0,
                event: IpmiEvent { sensor_type: d0, sensor_number: d1, event_type: d2 & 0x7f, offset: d3 & 0x0f, data2: d4, data3: d5 },
            },
            0xc0..=0xdf => Body::OemTimed { kind, time, manufacturer: u32::from_le_bytes([g0, g1, g2, 0]), data: [d0, d1, d2, d3, d4, d5] },
            _ => Body::Oem { kind, data },
        };
        Some(Self { id: u16::from_le_bytes([i0, i1]), bytes, body })
    }

    /// What the entry is, without the id under which it is kept: ids start again after a clear (defect C4).
    pub fn content(&self) -> &[u8] {
        self.bytes.get(2..).unwrap_or_default()
    }

    pub fn at(&self) -> Option<Timestamp> {
        match self.body {
            Body::Event { time: secs, .. } | Body::OemTimed { time: secs, .. } => time(secs),
            Body::Oem { .. } => None,
        }
    }

    pub fn direction(&self) -> LogDirection {
        match self.body {
            Body::Event { deasserted: true, .. } => LogDirection::Deasserted,
            Body::Event { deasserted: false, .. } => LogDirection::Asserted,
            Body::OemTimed { .. } | Body::Oem { .. } => LogDirection::Said,
        }
    }

    /// The weight of what is asserted; an end is no news by itself.
    pub fn severity(&self) -> LogSeverity {
        match self.body {
            Body::Event { deasserted: false, event, .. } => ipmi_event::severity(event.event_type, event.sensor_type, event.offset),
            Body::Event { deasserted: true, .. } | Body::OemTimed { .. } | Body::Oem { .. } => LogSeverity::Info,
        }
    }

    pub fn event(&self) -> Option<IpmiEvent> {
        match self.body {
            Body::Event { event, .. } => Some(event),
            Body::OemTimed { .. } | Body::Oem { .. } => None,
        }
    }

    /// Whether a sensor of the SDR repository sent this: same number, and same owner where the generator is a controller (32.1).
    pub fn is_from(&self, sensor: &SensorRecord) -> bool {
        match self.body {
            Body::Event { generator, event, .. } => {
                let [owner, _] = generator.to_le_bytes();
                sensor.key.number == event.sensor_number && sensor.sensor_type == event.sensor_type && (owner == sensor.key.owner)
            }
            Body::OemTimed { .. } | Body::Oem { .. } => false,
        }
    }

    /// A sentence for people. `sensor`: the record of the sensor that sent it, where there is one.
    pub fn message(&self, sensor: Option<&SensorRecord>) -> String {
        match self.body {
            Body::Event { event, deasserted, .. } => {
                let who = sensor.map_or_else(
                    || format!("{} sensor {:#04x}", ipmi_event::sensor_type(event.sensor_type), event.sensor_number),
                    |s| s.name.clone(),
                );
                let words = ipmi_event::words(event.event_type, event.sensor_type, event.offset);
                let detail = self.detail(&event, sensor).map(|d| format!(" ({d})")).unwrap_or_default();
                let end = if deasserted { ", no longer" } else { "" };
                format!("{who}: {words}{detail}{end}")
            }
            Body::OemTimed { kind, manufacturer, data, .. } => {
                format!("vendor record {kind:#04x} of manufacturer {manufacturer}: {}", hex::encode(data))
            }
            Body::Oem { kind, data } => format!("vendor record {kind:#04x}: {}", hex::encode(data)),
        }
    }

    /// What event data 2 and 3 add (29.7): the reading and the limit of a threshold event, the phase of firmware progress.
    fn detail(&self, event: &IpmiEvent, sensor: Option<&SensorRecord>) -> Option<String> {
        let data1 = self.bytes.get(13)?;
        match event.event_type {
            THRESHOLD => {
                let Content::Analog(analog) = &sensor?.content else { return None };
                let unit = analog.units.unit.symbol();
                let value = |raw| analog.value(raw).map(|v| format!("{}{unit}", rounded(v)));
                // Bits 7:6 and 5:4 are 01 when the bytes are the reading and the limit.
                let reading = (data1 >> 6 == 0b01).then(|| value(event.data2)).flatten();
                let limit = (data1 >> 4 & 3 == 0b01).then(|| value(event.data3)).flatten();
                match (reading, limit) {
                    (Some(reading), Some(limit)) => Some(format!("reading {reading}, limit {limit}")),
                    (Some(reading), None) => Some(format!("reading {reading}")),
                    (None, Some(limit)) => Some(format!("limit {limit}")),
                    (None, None) => None,
                }
            }
            SENSOR_SPECIFIC if event.sensor_type == FIRMWARE_PROGRESS && data1 >> 6 == 0b11 => {
                ipmi_event::firmware_progress(event.offset, event.data2).map(str::to_owned)
            }
            _ => None,
        }
    }
}

/// At most three decimals, none that are zero.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sdr::SensorKey;
    use crate::wire::sensor_value::{Access, Analog, Curve, Factors, Format, Limits, Units};
    use proptest::prelude::*;

    fn cpu_temp() -> SensorRecord {
        SensorRecord {
            key: SensorKey { owner: 0x20, channel: 0, lun: 0, number: 1 },
            name: "CPU Temp".into(),
            entity: 3,
            instance: 1,
            sensor_type: 1,
            event_type: 1,
            content: Content::Analog(Analog {
                units: Units::read(0, 1, 0),
                curve: Curve::Linear,
                factors: Factors { format: Format::Unsigned, m: 1, b: 0, b_exponent: 0, r_exponent: 0 },
                limits: Limits { access: Access::None, raw: [None; 6] },
                hysteresis_raw: None,
                range_raw: (0, 255),
            }),
        }
    }

    /// 32.1 by hand: id 5, 2026-11-24T17:00:00Z, generator 20h, temperature sensor 1, upper critical going high, 95 over 90.
    const CROSSED: [u8; 16] = [5, 0, 2, 0x30, 0xc3, 0x05, 0x6b, 0x20, 0, 4, 1, 1, 0x01, 0x59, 95, 90];

    #[test]
    fn a_threshold_event_is_told_with_its_sensor_reading_and_limit() {
        let record = Record::read(&CROSSED).unwrap();
        assert!(record.is_from(&cpu_temp()));
        assert_eq!(record.message(Some(&cpu_temp())), "CPU Temp: Upper Critical - going high (reading 95 °C, limit 90 °C)");
        assert_eq!(record.message(None), "Temperature sensor 0x01: Upper Critical - going high");
        assert_eq!((record.severity(), record.direction()), (LogSeverity::Critical, LogDirection::Asserted));
        let mut end = CROSSED;
        end[12] |= 0x80;
        let end = Record::read(&end).unwrap();
        assert_eq!((end.severity(), end.direction()), (LogSeverity::Info, LogDirection::Deasserted));
        assert!(end.message(None).ends_with(", no longer"));
        assert_eq!(end.event().unwrap().event_type, 1, "without the direction bit");
    }

    #[test]
    fn times_that_are_none_are_none_and_the_others_are_utc() {
        assert_eq!((time(0), time(PRE_INIT), time(UNSPECIFIED)), (None, None, None));
        assert_eq!(Record::read(&CROSSED).unwrap().at().unwrap().to_string(), "2026-11-24T17:02:40Z");
    }

    #[test]
    fn vendor_records_keep_their_bytes() {
        let mut timed = CROSSED;
        timed[2] = 0xc1;
        let timed = Record::read(&timed).unwrap();
        assert_eq!(timed.message(None), "vendor record 0xc1 of manufacturer 262176: 010101595f5a");
        assert!(timed.at().is_some());
        let mut plain = CROSSED;
        plain[2] = 0xf0;
        let plain = Record::read(&plain).unwrap();
        assert_eq!(plain.message(None), "vendor record 0xf0: 30c3056b200004010101595f5a");
        assert_eq!((plain.at(), plain.direction(), plain.severity()), (None, LogDirection::Said, LogSeverity::Info));
    }

    #[test]
    fn the_same_event_under_another_id_is_the_same_content() {
        let mut again = CROSSED;
        again[0] = 99;
        assert_eq!(Record::read(&again).unwrap().content(), Record::read(&CROSSED).unwrap().content());
    }

    #[test]
    fn firmware_progress_names_its_phase() {
        let record = Record::read(&[1, 0, 2, 0, 0, 0, 0x40, 0x21, 0, 4, 0x0f, 0, 0x6f, 0xc2, 0x13, 0xff]).unwrap();
        assert_eq!(
            record.message(None),
            "System Firmware Progress sensor 0x00: System Firmware Progress (starting operating system boot process)"
        );
    }

    #[test]
    fn a_full_log_and_one_of_unknown_size_are_told_apart() {
        let info = Info { entries: 3, free_bytes: 0, added: 7, erased: 9, overflow: true, can_reserve: true };
        assert_eq!(Info::read(&info.write()), Some(info));
        assert_eq!(info.fill(), Some((3, 3)));
        assert_eq!(Info { free_bytes: 160, ..info }.fill(), Some((3, 13)));
        assert_eq!(Info { free_bytes: u16::MAX, ..info }.fill(), None);
        assert_eq!(Info::read(&[0; 13]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some(r) = Record::read(&bytes) {
                drop((r.message(None), r.message(Some(&cpu_temp())), r.at(), r.severity(), r.direction(), r.content().len()));
            }
            prop_assert_eq!(Info::read(&bytes).is_some(), bytes.len() >= 14);
        }

        #[test]
        fn any_byte_of_an_entry_may_change(at in 0usize..16, flip in 1u8..=255) {
            let mut bytes = CROSSED;
            bytes[at] ^= flip;
            let r = Record::read(&bytes).unwrap();
            prop_assert!(!r.message(Some(&cpu_temp())).is_empty());
        }
    }
}
