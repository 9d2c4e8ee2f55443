//! Parts to observations.

use crate::decide::observe::{Read, word};
use crate::domain::observation::{Anchor, Component, Family, Gauge, Observation, Signal, Value};
use crate::domain::part::{Part, PartKind, PartState};
use crate::domain::sensor::{Health, SensorKind, Thresholds, Unit};

/// The component a part is: by its serial, so that a new part in the same place is another one.
pub fn component_of(part: &Part) -> Component {
    let anchor = match &part.serial {
        Some(serial) => Anchor::Serial(serial.clone()),
        None => Anchor::Source(part.source.clone()),
    };
    Component { family: Family::from(part.kind), anchor, name: part.name.clone(), place: part.place.clone() }
}

/// What the BMC says of one part. What it does not say gives no observation, never a default.
pub fn observe(part: &Part, read: &Read<'_>) -> Vec<Observation> {
    let component = component_of(part);
    let f = &part.facts;
    let mut out = Vec::new();
    let mut say = |signal, value| out.push(read.see(&component, signal, value, &part.source));
    match &part.state {
        // An empty slot has no serial and is not the part that was in it: see `gone`.
        PartState::Absent => return out,
        PartState::Unavailable(why) => say(Signal::Health, Value::Missing { why: why.clone() }),
        PartState::Present | PartState::Idle(_) | PartState::NotSaid => {
            // A group's health is its redundancy, told below; the roll-up of the whole machine only repeats its parts.
            if let Some(health) = part.health.filter(|_| !matches!(part.kind, PartKind::Redundancy | PartKind::System)) {
                say(Signal::Health, word(&health.to_string()));
            }
            say(Signal::Presence, word("present"));
        }
    }
    if let Some(health) = part.health {
        match part.kind {
            PartKind::LeakDetector => say(Signal::Leak, word(&health.to_string())),
            PartKind::Redundancy => say(
                Signal::Redundancy,
                word(match health {
                    Health::Ok => "full",
                    Health::Warning => "degraded",
                    Health::Critical => "lost",
                }),
            ),
            PartKind::PowerSupply
            | PartKind::Fan
            | PartKind::Dimm
            | PartKind::Cpu
            | PartKind::Gpu
            | PartKind::Drive
            | PartKind::StorageController
            | PartKind::Volume
            | PartKind::NetworkAdapter
            | PartKind::NetworkPort
            | PartKind::PcieDevice
            | PartKind::Battery
            | PartKind::Transceiver
            | PartKind::Baseboard
            | PartKind::Chassis
            | PartKind::Bmc
            | PartKind::System
            | PartKind::Other => {}
        }
    }
    if let Some(text) = &f.line_input {
        say(Signal::LineInput, word(text));
    }
    if let Some(predicted) = f.failure_predicted {
        say(Signal::FailurePredicted, word(if predicted { "yes" } else { "no" }));
    }
    if let Some(left) = f.life_left_percent.filter(|p| p.is_finite()) {
        let gauge = Gauge {
            kind: SensorKind::Share,
            value: left,
            unit: Unit::Percent,
            limits: Thresholds::default(),
            hysteresis: None,
            context: None,
            bmc: None,
        };
        say(Signal::LifeLeft, Value::Gauge(Box::new(gauge)));
    }
    if let Some(link) = &f.link {
        say(Signal::Link, word(link));
    }
    if let (Some(used), Some(all)) = (f.lanes_in_use, f.lanes_max)
        && used > 0
    {
        say(Signal::Lanes, word(if used < all { "narrow" } else { "full" }));
    }
    let whole = |n: Option<f64>| n.filter(|n| n.is_finite() && *n >= 0.0 && *n < 1e15).map(whole_part);
    let frames = whole(f.metrics.get("RXFCSErrors").copied());
    for (signal, total) in [
        (Signal::CorrectableErrors, f.correctable_errors),
        (Signal::UncorrectableErrors, f.uncorrectable_errors),
        (Signal::HeatThrottle, whole(f.thermal_throttle_secs)),
        (Signal::PowerThrottle, whole(f.power_throttle_secs)),
        (Signal::FrameErrors, frames),
    ] {
        if let Some(total) = total {
            say(signal, Value::Counter { total });
        }
    }
    match part.kind {
        PartKind::Drive | PartKind::Dimm | PartKind::StorageController => {
            say(Signal::Alarm, if f.alarms.is_empty() { word("none") } else { word(&f.alarms.join("; ")) });
        }
        PartKind::PowerSupply
        | PartKind::Fan
        | PartKind::Cpu
        | PartKind::Gpu
        | PartKind::Volume
        | PartKind::NetworkAdapter
        | PartKind::NetworkPort
        | PartKind::PcieDevice
        | PartKind::Battery
        | PartKind::LeakDetector
        | PartKind::Transceiver
        | PartKind::Baseboard
        | PartKind::Chassis
        | PartKind::Bmc
        | PartKind::System
        | PartKind::Redundancy
        | PartKind::Other => {}
    }
    out
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the caller lets only finite numbers from 0 to 1e15 through")]
fn whole_part(n: f64) -> u64 {
    n as u64
}

/// Parts with a serial that were in the machine and are not any more. `now` must be a whole list: a read that was cut off
/// says nothing about what is missing.
pub fn gone(before: &[Part], now: &[Part], read: &Read<'_>) -> Vec<Observation> {
    before
        .iter()
        .filter(|old| old.serial.is_some() && !now.iter().any(|new| new.kind == old.kind && new.serial == old.serial))
        .map(|old| read.see(&component_of(old), Signal::Presence, word("absent"), &old.source))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::observe::tests::read;
    use crate::domain::part::PartFacts;

    fn drive(serial: &str) -> Part {
        Part {
            kind: PartKind::Drive,
            source: "/redfish/v1/Systems/1/Storage/1/Drives/0".into(),
            name: "Bay 0".into(),
            place: Some("Bay 0".into()),
            manufacturer: None,
            model: None,
            part_number: None,
            serial: Some(serial.parse().unwrap()),
            firmware: None,
            state: PartState::Present,
            health: Some(Health::Ok),
            facts: PartFacts { failure_predicted: Some(true), life_left_percent: Some(4.0), ..PartFacts::default() },
        }
    }

    #[test]
    fn what_the_bmc_does_not_say_is_not_observed() {
        let silent = Part { health: None, facts: PartFacts::default(), kind: PartKind::Fan, ..drive("A1") };
        let seen: Vec<Signal> = observe(&silent, &read(0)).iter().map(|o| o.signal).collect();
        assert_eq!(seen, [Signal::Presence]);
    }

    #[test]
    fn prediction_counts_although_health_is_ok() {
        let told: Vec<String> = observe(&drive("A1"), &read(0)).iter().map(Observation::told).collect();
        assert!(told.contains(&"failure_predicted of Bay 0 is yes".to_owned()), "{told:?}");
        assert!(told.contains(&"health of Bay 0 is ok".to_owned()), "{told:?}");
    }

    #[test]
    fn a_drive_that_left_is_missed_by_its_serial_and_its_successor_starts_clean() {
        let seen = gone(&[drive("A1")], &[drive("B2")], &read(0));
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].component.anchor, Anchor::Serial("A1".parse().unwrap()));
        assert_eq!(gone(&[drive("A1")], &[drive("A1")], &read(0)), vec![]);
        assert_ne!(component_of(&drive("A1")).key(), component_of(&drive("B2")).key());
    }
}
