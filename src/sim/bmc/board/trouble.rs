//! What can happen to the hardware, and what a BMC writes about it.

use std::time::Duration;

use crate::domain::hardware_log::{LogDirection, LogSeverity};
use crate::domain::part::PartKind;
use crate::domain::time::Timestamp;
use crate::sim::bmc::board::parts::{self, BoardPart, Condition};
use crate::sim::bmc::board::sensors::Drift;
use crate::sim::bmc::board::{Board, Host};

/// Correctable errors of one DIMM after which a BMC stops logging each (IPMI 0Ch offset 05).
const CORRECTABLE_LIMIT: u64 = 10;

/// IPMI sensor type (table 42-3) with the offsets for presence, failure and predicted failure.
fn ipmi_words(kind: PartKind) -> (u8, u8, u8, u8) {
    const WORDS: [(PartKind, (u8, u8, u8, u8)); 5] = [
        (PartKind::PowerSupply, (0x08, 0x00, 0x01, 0x02)),
        (PartKind::Drive, (0x0d, 0x00, 0x01, 0x02)),
        (PartKind::Dimm, (0x0c, 0x06, 0x04, 0x05)),
        (PartKind::Cpu, (0x07, 0x07, 0x00, 0x0c)),
        (PartKind::Battery, (0x29, 0x02, 0x01, 0x00)),
    ];
    // Management subsystem health: FRU failure.
    const OTHERS: (u8, u8, u8, u8) = (0x28, 0x00, 0x05, 0x01);
    WORDS.iter().find(|(of, _)| *of == kind).map_or(OTHERS, |(_, words)| *words)
}

impl Board {
    /// A part breaks, begins to, is taken out, or is put right. `Err` when there is no part of that id.
    pub fn set_condition(&mut self, id: &str, condition: Condition, now: Timestamp) -> Result<(), String> {
        let number = self.sensor_of(id);
        let part = self.part_mut(id)?;
        let (before, name, kind) = (part.condition, part.name.clone(), part.kind);
        if before == condition {
            return Ok(());
        }
        part.condition = condition;
        part.facts.failure_predicted = part.facts.failure_predicted.map(|_| condition == Condition::Failing);
        if kind == PartKind::PowerSupply {
            part.facts.line_input = Some(if condition == Condition::Removed { "LossOfInput".into() } else { "Normal".into() });
        }
        if kind == PartKind::NetworkPort {
            part.facts.link = Some(if condition == Condition::Working { "LinkUp".into() } else { "LinkDown".into() });
        }
        let origin = self.part(id).map(|p| self.path_of(p));
        let (sensor_type, presence, failure, predicted) = ipmi_words(kind);
        let event = |offset| Some((sensor_type, number, 0x6f, offset));
        // The end of what was wrong, then what is wrong now.
        match before {
            Condition::Failed | Condition::Failing => {
                let offset = if before == Condition::Failed { failure } else { predicted };
                let text = format!("{name}: the failure is no longer present.");
                let id = ("ResourceEvent.1.3.ResourceErrorsCorrected", vec![name.clone(), "Failure".into()]);
                self.note_host(now, LogSeverity::Info, LogDirection::Deasserted, text, id, event(offset), origin.clone());
            }
            Condition::Removed => {
                let text = format!("{name} was inserted.");
                let id = ("ResourceEvent.1.3.ResourceCreated", vec![name.clone()]);
                self.note_host(now, LogSeverity::Info, LogDirection::Asserted, text, id, event(presence), origin.clone());
            }
            Condition::Working => {}
        }
        let (severity, direction, text, message, offset) = match condition {
            Condition::Working => return Ok(()),
            Condition::Failing => (
                LogSeverity::Warning,
                LogDirection::Asserted,
                format!("{name}: a failure is predicted."),
                "ResourceStatusChangedWarning",
                predicted,
            ),
            Condition::Failed => {
                (LogSeverity::Critical, LogDirection::Asserted, format!("{name} failed."), "ResourceStatusChangedCritical", failure)
            }
            Condition::Removed => {
                (LogSeverity::Warning, LogDirection::Deasserted, format!("{name} was removed."), "ResourceRemoved", presence)
            }
        };
        let id = format!("ResourceEvent.1.3.{message}");
        self.note_host(now, severity, direction, text, (&id, vec![name]), event(offset), origin);
        Ok(())
    }

