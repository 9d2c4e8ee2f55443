//! Words and weight of IPMI sensor states and events (IPMI v2.0, tables 42-2 and 42-3).
//!
//! The words are those of `ipmi-rs-core`'s tables, which follow the specification; what they lack is here.

use std::fmt;

use ipmi_rs_core::storage::sdr::{SensorType, decode_event};

use crate::domain::hardware_log::LogSeverity;

/// Event/reading type codes (42.1).
pub const THRESHOLD: u8 = 0x01;
pub const SENSOR_SPECIFIC: u8 = 0x6f;

/// Sensor types (table 42-3) that we treat apart.
pub const TEMPERATURE: u8 = 0x01;
pub const VOLTAGE: u8 = 0x02;
pub const CURRENT: u8 = 0x03;
pub const FAN: u8 = 0x04;
pub const PROCESSOR: u8 = 0x07;
pub const POWER_SUPPLY: u8 = 0x08;
pub const MEMORY: u8 = 0x0c;
pub const DRIVE_SLOT: u8 = 0x0d;
pub const FIRMWARE_PROGRESS: u8 = 0x0f;
pub const OS_BOOT: u8 = 0x1f;
pub const SLOT: u8 = 0x21;
pub const WATCHDOG: u8 = 0x23;
pub const BATTERY: u8 = 0x29;

/// A sensor type's name, for events of sensors that have no record.
pub fn sensor_type(code: u8) -> String {
    SensorType::from(code).to_string()
}

/// What offset `offset` of a sensor says, as table 42-2 (generic) or 42-3 (sensor-specific) has it; OEM and reserved ones by number.
pub fn words(event_type: u8, sensor_type: u8, offset: u8) -> String {
    struct Decoded(u8, u8, u8);
    impl fmt::Display for Decoded {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            decode_event(f, self.0, SensorType::from(self.1), self.2)
        }
    }
    let offset = offset & 0x0f;
    if event_type & 0x7f == SENSOR_SPECIFIC && sensor_type == SLOT {
        return slot_words(offset).map_or_else(|| numbered(event_type, offset), str::to_owned);
    }
    let said = Decoded(event_type & 0x7f, sensor_type, offset).to_string();
    if said.is_empty() { numbered(event_type, offset) } else { said }
}

fn numbered(event_type: u8, offset: u8) -> String {
    format!("state {offset} of event type {:#04x}", event_type & 0x7f)
}

/// Slot / connector, which `ipmi-rs-core` 0.6 leaves out.
fn slot_words(offset: u8) -> Option<&'static str> {
    Some(match offset {
        0 => "Fault status",
        1 => "Identify status",
        2 => "Device installed / attached",
        3 => "Ready for device installation",
        4 => "Ready for device removal",
        5 => "Slot power is off",
        6 => "Device removal requested",
        7 => "Interlock",
        8 => "Slot is disabled",
        9 => "Slot holds a spare device",
        _ => return None,
    })
}

