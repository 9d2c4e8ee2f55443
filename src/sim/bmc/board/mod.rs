//! What a simulated BMC knows of its machine: parts, sensors, logs, firmware, settings. No protocol: the fronts tell it.
//!
//! Nothing here runs by itself. [`Board::settle`] brings everything up to a moment; the fronts call it before they answer.

pub mod dialect;
pub mod firmware;
pub mod journal;
pub mod parts;
pub mod sensors;
pub mod settings;
mod trouble;
mod updates;

use std::time::Duration;

use crate::domain::hardware_log::{IpmiEvent, LogDirection, LogSeverity};
use crate::domain::inventory::Inventory;
use crate::domain::part::PartKind;
use crate::domain::power::{FirmwareKind, PowerState};
use crate::domain::sensor::Health;
use crate::domain::time::Timestamp;
use crate::sim::bmc::ChassisIdentity;
use crate::sim::bmc::board::dialect::{Dialect, Home};
use crate::sim::bmc::board::firmware::{Component, Update};
use crate::sim::bmc::board::journal::{Journal, Record, WhenFull};
use crate::sim::bmc::board::parts::BoardPart;
use crate::sim::bmc::board::sensors::{BoardSensor, Level};
use crate::sim::bmc::board::settings::Settings;
use crate::sim::pace::Pace;

/// Entries a SEL of 16 KiB holds.
const SEL_CAPACITY: usize = 512;
const BMC_LOG_CAPACITY: usize = 1000;

/// What the BMC sees of the machine at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    pub power: PowerState,
    /// Redfish `BootProgress.LastState`.
    pub progress: &'static str,
    /// Times that the machine began to boot.
    pub boots: u64,
}

impl Host {
    pub fn is_on(&self) -> bool {
        self.power != PowerState::Off
    }
}

/// Something that subscribers are told.
#[derive(Clone, Debug)]
pub struct Happening {
    pub log: (Home, &'static str),
    pub record: Record,
}

/// What the fronts must do because of what happened on the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The BMC is away for so long (real time).
    Restart(Duration),
    /// The BIOS is another one now.
    BiosVersion(String),
}

#[derive(Clone, Debug)]
pub struct Media {
    pub id: &'static str,
    pub kinds: &'static [&'static str],
    pub image: Option<String>,
    pub write_protected: bool,
}

#[derive(Clone, Debug)]
pub struct BootOption {
    pub reference: &'static str,
    pub name: String,
    pub path: String,
    pub alias: &'static str,
}

pub struct Board {
    pub seed: u64,
    pub dialect: Dialect,
    pub model: String,
    pub pace: Pace,
    pub parts: Vec<BoardPart>,
    pub sensors: Vec<BoardSensor>,
    /// The SEL.
    pub host_log: Journal,
    pub bmc_log: Journal,
    pub components: Vec<Component>,
    pub updates: Vec<Update>,
    pub settings: Settings,
    pub media: Vec<Media>,
    /// The locator LED.
    pub led: bool,
    pub asset_tag: Option<String>,
    pub boot_options: Vec<BootOption>,
    pub boot_order: Vec<&'static str>,
    pub ntp_servers: Vec<String>,
    /// Microseconds by which the BMC's clock is ahead of the real one.
    pub clock_offset: i64,
    /// When the BMC itself started last.
    pub started_at: Timestamp,
    /// The next update breaks off in the middle.
    pub next_update_fails: bool,
    pub memory_bytes: u64,
    last_update: u32,
    swaps: u64,
    seen: Option<Host>,
    happenings: Vec<Happening>,
    effects: Vec<Effect>,
}

