//! Sensor readings as they are kept: how good each is and how old, the latest of each sensor, samples and rollups.

use serde::{Deserialize, Serialize};

use crate::domain::power::text_form;
use crate::domain::sensor::{Health, Sensor};
use crate::domain::time::Timestamp;

/// How far a value can be trusted. Only `Good` says anything about the machine now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    Good,
    /// Older than three intervals: the BMC was not heard since, or left the sensor out.
    Stale,
    /// The BMC has the sensor but gives no value.
    Unavailable,
    /// Outside what the sensor can give, or changing faster than anything real.
    Implausible,
    /// From before our first contact with the machine.
    Historical,
}
text_form!(Quality {
    Good = "good",
    Stale = "stale",
    Unavailable = "unavailable",
    Implausible = "implausible",
    Historical = "historical",
});

/// A sensor that a machine has or had, without its reading. `number` names it within its machine for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownSensor {
    pub number: u32,
    /// Its reading is the one at the last change of the definition: look at [`Latest`] for the present one.
    pub sensor: Sensor,
    pub first_at: Timestamp,
}

/// The latest of one sensor. `value` and `words` are the last that were good; they stay when a later poll gives none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latest {
    pub number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Asserted states of a discrete sensor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<u16>,
    /// When `value` or `words` were read; `None` when there never was any.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// When the BMC last named the sensor at all.
    pub named_at: Timestamp,
    /// As of `named_at`; a reader ages it with `decide::quality::aged`.
    pub quality: Quality,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Why it is not good, or the value that was not believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One sensor at one poll.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Point {
    /// No value, or the sensor was not there.
    Absent,
    Good(f64),
    Implausible(f64),
}

impl Point {
    pub fn good(self) -> Option<f64> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Implausible(_) => None,
        }
    }
}

/// One sample of one sensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub at: Timestamp,
    pub point: Point,
}

/// Good values within five minutes of one sensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollup {
    pub min: f64,
    pub mean: f64,
    pub max: f64,
    pub count: u32,
}