/// How bad it is that this state is asserted.
///
/// Thresholds: non-critical is a warning, critical and non-recoverable are critical, and a limit left behind (lower going
/// high, upper going low) is no news. The rest by what table 42-3 says; OEM codes are `Info`, since nobody told us more.
pub fn severity(event_type: u8, sensor_type: u8, offset: u8) -> LogSeverity {
    use LogSeverity::{Critical, Info, Warning};
    match (event_type & 0x7f, sensor_type, offset & 0x0f) {
        (THRESHOLD, _, 0x0 | 0x7) => Warning,
        (THRESHOLD, _, 0x2 | 0x4 | 0x9 | 0xb) => Critical,
        // Generic: predictive failure, limit exceeded, performance lags, severities, degraded, redundancy.
        (0x04..=0x06, _, 0x1) => Warning,
        (0x07, _, 0x1 | 0x4) => Warning,
        (0x07, _, 0x2 | 0x3 | 0x5 | 0x6) => Critical,
        (0x0a, _, 0x6 | 0x8) => Warning,
        (0x0b, _, 0x1..=0x4 | 0x6 | 0x7) => Warning,
        (0x0b, _, 0x5) => Critical,
        (SENSOR_SPECIFIC, 0x05, _) => Warning,
        (SENSOR_SPECIFIC, 0x06, _) => Warning,
        (SENSOR_SPECIFIC, PROCESSOR, 0x0..=0x6 | 0xb) => Critical,
        (SENSOR_SPECIFIC, PROCESSOR, 0x8 | 0xa | 0xc) => Warning,
        (SENSOR_SPECIFIC, POWER_SUPPLY, 0x1 | 0x3 | 0x4) => Critical,
        (SENSOR_SPECIFIC, POWER_SUPPLY, 0x2 | 0x5 | 0x6) => Warning,
        (SENSOR_SPECIFIC, 0x09, 0x4..=0x6) => Critical,
        (SENSOR_SPECIFIC, 0x09, 0x7) => Warning,
        (SENSOR_SPECIFIC, MEMORY, 0x1 | 0x2 | 0x3 | 0xa) => Critical,
        (SENSOR_SPECIFIC, MEMORY, 0x0 | 0x4 | 0x5 | 0x7 | 0x9) => Warning,
        (SENSOR_SPECIFIC, DRIVE_SLOT, 0x1 | 0x6) => Critical,
        (SENSOR_SPECIFIC, DRIVE_SLOT, 0x2 | 0x5 | 0x7 | 0x8) => Warning,
        (SENSOR_SPECIFIC, FIRMWARE_PROGRESS, 0x0 | 0x1) => Critical,
        (SENSOR_SPECIFIC, 0x10, 0x0 | 0x1 | 0x3..=0x6) => Warning,
        (SENSOR_SPECIFIC, 0x11, _) => Warning,
        (SENSOR_SPECIFIC, 0x12, 0x2) => Critical,
        (SENSOR_SPECIFIC, 0x13, 0x7 | 0xb) => Warning,
        (SENSOR_SPECIFIC, 0x13, 0x0..=0x6 | 0x8..=0xa) => Critical,
        (SENSOR_SPECIFIC, 0x19, 0x0 | 0x1) => Critical,
        (SENSOR_SPECIFIC, 0x1e, _) => Warning,
        (SENSOR_SPECIFIC, OS_BOOT, 0x9 | 0xa) => Warning,
        (SENSOR_SPECIFIC, 0x20, 0x0 | 0x1) => Critical,
        (SENSOR_SPECIFIC, SLOT, 0x0) => Critical,
        (SENSOR_SPECIFIC, WATCHDOG, 0x0..=0x3) => Warning,
        (SENSOR_SPECIFIC, 0x27, 0x0) => Warning,
        (SENSOR_SPECIFIC, 0x28, 0x0..=0x5) => Warning,
        (SENSOR_SPECIFIC, BATTERY, 0x0) => Warning,
        (SENSOR_SPECIFIC, BATTERY, 0x1) => Critical,
        (SENSOR_SPECIFIC, 0x2a, 0x2 | 0x3) => Warning,
        (SENSOR_SPECIFIC, 0x2b, 0x2..=0x5) => Warning,
        (SENSOR_SPECIFIC, 0x2c, 0x7) => Warning,
        _ => Info,
    }
}

/// Firmware progress (sensor type 0Fh): what event data 2 says of offsets 0 (error), 1 (hang) and 2 (progress).
pub fn firmware_progress(offset: u8, data2: u8) -> Option<&'static str> {
    match offset {
        0 => Some(match data2 {
            0x00 => "unspecified error",
            0x01 => "no system memory is installed",
            0x02 => "no usable system memory",
            0x03 => "unrecoverable hard-disk failure",
            0x04 => "unrecoverable system-board failure",
            0x05 => "unrecoverable diskette subsystem failure",
            0x06 => "unrecoverable hard-disk controller failure",
            0x07 => "unrecoverable PS/2 or USB keyboard failure",
            0x08 => "removable boot media not found",
            0x09 => "unrecoverable video controller failure",
            0x0a => "no video device detected",
            0x0b => "firmware ROM corruption detected",
            0x0c => "CPU voltage mismatch",
            0x0d => "CPU speed matching failure",
            _ => return None,
        }),
        1 | 2 => Some(match data2 {
            0x00 => "unspecified",
            0x01 => "memory initialization",
            0x02 => "hard-disk initialization",
            0x03 => "secondary processor initialization",
            0x04 => "user authentication",
            0x05 => "user-initiated system setup",
            0x06 => "USB resource configuration",
            0x07 => "PCI resource configuration",
            0x08 => "option ROM initialization",
            0x09 => "video initialization",
            0x0a => "cache initialization",
            0x0b => "SMBus initialization",
            0x0c => "keyboard controller initialization",
            0x0d => "embedded controller initialization",
            0x0e => "docking station attachment",
            0x0f => "enabling docking station",
            0x10 => "docking station ejection",
            0x11 => "disabling docking station",
            0x12 => "calling operating system wake-up vector",
            0x13 => "starting operating system boot process",
            0x14 => "baseboard initialization",
            0x16 => "floppy initialization",
            0x17 => "keyboard test",
            0x18 => "pointing device test",
            0x19 => "primary processor initialization",
            _ => return None,
        }),
        _ => None,
    }
}

