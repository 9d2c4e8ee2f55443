//! The parts of a machine as its BMC lists them: what they are, where they sit, how they are.

use serde::{Deserialize, Serialize};

use crate::domain::id::Serial;
use crate::domain::power::text_form;
use crate::domain::sensor::Health;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    PowerSupply,
    Fan,
    Dimm,
    Cpu,
    Gpu,
    Drive,
    StorageController,
    Volume,
    NetworkAdapter,
    NetworkPort,
    PcieDevice,
    Battery,
    LeakDetector,
    Transceiver,
    Baseboard,
    Chassis,
    /// The BMC itself (Redfish Manager).
    Bmc,
    /// The whole machine as the BMC sees it (Redfish ComputerSystem), with its rolled-up health.
    System,
    /// A group of parts that stand in for each other (power supplies, fans) and whether it still does.
    Redundancy,
    Other,
}
text_form!(PartKind {
    PowerSupply = "power_supply",
    Fan = "fan",
    Dimm = "dimm",
    Cpu = "cpu",
    Gpu = "gpu",
    Drive = "drive",
    StorageController = "storage_controller",
    Volume = "volume",
    NetworkAdapter = "network_adapter",
    NetworkPort = "network_port",
    PcieDevice = "pcie_device",
    Battery = "battery",
    LeakDetector = "leak_detector",
    Transceiver = "transceiver",
    Baseboard = "baseboard",
    Chassis = "chassis",
    Bmc = "bmc",
    System = "system",
    Redundancy = "redundancy",
    Other = "other",
});

/// Whether the part is there and working (Redfish `Status.State`, IPMI presence).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    Present,
    /// The place is empty.
    Absent,
    /// There but not in use: `Disabled`, `StandbyOffline`, `StandbySpare`, `Starting`…, in the BMC's word.
    Idle(String),
    /// `UnavailableOffline`, or a state we have no word for.
    Unavailable(String),
    /// The BMC does not say.
    NotSaid,
}

/// One part. Texts are untrusted and capped by the driver (256 characters).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub kind: PartKind,
    /// Where it was read: the Redfish URI (with a JSON pointer for array members) or `fru:<id>` / `sdr:…`. Unique per machine.
    pub source: String,
    /// The BMC's name for it, for example `PROC 1 DIMM 3`.
    pub name: String,
    /// Slot or bay as a technician reads it (Redfish `Location.PartLocation.ServiceLabel`, `DeviceLocator`, IPMI entity).
    #[serde(default)]
    pub place: Option<String>,
    #[serde(default)]
    pub manufacturer: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub part_number: Option<String>,
    #[serde(default)]
    pub serial: Option<Serial>,
    #[serde(default)]
    pub firmware: Option<String>,
    pub state: PartState,
    /// The BMC's judgement of this part alone; `None` when it gives none.
    #[serde(default)]
    pub health: Option<Health>,
    #[serde(default)]
    pub facts: PartFacts,
}

/// What only some kinds have. `None` means the BMC did not say, never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartFacts {
    pub capacity_bytes: Option<u64>,
    /// Rated output of a power supply.
    pub capacity_watts: Option<f64>,
    /// Redfish `LineInputStatus` (`Normal`, `LossOfInput`, `OutOfRange`).
    pub line_input: Option<String>,
    pub failure_predicted: Option<bool>,
    pub life_left_percent: Option<f64>,
    /// `NVMe`, `SATA`, `SAS`; `SSD`, `HDD`.
    pub protocol: Option<String>,
    pub media: Option<String>,
    /// `LinkUp`, `LinkDown`, `NoLink`… in the BMC's word, and the speed.
    pub link: Option<String>,
    pub speed_mbps: Option<u64>,
    pub mac: Option<crate::domain::id::Mac>,
    pub cores: Option<u32>,
    pub threads: Option<u32>,
    pub speed_mhz: Option<u32>,
    pub lanes_in_use: Option<u32>,
    pub lanes_max: Option<u32>,
    pub correctable_errors: Option<u64>,
    pub uncorrectable_errors: Option<u64>,
    /// PCIe generation in use and possible, in the BMC's words (`Gen4`).
    pub pcie_gen: Option<String>,
    pub pcie_gen_max: Option<String>,
    /// Time spent throttled for heat and for power, since the BMC's own zero.
    pub thermal_throttle_secs: Option<f64>,
    pub power_throttle_secs: Option<f64>,
    /// When it last started (Redfish Manager `LastResetTime`): a change is a restart of the BMC, with its subscriptions gone (BMC-5).
    pub last_reset: Option<crate::domain::time::Timestamp>,
    /// The worst health of this part and all below it (Redfish `HealthRollup`).
    pub health_rollup: Option<Health>,
    /// RAID level, rebuild and similar operations under way, in the BMC's words.
    pub volume: Option<String>,
    pub encrypted: Option<bool>,
    /// Other named conditions that the BMC asserts: `CriticalWarning: SpareCapacityWornOut`, `AlarmTrip: CorrectableECCError`.
    pub alarms: Vec<String>,
    /// Further counts and measurements under the BMC's own names (`FatalErrorCount`, `RXFCSErrors`, `RXInputPowerMilliWatts`).
    pub metrics: std::collections::BTreeMap<String, f64>,
}