impl Board {
    /// The board of this machine; the same identity and seed give the same board.
    pub fn new(identity: &ChassisIdentity, inventory: &Inventory, seed: u64, pace: Pace, now: Timestamp) -> Self {
        let dialect = Dialect::of(&identity.manufacturer);
        let parts = parts::draw(inventory, seed);
        let is_uefi = inventory.firmware.kind != Some(FirmwareKind::Bios);
        let mac = inventory.nics.first().map(|n| n.mac.to_string().replace(':', "").to_uppercase()).unwrap_or_default();
        let options = [
            (
                "Boot0000",
                "PXE Device 1: NIC in OCP slot 1, port 1",
                format!("PciRoot(0x0)/Pci(0x1C,0x0)/Pci(0x0,0x0)/MAC({mac},0x1)/IPv4()"),
                "Pxe",
            ),
            ("Boot0001", "Disk: first drive", "PciRoot(0x0)/Pci(0x17,0x0)/Sata(0x0,0xFFFF,0x0)/HD(1,GPT)".into(), "Hdd"),
            (
                "Boot0002",
                "HTTP Device 1: NIC in OCP slot 1, port 1",
                format!("PciRoot(0x0)/Pci(0x1C,0x0)/Pci(0x0,0x0)/MAC({mac},0x1)/Uri()"),
                "UefiHttp",
            ),
            ("Boot0003", "Virtual optical drive", "PciRoot(0x0)/Pci(0x14,0x0)/USB(0xD,0x0)/CDROM(0x0)".into(), "Cd"),
        ];
        let mut board = Self {
            seed,
            model: identity.model.clone(),
            pace,
            sensors: sensors::draw(&parts, seed),
            components: firmware::draw(&parts, &identity.bios_version, &identity.bmc_firmware),
            parts,
            host_log: Journal::new(SEL_CAPACITY, WhenFull::Stop),
            bmc_log: Journal::new(BMC_LOG_CAPACITY, WhenFull::Wrap),
            updates: Vec::new(),
            settings: Settings::new(is_uefi, &identity.serial),
            media: vec![
                Media { id: "CD1", kinds: &["CD", "DVD"], image: None, write_protected: true },
                Media { id: "USB1", kinds: &["USBStick", "Floppy"], image: None, write_protected: true },
            ],
            led: false,
            asset_tag: identity.asset_tag.clone(),
            boot_order: options.iter().map(|o| o.0).collect(),
            boot_options: options
                .into_iter()
                .map(|(reference, name, path, alias)| BootOption { reference, name: name.to_owned(), path, alias })
                .collect(),
            ntp_servers: Vec::new(),
            clock_offset: 0,
            started_at: now.minus(Duration::from_secs(86_400 + seed % 4_000_000)),
            next_update_fails: false,
            memory_bytes: inventory.memory_bytes,
            last_update: 0,
            swaps: 0,
            dialect,
            seen: None,
            happenings: Vec::new(),
            effects: Vec::new(),
        };
        let started = board.started_at;
        let text = "Event logging was cleared.".to_owned();
        board.note_host(
            started,
            LogSeverity::Info,
            LogDirection::Asserted,
            text,
            ("Base.1.17.Success", Vec::new()),
            Some((0x10, 0xfe, 0x6f, 0x02)),
            None,
        );
        let text = "The management controller started.".to_owned();
        board.note_bmc(started, LogSeverity::Info, text, ("Base.1.17.Success", Vec::new()));
        board.happenings.clear();
        board
    }