    /// Another part of the same kind in its place: new serial, no history.
    pub fn swap(&mut self, id: &str, now: Timestamp) -> Result<(), String> {
        self.set_condition(id, Condition::Removed, now)?;
        self.swaps += 1;
        let serial = parts::fresh_serial(self.seed, self.swaps);
        let part = self.part_mut(id)?;
        part.serial = serial;
        part.facts.correctable_errors = part.facts.correctable_errors.map(|_| 0);
        part.facts.uncorrectable_errors = part.facts.uncorrectable_errors.map(|_| 0);
        part.facts.life_left_percent = part.facts.life_left_percent.map(|_| 100.0);
        self.set_condition(id, Condition::Working, now)
    }

    /// ECC errors of one DIMM, counted and logged as a BMC does: each correctable one up to a limit, then once that there are
    /// too many; an uncorrectable one fails the DIMM.
    pub fn memory_errors(&mut self, id: &str, correctable: u64, uncorrectable: u64, now: Timestamp) -> Result<(), String> {
        let number = self.sensor_of(id);
        let part = self.part_mut(id)?;
        if part.kind != PartKind::Dimm {
            return Err(format!("{id} is no DIMM"));
        }
        let before = part.facts.correctable_errors.unwrap_or(0);
        part.facts.correctable_errors = Some(before.saturating_add(correctable));
        part.facts.uncorrectable_errors = part.facts.uncorrectable_errors.map(|n| n.saturating_add(uncorrectable));
        let (name, origin) = (part.name.clone(), self.part(id).map(|p| self.path_of(p)));
        for n in before..before.saturating_add(correctable).min(CORRECTABLE_LIMIT) {
            let (text, offset, severity, message) = if n + 1 == CORRECTABLE_LIMIT {
                (
                    format!("{name}: the limit of correctable ECC errors is reached."),
                    0x05,
                    LogSeverity::Warning,
                    "ResourceErrorThresholdExceeded",
                )
            } else {
                (format!("{name}: correctable ECC error."), 0x00, LogSeverity::Info, "ResourceErrorsDetected")
            };
            let message = format!("ResourceEvent.1.3.{message}");
            let id = (message.as_str(), vec![name.clone(), "Correctable ECC".into()]);
            self.note_host(now, severity, LogDirection::Asserted, text, id, Some((0x0c, number, 0x6f, offset)), origin.clone());
        }
        if before < CORRECTABLE_LIMIT && before + correctable >= CORRECTABLE_LIMIT {
            self.set_condition(id, Condition::Failing, now)?;
        }
        if uncorrectable > 0 {
            let text = format!("{name}: uncorrectable ECC error.");
            let message = ("ResourceEvent.1.3.ResourceErrorsDetected", vec![name, "Uncorrectable ECC".into()]);
            self.note_host(now, LogSeverity::Critical, LogDirection::Asserted, text, message, Some((0x0c, number, 0x6f, 0x01)), origin);
            self.set_condition(id, Condition::Failed, now)?;
        }
        Ok(())
    }

    /// Lets a sensor leave its band: it reaches `to` after `over`. `None` lets it go home at once.
    pub fn drift(&mut self, sensor: &str, to: Option<f64>, over: Duration, now: Timestamp, host: &Host) -> Result<(), String> {
        let found = self.sensors.iter().find(|s| s.id == sensor || s.name == sensor);
        let Some(found) = found else { return Err(format!("there is no sensor {sensor}")) };
        let number = found.number;
        let from = self.reading(found, now, host).unwrap_or(found.base);
        if let Some(sensor) = self.sensors.iter_mut().find(|s| s.number == number) {
            sensor.drift = to.map(|to| Drift { from, to, since: now, over });
        }
        Ok(())
    }

    /// The mains are gone: machine and BMC stop where they are.
    pub fn lose_power(&mut self, now: Timestamp) {
        self.tear_updates(now);
        self.note_host(
            now,
            LogSeverity::Critical,
            LogDirection::Asserted,
            "Power unit: AC lost.".into(),
            ("ResourceEvent.1.3.ResourceStatusChangedCritical", vec!["Power unit".into()]),
            Some((0x09, 0xf0, 0x6f, 0x04)),
            None,
        );
    }

