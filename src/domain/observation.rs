//! One thing that was seen of one component of one machine, normalised before it is judged.
//!
//! Four rules hold for whoever makes observations: a value that is absent or unreadable is [`Quality::Unavailable`], never
//! a default; a value that cannot be true is [`Quality::Implausible`]; an event from before our first contact, or from
//! before the part was last repaired, is [`Quality::Historical`]; and a component is anchored to a serial number where it
//! has one, so that a replaced part starts clean.

use serde::{Deserialize, Serialize};

use crate::domain::hardware_log::LogDirection;
use crate::domain::id::{MachineId, Serial, Sha256};
use crate::domain::part::PartKind;
use crate::domain::power::text_form;
use crate::domain::sensor::{Health, SensorKind, Thresholds, Unit};
use crate::domain::time::Timestamp;

/// What kind of thing can be ill. A machine has at most one open case per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    PowerSupply,
    Fan,
    Temperature,
    Liquid,
    Voltage,
    Battery,
    Memory,
    Cpu,
    Pcie,
    Drive,
    Raid,
    Network,
    Gpu,
    Bmc,
    /// The BMC's event log itself: full, off, its clock wrong.
    Log,
    Watchdog,
    /// The case of the machine: intrusion.
    Chassis,
    /// Power caps and rack budgets.
    PowerBudget,
    Boot,
    Firmware,
    /// The running system: hangs and silence.
    System,
    /// What a person says of the machine.
    Report,
}
text_form!(Family {
    PowerSupply = "power_supply", Fan = "fan", Temperature = "temperature", Liquid = "liquid", Voltage = "voltage",
    Battery = "battery", Memory = "memory", Cpu = "cpu", Pcie = "pcie", Drive = "drive", Raid = "raid", Network = "network",
    Gpu = "gpu", Bmc = "bmc", Log = "log", Watchdog = "watchdog", Chassis = "chassis", PowerBudget = "power_budget",
    Boot = "boot", Firmware = "firmware", System = "system", Report = "report",
});

impl Family {
    pub const ALL: [Self; 22] = [
        Self::PowerSupply,
        Self::Fan,
        Self::Temperature,
        Self::Liquid,
        Self::Voltage,
        Self::Battery,
        Self::Memory,
        Self::Cpu,
        Self::Pcie,
        Self::Drive,
        Self::Raid,
        Self::Network,
        Self::Gpu,
        Self::Bmc,
        Self::Log,
        Self::Watchdog,
        Self::Chassis,
        Self::PowerBudget,
        Self::Boot,
        Self::Firmware,
        Self::System,
        Self::Report,
    ];

    /// Whether installing the system again can mend it: only what software can break. Everything else is hardware, or is not
    /// known not to be.
    pub fn reimage_may_help(self) -> bool {
        match self {
            Self::Boot | Self::System => true,
            Self::PowerSupply
            | Self::Fan
            | Self::Temperature
            | Self::Liquid
            | Self::Voltage
            | Self::Battery
            | Self::Memory
            | Self::Cpu
            | Self::Pcie
            | Self::Drive
            | Self::Raid
            | Self::Network
            | Self::Gpu
            | Self::Bmc
            | Self::Log
            | Self::Watchdog
            | Self::Chassis
            | Self::PowerBudget
            | Self::Firmware
            | Self::Report => false,
        }
    }

    /// Power, cooling and liquid: a restart mends none of them, and its inrush or heat makes them worse.
    pub fn restart_may_help(self) -> bool {
        match self {
            Self::PowerSupply | Self::Fan | Self::Temperature | Self::Liquid | Self::PowerBudget | Self::Chassis | Self::Log => false,
            Self::Voltage
            | Self::Battery
            | Self::Memory
            | Self::Cpu
            | Self::Pcie
            | Self::Drive
            | Self::Raid
            | Self::Network
            | Self::Gpu
            | Self::Bmc
            | Self::Watchdog
            | Self::Boot
            | Self::Firmware
            | Self::System
            | Self::Report => true,
        }
    }
}

impl From<PartKind> for Family {
    fn from(kind: PartKind) -> Self {
        match kind {
            PartKind::PowerSupply => Self::PowerSupply,
            PartKind::Fan => Self::Fan,
            PartKind::Dimm => Self::Memory,
            PartKind::Cpu => Self::Cpu,
            PartKind::Gpu => Self::Gpu,
            PartKind::Drive => Self::Drive,
            PartKind::StorageController | PartKind::Volume => Self::Raid,
            PartKind::NetworkAdapter | PartKind::NetworkPort | PartKind::Transceiver => Self::Network,
            PartKind::PcieDevice => Self::Pcie,
            PartKind::Battery => Self::Battery,
            PartKind::LeakDetector => Self::Liquid,
            PartKind::Baseboard | PartKind::Chassis | PartKind::Other => Self::Chassis,
            PartKind::Bmc => Self::Bmc,
            // The roll-up repeats what a part says; a group is judged by its redundancy, which the supplies' rules read.
            PartKind::System => Self::Report,
            PartKind::Redundancy => Self::PowerSupply,
        }
    }
}