    /// What the BMC's clock shows.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_add(self.clock_offset))
    }

    pub fn set_clock(&mut self, now: Timestamp, shown: Timestamp) {
        self.clock_offset = shown.0.saturating_sub(now.0);
    }

    pub fn part(&self, id: &str) -> Option<&BoardPart> {
        self.parts.iter().find(|p| p.id == id)
    }

    pub fn of_kind(&self, kind: PartKind) -> impl Iterator<Item = &BoardPart> {
        self.parts.iter().filter(move |p| p.kind == kind)
    }

    pub fn reading(&self, sensor: &BoardSensor, now: Timestamp, host: &Host) -> Option<f64> {
        sensor.reading(self.seed, now, host.is_on(), &self.parts)
    }

    /// Worst health of what is there.
    pub fn rollup(&self) -> &'static str {
        let parts = self.parts.iter().filter_map(BoardPart::health);
        let sensors = self.sensors.iter().map(|s| match s.level.health() {
            Health::Ok => "OK",
            Health::Warning => "Warning",
            Health::Critical => "Critical",
        });
        let all: Vec<&str> = parts.chain(sensors).collect();
        ["Critical", "Warning"].into_iter().find(|w| all.contains(w)).unwrap_or("OK")
    }

    /// Brings everything up to `now`: thresholds that were crossed are logged, updates move on, what waited for a boot is done.
    pub fn settle(&mut self, now: Timestamp, host: Host) {
        let before = self.seen.replace(host);
        if before.is_some_and(|b| b.boots < host.boots) {
            let changed = self.settings.boot();
            if !changed.is_empty() {
                let text = format!("BIOS settings were changed: {}.", changed.join(", "));
                self.note_bmc(now, LogSeverity::Info, text, ("Base.1.17.Success", Vec::new()));
            }
        }
        if let Some(before) = before
            && before.is_on() != host.is_on()
        {
            let text = if host.is_on() { "The system was powered on." } else { "The system was powered off." };
            self.note_bmc(now, LogSeverity::Info, text.to_owned(), ("ResourceEvent.1.3.ResourceChanged", Vec::new()));
        }
        self.settle_updates(now, &host);
        self.settle_sensors(now, &host);
    }

    /// Whether something goes on that must be looked at again soon.
    pub fn is_restless(&self, now: Timestamp) -> bool {
        let drifting = |s: &BoardSensor| s.drift.is_some_and(|d| d.is_under_way(now));
        self.updates.iter().any(|u| !u.stage.is_over()) || self.sensors.iter().any(drifting)
    }

    pub fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn settle_sensors(&mut self, now: Timestamp, host: &Host) {
        for n in 0..self.sensors.len() {
            let Some(sensor) = self.sensors.get(n) else { continue };
            let (before, reading) = (sensor.level, self.reading(sensor, now, host));
            // A sensor without a value is not judged: silence is not health, and not the end of what was asserted either.
            let Some(reading) = reading else { continue };
            let after = sensor.judge(reading);
            if after == before {
                continue;
            }
            // Every threshold between the two is one entry, as a BMC that scans often writes it.
            for (level, direction) in crossings(before, after) {
                self.note_crossing(now, n, level, direction, reading);
            }
            if let Some(sensor) = self.sensors.get_mut(n) {
                sensor.level = after;
            }
        }
    }

    fn note_crossing(&mut self, now: Timestamp, n: usize, level: Level, direction: LogDirection, reading: f64) {
        let Some(sensor) = self.sensors.get(n) else { return };
        let limit = sensor.limit(level).unwrap_or_default();
        let asserted = direction == LogDirection::Asserted;
        let side = match (level.is_low(), asserted) {
            (true, true) | (false, false) => "Below",
            (true, false) | (false, true) => "Above",
        };
        let message = format!(
            "Sensor {} reading of {reading} is {} the {} threshold of {limit}.",
            sensor.name,
            side.to_lowercase(),
            spaced(level.word()),
        );
        let severity = match (asserted, level.health()) {
            (false, _) | (true, Health::Ok) => LogSeverity::Info,
            (true, Health::Warning) => LogSeverity::Warning,
            (true, Health::Critical) => LogSeverity::Critical,
        };
        let id = format!("SensorEvent.1.0.Reading{side}{}Threshold", level.word());
        let args = vec![sensor.name.clone(), reading.to_string(), limit.to_string()];
        let byte = |v: f64| (v / (sensor.range.1 / 255.0).max(1.0)).clamp(0.0, 255.0) as u8;
        let ipmi = IpmiEvent {
            sensor_type: sensor.ipmi_type(),
            sensor_number: sensor.number,
            event_type: 0x01,
            offset: level.offset(),
            data2: byte(reading),
            data3: byte(limit),
        };
        let origin = if self.dialect.is_modern() {
            format!("{}/Sensors/{}", self.dialect.chassis_path(), sensor.id)
        } else {
            self.dialect.chassis_path()
        };
        self.add(
            self.dialect.host_log,
            Record {
                id: 0,
                at: self.clock(now),
                severity,
                direction,
                message,
                message_id: id,
                message_args: args,
                ipmi: Some(ipmi),
                origin: Some(origin),
            },
        );
    }

    /// An entry in the SEL. `ipmi` is sensor type, sensor number, event type and offset.
    #[expect(clippy::too_many_arguments, reason = "an entry has as many fields, and each caller gives all of them")]
    fn note_host(
        &mut self,
        now: Timestamp,
        severity: LogSeverity,
        direction: LogDirection,
        message: String,
        (id, args): (&str, Vec<String>),
        ipmi: Option<(u8, u8, u8, u8)>,
        origin: Option<String>,
    ) {
        let event = |(sensor_type, sensor_number, event_type, offset)| IpmiEvent {
            sensor_type,
            sensor_number,
            event_type,
            offset,
            data2: 0xff,
            data3: 0xff,
        };
        self.add(
            self.dialect.host_log,
            Record {
                id: 0,
                at: self.clock(now),
                severity,
                direction,
                message,
                message_id: id.to_owned(),
                message_args: args,
                ipmi: ipmi.map(event),
                origin,
            },
        );
    }

    /// An entry in the BMC's own log.
    pub fn note_bmc(&mut self, now: Timestamp, severity: LogSeverity, message: String, (id, args): (&str, Vec<String>)) {
        self.add(
            self.dialect.bmc_log,
            Record {
                id: 0,
                at: self.clock(now),
                severity,
                direction: LogDirection::Said,
                message,
                message_id: id.to_owned(),
                message_args: args,
                ipmi: None,
                origin: None,
            },
        );
    }

    fn add(&mut self, log: (Home, &'static str), record: Record) {
        let journal = if log == self.dialect.host_log { &mut self.host_log } else { &mut self.bmc_log };
        if let Some(record) = journal.add(record) {
            self.happenings.push(Happening { log, record: record.clone() });
        }
    }
}