    /// The BMC runs again.
    pub fn started(&mut self, now: Timestamp) {
        self.started_at = now;
        self.note_bmc(now, LogSeverity::Info, "The management controller started.".into(), ("Base.1.17.Success", Vec::new()));
    }

    /// Fills the SEL to the last entry, as years do.
    pub fn fill_log(&mut self, now: Timestamp) {
        while self.host_log.len() + 1 < self.host_log.capacity {
            self.note_host(
                now,
                LogSeverity::Info,
                LogDirection::Asserted,
                "Session audit: a user logged in at the console.".into(),
                ("Base.1.17.Success", Vec::new()),
                Some((0x2a, 0xf1, 0x6f, 0x01)),
                None,
            );
        }
        let full = "Event logging: the log is full.".into();
        self.note_host(
            now,
            LogSeverity::Warning,
            LogDirection::Asserted,
            full,
            ("Base.1.17.Success", Vec::new()),
            Some((0x10, 0xfe, 0x6f, 0x04)),
            None,
        );
        // What a full log tells nobody, subscribers are not told either.
        self.happenings.clear();
    }

    /// Clears the SEL; its first entry says so.
    pub fn clear_host_log(&mut self, now: Timestamp) {
        let at = self.clock(now);
        self.host_log.clear(at);
        let text = "Event logging was cleared.".to_owned();
        self.note_host(
            now,
            LogSeverity::Info,
            LogDirection::Asserted,
            text,
            ("Base.1.17.Success", Vec::new()),
            Some((0x10, 0xfe, 0x6f, 0x02)),
            None,
        );
    }

    pub fn clear_bmc_log(&mut self, now: Timestamp) {
        let at = self.clock(now);
        self.bmc_log.clear(at);
        self.note_bmc(now, LogSeverity::Info, "The log was cleared.".into(), ("Base.1.17.Success", Vec::new()));
    }

    /// URI of a part.
    pub fn path_of(&self, part: &BoardPart) -> String {
        let (system, chassis, modern) = (self.dialect.system_path(), self.dialect.chassis_path(), self.dialect.is_modern());
        let within = part.within.as_deref().unwrap_or_default();
        let place = || self.of_kind(part.kind).filter(|p| p.within == part.within).position(|p| p.id == part.id).unwrap_or(0);
        let id = &part.id;
        let paths = [
            (PartKind::Cpu, format!("{system}/Processors/{id}"), format!("{system}/Processors/{id}")),
            (PartKind::Dimm, format!("{system}/Memory/{id}"), format!("{system}/Memory/{id}")),
            (PartKind::Drive, format!("{system}/Storage/{within}/Drives/{id}"), format!("{system}/Storage/{within}/Drives/{id}")),
            (
                PartKind::PowerSupply,
                format!("{chassis}/PowerSubsystem/PowerSupplies/{id}"),
                format!("{chassis}/Power#/PowerSupplies/{}", place()),
            ),
            (PartKind::Fan, format!("{chassis}/ThermalSubsystem/Fans/{id}"), format!("{chassis}/Thermal#/Fans/{}", place())),
            (
                PartKind::StorageController,
                format!("{system}/Storage/{within}/Controllers/{id}"),
                format!("{system}/Storage/{within}#/StorageControllers/{}", place()),
            ),
            (PartKind::NetworkAdapter, format!("{chassis}/NetworkAdapters/{id}"), chassis.clone()),
            (PartKind::NetworkPort, format!("{chassis}/NetworkAdapters/{within}/Ports/{id}"), format!("{system}/EthernetInterfaces/{id}")),
        ];
        let found = paths.into_iter().find(|(kind, ..)| *kind == part.kind);
        found.map_or(chassis, |(_, new, old)| if modern { new } else { old })
    }

    fn part_mut(&mut self, id: &str) -> Result<&mut BoardPart, String> {
        self.parts.iter_mut().find(|p| p.id == id || p.name == id || p.place == id).ok_or_else(|| format!("there is no part {id}"))
    }

    /// Number of the sensor that speaks for a part in the SEL: those of parts without one begin at 80h.
    fn sensor_of(&self, id: &str) -> u8 {
        let own = self.parts.iter().position(|p| p.id == id).unwrap_or(0);
        0x80 | (u8::try_from(own).unwrap_or(0x7f) & 0x7f)
    }
}