/// An entity (43.14, table 43-13) as a person says it: `processor 1`.
pub fn entity(id: u8, instance: u8) -> String {
    let name = match id {
        3 | 65 => "processor",
        4 | 26 => "drive bay",
        5 | 27 => "peripheral bay",
        6 => "system management module",
        7 | 66 => "system board",
        8 => "memory module",
        9 => "processor module",
        10 => "power supply",
        11 => "add-in card",
        12 => "front panel board",
        13 | 22 => "back panel board",
        14 => "power system board",
        15 => "drive backplane",
        16 => "internal expansion board",
        17 => "other system board",
        18 => "processor board",
        19 => "power unit",
        20 => "power module",
        21 => "power distribution board",
        23 => "system chassis",
        24 => "sub-chassis",
        25 => "other chassis board",
        28 => "device bay",
        29 => "fan",
        30 => "cooling unit",
        31 => "cable",
        32 => "memory device",
        33 => "system management software",
        34 => "system firmware",
        35 => "operating system",
        36 => "system bus",
        37 => "group",
        38 => "remote management device",
        39 => "external environment",
        40 => "battery",
        41 => "processing blade",
        42 => "connectivity switch",
        43 => "processor and memory module",
        44 => "I/O module",
        45 => "processor and I/O module",
        46 => "management controller firmware",
        47 => "IPMI channel",
        48 => "PCI bus",
        49 => "PCI Express bus",
        50 => "SCSI bus",
        51 => "SATA or SAS bus",
        52 => "front-side bus",
        53 => "real-time clock",
        55 | 64 => "air inlet",
        _ => return format!("entity {id:#04x}.{}", instance & 0x7f),
    };
    // 60h to 7Fh are device-relative and start again (39.1).
    match instance & 0x7f {
        0 => name.to_owned(),
        n @ 0x60.. => format!("{name} {}", n - 0x60),
        n => format!("{name} {n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of table 42-3 that health rules build on.
    #[test]
    fn states_that_rules_build_on_have_their_words_and_weight() {
        for (sensor_type, offset, word, weight) in [
            (0x08, 0, "Presence detected", LogSeverity::Info),
            (0x08, 1, "Power Supply Failure detected", LogSeverity::Critical),
            (0x08, 3, "Power Supply input lost (AC/DC)", LogSeverity::Critical),
            (0x0c, 1, "Uncorrectable ECC / other uncorrectable memory error", LogSeverity::Critical),
            (0x0c, 5, "Correctable ECC / other correctable memory error logging limit reached", LogSeverity::Warning),
            (0x0d, 1, "Drive Fault", LogSeverity::Critical),
            (0x07, 0, "IERR", LogSeverity::Critical),
            (0x10, 4, "SEL Full", LogSeverity::Warning),
            (0x13, 5, "PCI SERR", LogSeverity::Critical),
            (0x21, 0, "Fault status", LogSeverity::Critical),
            (0x23, 1, "Hard Reset", LogSeverity::Warning),
        ] {
            assert_eq!(
                (words(SENSOR_SPECIFIC, sensor_type, offset).as_str(), severity(SENSOR_SPECIFIC, sensor_type, offset)),
                (word, weight)
            );
        }
        assert_eq!(words(0x0b, 0x09, 1), "Redundancy Lost");
        assert_eq!(words(0x72, 0xc1, 3), "state 3 of event type 0x72");
    }

    #[test]
    fn only_the_directions_that_cross_a_limit_weigh() {
        let weights: Vec<_> = (0..12).map(|offset| severity(THRESHOLD, TEMPERATURE, offset)).collect();
        use LogSeverity::{Critical as C, Info as I, Warning as W};
        assert_eq!(weights, [W, I, C, I, C, I, I, W, I, C, I, C]);
    }

    #[test]
    fn every_code_has_words_and_none_panics() {
        for event_type in 0..=255u8 {
            for sensor_type in 0..=255u8 {
                for offset in [0, 7, 15, 255] {
                    assert!(!words(event_type, sensor_type, offset).is_empty());
                    assert!(severity(event_type, sensor_type, offset) >= LogSeverity::Info);
                }
            }
        }
        assert_eq!((entity(3, 1), entity(7, 0), entity(10, 0x62)), ("processor 1".into(), "system board".into(), "power supply 2".into()));
        assert_eq!(entity(0xd0, 0x81), "entity 0xd0.1");
    }
}
