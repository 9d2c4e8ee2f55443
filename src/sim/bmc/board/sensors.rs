//! Sensors of a simulated machine: what they measure, how they move over time, and when they cross a threshold.
//!
//! A reading is a pure function of seed, sensor and time, so that two looks at the same moment agree and a run can be
//! repeated. Only a drift that somebody ordered leaves the band between the caution thresholds.

use std::time::Duration;

use crate::domain::part::PartKind;
use crate::domain::sensor::{Health, SensorKind, Thresholds};
use crate::domain::time::Timestamp;
use crate::sim::bmc::board::parts::{BoardPart, Condition};

/// Where a reading stands to its thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    LowerFatal,
    LowerCritical,
    LowerCaution,
    Normal,
    UpperCaution,
    UpperCritical,
    UpperFatal,
}

impl Level {
    pub fn health(self) -> Health {
        match self {
            Self::Normal => Health::Ok,
            Self::LowerCaution | Self::UpperCaution => Health::Warning,
            Self::LowerFatal | Self::LowerCritical | Self::UpperCritical | Self::UpperFatal => Health::Critical,
        }
    }

    /// The word in SensorEvent message ids.
    pub fn word(self) -> &'static str {
        match self {
            Self::LowerFatal => "LowerFatal",
            Self::LowerCritical => "LowerCritical",
            Self::LowerCaution => "LowerCaution",
            Self::Normal => "Normal",
            Self::UpperCaution => "UpperCaution",
            Self::UpperCritical => "UpperCritical",
            Self::UpperFatal => "UpperFatal",
        }
    }

    /// Event offset of the threshold class (IPMI v2.0, table 42-2): even going low, odd going high.
    pub fn offset(self) -> u8 {
        match self {
            Self::LowerCaution => 0x00,
            Self::LowerCritical => 0x02,
            Self::LowerFatal => 0x04,
            Self::Normal => 0x07,
            Self::UpperCaution => 0x07,
            Self::UpperCritical => 0x09,
            Self::UpperFatal => 0x0b,
        }
    }

    pub fn is_low(self) -> bool {
        self < Self::Normal
    }
}

/// When a sensor has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lives {
    Always,
    /// Only while the machine is on.
    WithPower,
}

/// A reading that leaves its band: from where it is to `to`, in a straight line, and stays there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    pub from: f64,
    pub to: f64,
    pub since: Timestamp,
    pub over: Duration,
}

#[derive(Clone, Debug)]
pub struct BoardSensor {
    /// As in IPMI.
    pub number: u8,
    /// Last segment of its URI.
    pub id: String,
    pub name: String,
    pub kind: SensorKind,
    /// Redfish `PhysicalContext`.
    pub context: &'static str,
    pub base: f64,
    /// Half of the way between its lowest and highest reading.
    pub swing: f64,
    pub period: Duration,
    /// Smallest step.
    pub quantum: f64,
    pub thresholds: Thresholds,
    pub range: (f64, f64),
    pub hysteresis: f64,
    pub lives: Lives,
    /// Id of the part it sits in.
    pub part: Option<String>,
    pub drift: Option<Drift>,
    /// As it was judged last.
    pub level: Level,
}

impl BoardSensor {
    /// What it reads, `None` while it has no value.
    pub fn reading(&self, seed: u64, now: Timestamp, on: bool, parts: &[BoardPart]) -> Option<f64> {
        if self.lives == Lives::WithPower && !on {
            return None;
        }
        let part = self.part.as_ref().and_then(|id| parts.iter().find(|p| p.id == *id));
        match part.map(|p| (p.kind, p.condition)) {
            Some((_, Condition::Removed)) => return None,
            // A dead fan stands, a dead supply gives nothing.
            Some((PartKind::Fan | PartKind::PowerSupply, Condition::Failed)) => return Some(0.0),
            Some(_) | None => {}
        }
        let value = match self.drift {
            Some(drift) => drift.at(now),
            None => self.steady(seed, now),
        };
        let steps = (value.clamp(self.range.0, self.range.1) / self.quantum).round();
        Some((steps * self.quantum * 1000.0).round() / 1000.0)
    }