/// The thresholds passed on the way from one level to another, in order.
fn crossings(from: Level, to: Level) -> Vec<(Level, LogDirection)> {
    const ALL: [Level; 7] = [
        Level::LowerFatal,
        Level::LowerCritical,
        Level::LowerCaution,
        Level::Normal,
        Level::UpperCaution,
        Level::UpperCritical,
        Level::UpperFatal,
    ];
    let mut out: Vec<(Level, LogDirection)> = Vec::new();
    if to > from {
        for level in ALL.into_iter().filter(|l| *l >= from && *l <= to) {
            match (level.is_low(), level) {
                (true, level) if level < to => out.push((level, LogDirection::Deasserted)),
                (false, level) if level > from && level != Level::Normal => out.push((level, LogDirection::Asserted)),
                (true | false, _) => {}
            }
        }
    } else {
        for level in ALL.into_iter().rev().filter(|l| *l <= from && *l >= to) {
            match (level.is_low(), level) {
                (true, level) if level < from => out.push((level, LogDirection::Asserted)),
                (false, level) if level > to && level != Level::Normal => out.push((level, LogDirection::Deasserted)),
                (true | false, _) => {}
            }
        }
    }
    out
}

/// `UpperCritical` as `upper critical`.
fn spaced(word: &str) -> String {
    let mut out = String::new();
    for c in word.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use LogDirection::{Asserted, Deasserted};

    #[test]
    fn every_threshold_between_two_levels_is_one_entry() {
        assert_eq!(crossings(Level::Normal, Level::UpperCritical), [(Level::UpperCaution, Asserted), (Level::UpperCritical, Asserted)]);
        assert_eq!(crossings(Level::UpperCritical, Level::Normal), [(Level::UpperCritical, Deasserted), (Level::UpperCaution, Deasserted)]);
        assert_eq!(crossings(Level::UpperCritical, Level::UpperCaution), [(Level::UpperCritical, Deasserted)]);
        assert_eq!(crossings(Level::Normal, Level::LowerCritical), [(Level::LowerCaution, Asserted), (Level::LowerCritical, Asserted)]);
        assert_eq!(
            crossings(Level::LowerCritical, Level::UpperCaution),
            [(Level::LowerCritical, Deasserted), (Level::LowerCaution, Deasserted), (Level::UpperCaution, Asserted)]
        );
        assert_eq!(crossings(Level::UpperCaution, Level::UpperCaution), []);
    }
}
