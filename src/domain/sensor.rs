//! Sensors and what they read. Values are as the BMC gave them, in the unit named; nothing is judged here.

use serde::{Deserialize, Serialize};

use crate::domain::power::text_form;

/// What a sensor measures (Redfish `ReadingType`, IPMI SDR units and sensor type).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SensorKind {
    Temperature,
    Voltage,
    Current,
    Power,
    Energy,
    /// Fan speed, in RPM or percent: see [`Unit`].
    Fan,
    Humidity,
    Flow,
    Pressure,
    /// A share of something: utilisation, life left, charge.
    Share,
    /// States instead of a number (IPMI discrete sensors, Redfish `Status` without a reading).
    Discrete,
    Other,
}
text_form!(SensorKind {
    Temperature = "temperature",
    Voltage = "voltage",
    Current = "current",
    Power = "power",
    Energy = "energy",
    Fan = "fan",
    Humidity = "humidity",
    Flow = "flow",
    Pressure = "pressure",
    Share = "share",
    Discrete = "discrete",
    Other = "other",
});

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Celsius,
    Volt,
    Ampere,
    Watt,
    Joule,
    Rpm,
    Percent,
    LitrePerMinute,
    Pascal,
    Hertz,
    Second,
    /// A number whose unit the BMC did not name.
    None,
}

impl Unit {
    /// The symbol a person reads, with the space that belongs before it.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Celsius => " °C",
            Self::Volt => " V",
            Self::Ampere => " A",
            Self::Watt => " W",
            Self::Joule => " J",
            Self::Rpm => " RPM",
            Self::Percent => " %",
            Self::LitrePerMinute => " l/min",
            Self::Pascal => " Pa",
            Self::Hertz => " Hz",
            Self::Second => " s",
            Self::None => "",
        }
    }
}

/// Six limits; `None` where the BMC sets none. Lower limits trip when the reading is at or below, upper when at or above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// Redfish `LowerCaution` / `LowerThresholdNonCritical`, IPMI lower non-critical.
    pub lower_caution: Option<f64>,
    /// Redfish `LowerCritical` / `LowerThresholdCritical`, IPMI lower critical.
    pub lower_critical: Option<f64>,
    /// Redfish `LowerFatal` / `LowerThresholdFatal`, IPMI lower non-recoverable.
    pub lower_fatal: Option<f64>,
    pub upper_caution: Option<f64>,
    pub upper_critical: Option<f64>,
    pub upper_fatal: Option<f64>,
}

/// What the sensor said. Missing is not zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Reading {
    Number {
        value: f64,
    },
    /// Asserted states of a discrete sensor, in words (`presence detected`, `power supply failure`); empty when none is asserted.
    /// `offsets` has bit N set when offset N is asserted (IPMI table 42-3); 0 from Redfish.
    States {
        words: Vec<String>,
        offsets: u16,
    },
    /// The BMC has the sensor but no value: scanning off, reading unavailable, `null`, not present.
    Unavailable {
        why: String,
    },
}

impl Reading {
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number { value } => Some(*value),
            Self::States { .. } | Self::Unavailable { .. } => None,
        }
    }
}

/// The health word a BMC gives (Redfish `Status.Health`, IPMI threshold status). `None` elsewhere means it gave none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Ok,
    Warning,
    Critical,
}
text_form!(Health { Ok = "ok", Warning = "warning", Critical = "critical" });

/// One sensor of one machine with its present reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    /// Stable for one machine and one BMC firmware: the Redfish URI (with a JSON pointer for members of Thermal and Power) or
    /// `sdr:<owner>:<lun>:<number>`.
    pub id: String,
    /// The BMC's own name, for example `CPU1 Temp`. Untrusted, capped.
    pub name: String,
    pub kind: SensorKind,
    pub unit: Unit,
    pub reading: Reading,
    #[serde(default)]
    pub thresholds: Thresholds,
    /// Lowest and highest value the sensor can give (Redfish `ReadingRangeMin/Max`). Not limits (defect C3).
    #[serde(default)]
    pub range: (Option<f64>, Option<f64>),
    /// What it measures at (Redfish `PhysicalContext` such as `Intake`, IPMI entity such as `processor 1`).
    #[serde(default)]
    pub context: Option<String>,
    /// The BMC's own judgement.
    #[serde(default)]
    pub health: Option<Health>,
    /// What a threshold clears below or above, where the BMC says.
    #[serde(default)]
    pub hysteresis: Option<f64>,
    /// Where it was read: a URI or an SDR.
    pub source: String,
}