    fn steady(&self, seed: u64, now: Timestamp) -> f64 {
        let own = seed ^ u64::from(self.number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let phase = (own % 1000) as f64 / 1000.0;
        let turn = now.0 as f64 / 1e6 / self.period.as_secs_f64() + phase;
        // A slow wave and, every ten seconds, a little that looks like noise.
        let bucket = (now.0 / 10_000_000) as u64;
        let noise = (own.rotate_left(17) ^ bucket.wrapping_mul(0xbf58_476d_1ce4_e5b9)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40;
        let noise = noise as f64 / f64::from(1 << 24) - 0.5;
        self.base + self.swing * (0.7 * (turn * std::f64::consts::TAU).sin() + 0.6 * noise)
    }

    /// Where a reading stands, coming from `self.level`: a threshold that was crossed is left only beyond its hysteresis.
    pub fn judge(&self, reading: f64) -> Level {
        let t = &self.thresholds;
        let slack = |level: Level| {
            let inside = if level.is_low() { self.level <= level } else { self.level >= level };
            if inside { self.hysteresis } else { 0.0 }
        };
        let low = |limit: Option<f64>, level: Level| limit.is_some_and(|l| reading <= l + slack(level));
        let high = |limit: Option<f64>, level: Level| limit.is_some_and(|l| reading >= l - slack(level));
        if low(t.lower_fatal, Level::LowerFatal) {
            Level::LowerFatal
        } else if low(t.lower_critical, Level::LowerCritical) {
            Level::LowerCritical
        } else if low(t.lower_caution, Level::LowerCaution) {
            Level::LowerCaution
        } else if high(t.upper_fatal, Level::UpperFatal) {
            Level::UpperFatal
        } else if high(t.upper_critical, Level::UpperCritical) {
            Level::UpperCritical
        } else if high(t.upper_caution, Level::UpperCaution) {
            Level::UpperCaution
        } else {
            Level::Normal
        }
    }

    /// The limit of a level.
    pub fn limit(&self, level: Level) -> Option<f64> {
        let t = &self.thresholds;
        match level {
            Level::LowerFatal => t.lower_fatal,
            Level::LowerCritical => t.lower_critical,
            Level::LowerCaution => t.lower_caution,
            Level::Normal => None,
            Level::UpperCaution => t.upper_caution,
            Level::UpperCritical => t.upper_critical,
            Level::UpperFatal => t.upper_fatal,
        }
    }

    /// IPMI sensor type (table 42-3).
    pub fn ipmi_type(&self) -> u8 {
        match self.kind {
            SensorKind::Temperature => 0x01,
            SensorKind::Voltage => 0x02,
            SensorKind::Current => 0x03,
            SensorKind::Fan => 0x04,
            SensorKind::Power
            | SensorKind::Energy
            | SensorKind::Humidity
            | SensorKind::Flow
            | SensorKind::Pressure
            | SensorKind::Share
            | SensorKind::Discrete
            | SensorKind::Other => 0x0b,
        }
    }
}

impl Drift {
    fn at(&self, now: Timestamp) -> f64 {
        let over = self.over.as_secs_f64();
        let share = if over > 0.0 { (now.since(self.since).as_secs_f64() / over).min(1.0) } else { 1.0 };
        self.from + (self.to - self.from) * share
    }

    pub fn is_under_way(&self, now: Timestamp) -> bool {
        now.since(self.since) < self.over
    }
}

/// One line of the table below: what, where, base and swing, thresholds (low critical, low caution, high caution, high
/// critical), range.
struct Spec {
    kind: SensorKind,
    context: &'static str,
    base: f64,
    swing: f64,
    quantum: f64,
    limits: [Option<f64>; 4],
    range: (f64, f64),
    lives: Lives,
}

const INLET: Spec = Spec {
    kind: SensorKind::Temperature,
    context: "Intake",
    base: 23.0,
    swing: 1.5,
    quantum: 1.0,
    limits: [Some(-7.0), Some(3.0), Some(38.0), Some(42.0)],
    range: (-128.0, 127.0),
    lives: Lives::Always,
};
const EXHAUST: Spec = Spec { context: "Exhaust", base: 34.0, swing: 3.0, limits: [Some(3.0), Some(8.0), Some(70.0), Some(75.0)], ..INLET };
const CPU: Spec =
    Spec { context: "CPU", base: 52.0, swing: 8.0, limits: [None, Some(3.0), Some(90.0), Some(95.0)], lives: Lives::WithPower, ..INLET };
const DIMM: Spec = Spec { context: "Memory", base: 38.0, swing: 3.0, limits: [None, None, Some(83.0), Some(88.0)], ..CPU };
const DRIVE: Spec = Spec { context: "StorageDevice", base: 31.0, swing: 2.0, limits: [None, None, Some(65.0), Some(70.0)], ..CPU };
const CARD: Spec = Spec { context: "NetworkingDevice", base: 47.0, swing: 3.0, limits: [None, None, Some(95.0), Some(105.0)], ..CPU };
const BOARD: Spec = Spec { context: "SystemBoard", base: 41.0, swing: 2.0, limits: [None, Some(3.0), Some(80.0), Some(85.0)], ..INLET };
const FAN: Spec = Spec {
    kind: SensorKind::Fan,
    context: "Fan",
    base: 7200.0,
    swing: 300.0,
    quantum: 120.0,
    limits: [Some(600.0), Some(840.0), None, None],
    range: (0.0, 18_000.0),
    lives: Lives::WithPower,
};
const RAIL: Spec = Spec {
    kind: SensorKind::Voltage,
    context: "SystemBoard",
    base: 12.1,
    swing: 0.05,
    quantum: 0.01,
    limits: [Some(10.8), Some(11.2), Some(12.9), Some(13.2)],
    range: (0.0, 16.0),
    lives: Lives::WithPower,
};
const RAIL_5: Spec = Spec { base: 5.05, swing: 0.03, limits: [Some(4.5), Some(4.7), Some(5.4), Some(5.5)], range: (0.0, 8.0), ..RAIL };
const RAIL_3: Spec = Spec { base: 3.34, swing: 0.02, limits: [Some(2.97), Some(3.1), Some(3.55), Some(3.63)], range: (0.0, 5.0), ..RAIL };
const COIN: Spec =
    Spec { base: 3.05, swing: 0.01, limits: [Some(2.3), Some(2.6), None, None], range: (0.0, 5.0), lives: Lives::Always, ..RAIL };
const LINE: Spec = Spec {
    context: "PowerSupply",
    base: 230.0,
    swing: 2.0,
    quantum: 1.0,
    limits: [Some(180.0), Some(200.0), Some(255.0), Some(264.0)],
    range: (0.0, 300.0),
    lives: Lives::Always,
    ..RAIL
};
const WATTS: Spec = Spec {
    kind: SensorKind::Power,
    context: "PowerSupply",
    base: 118.0,
    swing: 20.0,
    quantum: 1.0,
    limits: [None, None, Some(760.0), Some(800.0)],
    range: (0.0, 1600.0),
    lives: Lives::WithPower,
};
const TOTAL: Spec = Spec { context: "Chassis", base: 241.0, swing: 40.0, limits: [None, None, Some(1400.0), Some(1520.0)], ..WATTS };

/// The sensors that a board with these parts has. Numbers are those of the IPMI sensor records.
pub fn draw(parts: &[BoardPart], seed: u64) -> Vec<BoardSensor> {
    let mut out: Vec<BoardSensor> = Vec::new();
    let mut add = |id: String, name: String, spec: &Spec, part: Option<&BoardPart>| {
        let Ok(number) = u8::try_from(out.len() + 1) else { return };
        // Machines of one model differ a little.
        let own = (seed.rotate_left(u32::from(number)) % 100) as f64 / 100.0 - 0.5;
        let [lower_critical, lower_caution, upper_caution, upper_critical] = spec.limits;
        out.push(BoardSensor {
            number,
            id,
            name,
            kind: spec.kind,
            context: spec.context,
            base: spec.base + own * spec.swing,
            swing: spec.swing,
            period: Duration::from_secs(600 + 60 * u64::from(number)),
            quantum: spec.quantum,
            thresholds: Thresholds { lower_critical, lower_caution, upper_caution, upper_critical, ..Thresholds::default() },
            range: spec.range,
            hysteresis: spec.quantum,
            lives: spec.lives,
            part: part.map(|p| p.id.clone()),
            drift: None,
            level: Level::Normal,
        });
    };
    add("InletTemp".into(), "Inlet Temp".into(), &INLET, None);
    add("ExhaustTemp".into(), "Exhaust Temp".into(), &EXHAUST, None);
    add("BoardTemp".into(), "System Board Temp".into(), &BOARD, None);
    add("TotalPower".into(), "System Power".into(), &TOTAL, None);
    add("P12V".into(), "+12V".into(), &RAIL, None);
    add("P5V".into(), "+5V".into(), &RAIL_5, None);
    add("P3V3".into(), "+3.3V".into(), &RAIL_3, None);
    for part in parts {
        let short = part.id.as_str();
        let one: [(PartKind, String, String, &Spec); 7] = [
            (PartKind::Cpu, format!("{short}Temp"), format!("{} Temp", part.place), &CPU),
            (PartKind::Dimm, format!("{short}Temp"), format!("DIMM {} Temp", part.place.trim_start_matches("DIMM ")), &DIMM),
            (PartKind::Fan, format!("{short}Speed"), format!("{} RPM", part.place), &FAN),
            (PartKind::Drive, format!("{short}.Temp"), format!("{} Temp", part.name), &DRIVE),
            (PartKind::NetworkAdapter, format!("{short}Temp"), format!("{} Temp", part.place), &CARD),
            (PartKind::PowerSupply, format!("{short}InputVoltage"), format!("{} Input Voltage", part.place), &LINE),
            (PartKind::PowerSupply, format!("{short}InputPower"), format!("{} Input Power", part.place), &WATTS),
        ];
        for (_, id, name, spec) in one.into_iter().filter(|(kind, ..)| *kind == part.kind) {
            add(id, name, spec, Some(part));
        }
        if part.kind == PartKind::Battery {
            add(format!("{short}Voltage"), "CMOS Battery".into(), &COIN, Some(part));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::bmc::board::parts;
    use crate::sim::hardware::Hardware;

    const NOON: Timestamp = Timestamp(1_790_000_000_000_000);

    #[test]
    fn a_sensor_moves_a_little_and_never_out_of_its_band_by_itself() {
        for number in 1..9 {
            let parts = parts::draw(&Hardware::draw(5, number).inventory, 5);
            for sensor in draw(&parts, 5) {
                let readings: Vec<f64> = (0..2000)
                    .map(|n| sensor.reading(5, NOON.plus(Duration::from_secs(n * 30)), true, &parts).expect("the machine is on"))
                    .collect();
                assert!(readings.iter().all(|r| sensor.judge(*r) == Level::Normal), "{} {readings:?}", sensor.name);
                assert!(readings.iter().any(|r| *r != readings[0]), "{} stands still", sensor.name);
                assert_eq!(sensor.reading(5, NOON, true, &parts), Some(readings[0]), "the same moment reads the same");
            }
        }
    }

    #[test]
    fn a_crossed_threshold_is_left_only_beyond_its_hysteresis() {
        let parts = parts::draw(&Hardware::draw(5, 1).inventory, 5);
        let mut inlet = draw(&parts, 5).into_iter().find(|s| s.id == "InletTemp").expect("an inlet sensor");
        assert_eq!((inlet.judge(37.0), inlet.judge(38.0), inlet.judge(42.0)), (Level::Normal, Level::UpperCaution, Level::UpperCritical));
        inlet.level = Level::UpperCaution;
        assert_eq!((inlet.judge(37.0), inlet.judge(36.0)), (Level::UpperCaution, Level::Normal));
        inlet.level = Level::UpperCritical;
        assert_eq!((inlet.judge(41.0), inlet.judge(40.0)), (Level::UpperCritical, Level::UpperCaution));
    }

    #[test]
    fn a_machine_that_is_off_has_no_processor_temperature() {
        let parts = parts::draw(&Hardware::draw(5, 1).inventory, 5);
        let sensors = draw(&parts, 5);
        let read = |id: &str| sensors.iter().find(|s| s.id == id).expect("there").reading(5, NOON, false, &parts);
        assert_eq!(read("CPU1Temp"), None);
        assert!(read("InletTemp").is_some());
    }
}