/// What tells one component from another of its family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// The machine as a whole.
    Machine,
    /// The part's own serial: a new part in the same slot is another component.
    Serial(Serial),
    /// Where it was read, for what has no serial (fans, sensors).
    Source(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Component {
    pub family: Family,
    pub anchor: Anchor,
    /// As a person calls it, for example `PROC 1 DIMM 3`. Untrusted, capped where it was read.
    pub name: String,
    /// Slot or bay, where known.
    #[serde(default)]
    pub place: Option<String>,
}

impl Component {
    pub fn whole_machine(family: Family) -> Self {
        Self { family, anchor: Anchor::Machine, name: family.to_string(), place: None }
    }

    /// Stable text key: family and anchor.
    pub fn key(&self) -> String {
        match &self.anchor {
            Anchor::Machine => format!("{}", self.family),
            Anchor::Serial(s) => format!("{}/sn:{s}", self.family),
            Anchor::Source(s) => format!("{}/at:{s}", self.family),
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        match &self.anchor {
            Anchor::Serial(s) => write!(f, " (serial {s})"),
            Anchor::Machine | Anchor::Source(_) => Ok(()),
        }
    }
}

/// What was looked at. Events carry their code instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// A sensor's number.
    Reading,
    /// The BMC's judgement of the part: `ok`, `warning`, `critical`.
    Health,
    /// `normal`, `lossofinput`, `outofrange` (Redfish `LineInputStatus`, lower case).
    LineInput,
    /// `yes`, `no`.
    FailurePredicted,
    /// Percent of a medium's life that is left.
    LifeLeft,
    /// `linkup`, `linkdown`, `nolink`…, lower case.
    Link,
    /// `present`, `absent`.
    Presence,
    /// `full`, `narrow`: lanes in use against lanes there are.
    Lanes,
    /// A named condition that the BMC asserts, for example `criticalwarning: mediainreadonly`, or `none`.
    Alarm,
    /// `full`, `degraded`, `lost`.
    Redundancy,
    /// `ok`, `warning`, `critical` of a leak detector.
    Leak,
    CorrectableErrors,
    UncorrectableErrors,
    /// Reallocated, pending and uncorrectable sectors together (SMART 5, 197, 198).
    BadSectors,
    /// SMART 187.
    ReportedUncorrectable,
    /// SMART 199: cable and backplane.
    CableErrors,
    LinkChanges,
    FrameErrors,
    /// Seconds throttled by heat.
    HeatThrottle,
    /// Seconds throttled by a power cap.
    PowerThrottle,
    /// Corrected PCIe errors.
    BusErrors,
    /// Rows that a GPU could not remap: `failed`, `pending`, `none`.
    RowRemap,
    /// `on`, `off` of the machine.
    Power,
    /// Whether the BMC answers. A heartbeat.
    BmcAnswers,
    /// Whether the agent in the deployed system answers. A heartbeat.
    AgentAnswers,
    /// `progressing`, `stuck`, `running`.
    Boot,
    /// Network boots of a machine that should boot its disk.
    NetworkBoots,
    /// `in_time`, `wrong`: the BMC's clock against ours.
    Clock,
    /// `ok`, `filling`, `full`, `off`.
    LogFill,
    /// `right`, `drifted`, `known_bad`.
    FirmwareState,
    /// `normal`, `intrusion`.
    Intrusion,
    /// Errors and time-outs of our own requests: `ok`, `slow`.
    BmcPace,
    /// Result of a self-test in band: `passed`, `failed`.
    SelfTest,
    /// `ok`, or what a person reported: `ill`.
    Reported,
}
text_form!(Signal {
    Reading = "reading", Health = "health", LineInput = "line_input", FailurePredicted = "failure_predicted",
    LifeLeft = "life_left", Link = "link", Presence = "presence", Lanes = "lanes", Alarm = "alarm", Redundancy = "redundancy",
    Leak = "leak", CorrectableErrors = "correctable_errors", UncorrectableErrors = "uncorrectable_errors",
    BadSectors = "bad_sectors", ReportedUncorrectable = "reported_uncorrectable", CableErrors = "cable_errors",
    LinkChanges = "link_changes", FrameErrors = "frame_errors", HeatThrottle = "heat_throttle",
    PowerThrottle = "power_throttle", BusErrors = "bus_errors", RowRemap = "row_remap", Power = "power",
    BmcAnswers = "bmc_answers", AgentAnswers = "agent_answers", Boot = "boot", NetworkBoots = "network_boots", Clock = "clock",
    LogFill = "log_fill", FirmwareState = "firmware_state", Intrusion = "intrusion", BmcPace = "bmc_pace",
    SelfTest = "self_test", Reported = "reported",
});

/// A sensor's number with all that is needed to judge it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gauge {
    pub kind: SensorKind,
    pub value: f64,
    pub unit: Unit,
    #[serde(default)]
    pub limits: Thresholds,
    /// What a limit clears below or above, where the BMC says.
    #[serde(default)]
    pub hysteresis: Option<f64>,
    /// What it measures at, lower case (`intake`, `cpu`), where the BMC says.
    #[serde(default)]
    pub context: Option<String>,
    /// The BMC's own judgement of this sensor.
    #[serde(default)]
    pub bmc: Option<Health>,
}

/// One entry of a log, by its code.
///
/// Codes: `ipmi:0c/05` (sensor type and offset, hex), `ipmi:09/0b:01` (generic event type 0Bh), `dell:MEM0701`,
/// `hpe:FanFailed`, `lenovo:FQXSF…`, `redfish:…` (last part of the MessageId), `xid:79`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedEvent {
    pub code: String,
    pub direction: LogDirection,
    /// Log, epoch and record id: the same entry read twice is one event.
    pub log: String,
    pub epoch: String,
    pub record: String,
    pub content: Sha256,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Gauge(Box<Gauge>),
    /// A total that only grows until its keeper restarts.
    Counter {
        total: u64,
    },
    State {
        word: String,
    },
    Event(Box<LoggedEvent>),
    /// A sign of life.
    Beat,
    /// Asked for and not got. The text says why.
    Missing {
        why: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    RedfishPoll,
    RedfishEvent,
    Ipmi,
    InBand,
    Switch,
    Pdu,
    Human,
}
text_form!(Source {
    RedfishPoll = "redfish_poll", RedfishEvent = "redfish_event", Ipmi = "ipmi", InBand = "in_band", Switch = "switch", Pdu = "pdu",
    Human = "human",
});

impl Source {
    /// Who vouches for it. Redfish and IPMI are two doors of one BMC, so they are one witness.
    pub fn witness(self) -> Witness {
        match self {
            Self::RedfishPoll | Self::RedfishEvent | Self::Ipmi => Witness::Bmc,
            Self::InBand => Witness::System,
            Self::Switch | Self::Pdu => Witness::Surroundings,
            Self::Human => Witness::Person,
        }
    }
}

/// An independent source of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    Bmc,
    System,
    Surroundings,
    Person,
}
text_form!(Witness { Bmc = "bmc", System = "system", Surroundings = "surroundings", Person = "person" });

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    Good,
    /// Older than three intervals when it was looked at.
    Stale,
    Unavailable,
    Implausible,
    Historical,
}
text_form!(Quality {
    Good = "good", Stale = "stale", Unavailable = "unavailable", Implausible = "implausible", Historical = "historical",
});

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    pub machine: MachineId,
    pub component: Component,
    pub signal: Signal,
    pub value: Value,
    pub source: Source,
    /// By the clock of the device, where it has one.
    #[serde(default)]
    pub observed_at: Option<Timestamp>,
    /// By ours.
    pub received_at: Timestamp,
    /// Device clock minus ours, in seconds, where it was measured.
    #[serde(default)]
    pub clock_offset_secs: Option<i64>,
    pub quality: Quality,
    /// SHA-256 of the bytes it was read from.
    pub evidence: Sha256,
    /// Where those bytes came from: a URI, an SDR, a log.
    pub read_at: String,
}

impl Observation {
    /// What was seen, as the middle of a sentence.
    pub fn told(&self) -> String {
        match &self.value {
            Value::Gauge(g) => format!("{} reads {}{}", self.component.name, g.value, g.unit.symbol()),
            Value::Counter { total } => format!("{} of {} stands at {total}", self.signal, self.component.name),
            Value::State { word } => format!("{} of {} is {word}", self.signal, self.component.name),
            Value::Event(e) => match e.direction {
                LogDirection::Asserted | LogDirection::Said => format!("the log says {} of {}", e.code, self.component.name),
                LogDirection::Deasserted => format!("the log says that {} of {} ended", e.code, self.component.name),
            },
            Value::Beat => format!("{} answers", self.component.name),
            Value::Missing { why } => format!("{} of {} could not be read: {why}", self.signal, self.component.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_software_can_break_may_be_reimaged() {
        let able: Vec<Family> = Family::ALL.into_iter().filter(|f| f.reimage_may_help()).collect();
        assert_eq!(able, [Family::Boot, Family::System]);
    }

    #[test]
    fn power_fans_heat_and_liquid_are_never_restarted_away() {
        for f in [Family::PowerSupply, Family::Fan, Family::Temperature, Family::PowerBudget, Family::Liquid] {
            assert!(!f.restart_may_help(), "{f}");
        }
    }

    #[test]
    fn redfish_and_ipmi_are_one_witness() {
        assert_eq!(Source::RedfishPoll.witness(), Source::Ipmi.witness());
        assert_ne!(Source::InBand.witness(), Source::Ipmi.witness());
    }

    #[test]
    fn a_replaced_part_is_another_component() {
        let old = Component {
            family: Family::Memory,
            anchor: Anchor::Serial("AAA1".parse().unwrap()),
            name: "A1".into(),
            place: Some("A1".into()),
        };
        let new = Component { anchor: Anchor::Serial("BBB2".parse().unwrap()), ..old.clone() };
        assert_ne!(old.key(), new.key());
    }
}
