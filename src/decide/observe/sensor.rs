//! Sensors to observations.

use crate::decide::observe::{Read, word};
use crate::domain::observation::{Anchor, Component, Family, Gauge, Observation, Quality, Signal, Value};
use crate::domain::sensor::{Reading, Sensor, SensorKind};

/// What one sensor says. Several observations for a discrete sensor that asserts several states; none for a sensor that has
/// neither a reading nor a judgement.
pub fn observe(sensor: &Sensor, read: &Read<'_>) -> Vec<Observation> {
    let component = component_of(sensor);
    match &sensor.reading {
        Reading::Number { value } => vec![number(sensor, *value, &component, read)],
        Reading::States { words, .. } => states(sensor, words, &component, read),
        Reading::Unavailable { why } => {
            vec![read.see(&component, Signal::Reading, Value::Missing { why: why.clone() }, &sensor.source)]
        }
    }
}

fn number(sensor: &Sensor, value: f64, component: &Component, read: &Read<'_>) -> Observation {
    if !value.is_finite() {
        return read.see(component, Signal::Reading, Value::Missing { why: "not a number".to_owned() }, &sensor.source);
    }
    let gauge = Gauge {
        kind: sensor.kind,
        value,
        unit: sensor.unit,
        limits: sensor.thresholds,
        hysteresis: sensor.hysteresis.filter(|h| h.is_finite() && *h >= 0.0),
        context: sensor.context.as_ref().map(|c| c.to_lowercase()),
        bmc: sensor.health,
    };
    let mut seen = read.see(component, Signal::Reading, Value::Gauge(Box::new(gauge)), &sensor.source);
    if outside(value, sensor.range) {
        seen.quality = Quality::Implausible;
    }
    seen
}

/// Whether the sensor cannot give this value. A range whose ends are equal says nothing.
fn outside(value: f64, range: (Option<f64>, Option<f64>)) -> bool {
    match range {
        (Some(low), Some(high)) if low >= high => false,
        (low, high) => low.is_some_and(|l| value < l) || high.is_some_and(|h| value > h),
    }
}

/// The words of IPMI table 42-3 that rules look at. Words without one are left to the BMC's own judgement.
fn states(sensor: &Sensor, words: &[String], component: &Component, read: &Read<'_>) -> Vec<Observation> {
    let has = |part: &str| words.iter().any(|w| w.to_lowercase().contains(part));
    let mut out = Vec::new();
    let mut say = |signal, text: &str| out.push(read.see(component, signal, word(text), &sensor.source));
    match component.family {
        Family::PowerSupply => {
            let failed = has("failure") && !has("predictive");
            say(
                Signal::Health,
                if failed {
                    "critical"
                } else if has("predictive") {
                    "warning"
                } else {
                    "ok"
                },
            );
            let lost = has("input lost") || has("ac lost") || has("input out of range") || has("out-of-range");
            say(Signal::LineInput, if lost { "lossofinput" } else { "normal" });
        }
        Family::Drive => {
            say(Signal::Health, if has("fault") { "critical" } else { "ok" });
            say(Signal::FailurePredicted, if has("predictive") { "yes" } else { "no" });
        }
        Family::Chassis => say(Signal::Intrusion, if has("intrusion") { "intrusion" } else { "normal" }),
        Family::Fan
        | Family::Temperature
        | Family::Liquid
        | Family::Voltage
        | Family::Battery
        | Family::Memory
        | Family::Cpu
        | Family::Pcie
        | Family::Raid
        | Family::Network
        | Family::Gpu
        | Family::Bmc
        | Family::Log
        | Family::Watchdog
        | Family::PowerBudget
        | Family::Boot
        | Family::Firmware
        | Family::System
        | Family::Report => {}
    }
    if has("redundan") {
        let lost = has("redundancy lost") || has("non-redundant");
        say(
            Signal::Redundancy,
            if lost {
                "lost"
            } else if has("degraded") {
                "degraded"
            } else {
                "full"
            },
        );
    }
    if out.is_empty()
        && let Some(health) = sensor.health
    {
        out.push(read.see(component, Signal::Health, word(&health.to_string()), &sensor.source));
    }
    out
}

/// What a sensor belongs to: a sensor has no serial, so it is anchored to where it was read.
fn component_of(sensor: &Sensor) -> Component {
    let context = sensor.context.as_deref().unwrap_or_default().to_lowercase();
    let name = sensor.name.to_lowercase();
    let about = |words: &[&str]| words.iter().any(|w| context.contains(w) || name.contains(w));
    let family = match sensor.kind {
        SensorKind::Temperature if about(&["drive", "disk", "storagedevice", "hdd", "ssd", "nvme"]) => Family::Drive,
        SensorKind::Temperature | SensorKind::Humidity => Family::Temperature,
        SensorKind::Fan => Family::Fan,
        SensorKind::Voltage if about(&["battery", "vbat", "cmos"]) => Family::Battery,
        SensorKind::Voltage | SensorKind::Current => Family::Voltage,
        SensorKind::Flow | SensorKind::Pressure => Family::Liquid,
        SensorKind::Power | SensorKind::Energy | SensorKind::Share => Family::PowerBudget,
        SensorKind::Discrete | SensorKind::Other if about(&["power supply", "powersupply", "psu", "ps1", "ps2", "pwr"]) => {
            Family::PowerSupply
        }
        SensorKind::Discrete | SensorKind::Other if about(&["drive", "disk"]) => Family::Drive,
        SensorKind::Discrete | SensorKind::Other if about(&["fan"]) => Family::Fan,
        SensorKind::Discrete | SensorKind::Other if about(&["processor", "cpu"]) => Family::Cpu,
        SensorKind::Discrete | SensorKind::Other if about(&["memory", "dimm"]) => Family::Memory,
        SensorKind::Discrete | SensorKind::Other => Family::Chassis,
    };
    Component { family, anchor: Anchor::Source(sensor.id.clone()), name: sensor.name.clone(), place: sensor.context.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::observe::tests::read;
    use crate::domain::sensor::{Health, Thresholds, Unit};

    pub(crate) fn temp(value: f64) -> Sensor {
        Sensor {
            id: "/redfish/v1/Chassis/1/Sensors/CPU1".into(),
            name: "CPU1 Temp".into(),
            kind: SensorKind::Temperature,
            unit: Unit::Celsius,
            reading: Reading::Number { value },
            thresholds: Thresholds { upper_critical: Some(95.0), ..Thresholds::default() },
            range: (Some(0.0), Some(127.0)),
            context: Some("CPU".into()),
            health: Some(Health::Ok),
            hysteresis: None,
            source: "/redfish/v1/Chassis/1/Sensors/CPU1".into(),
        }
    }

    #[test]
    fn a_number_keeps_its_limits_and_the_range_is_not_one_of_them() {
        let seen = observe(&temp(50.0), &read(0));
        let Value::Gauge(g) = &seen[0].value else { panic!() };
        assert_eq!((g.value, g.limits.lower_fatal, g.limits.upper_critical), (50.0, None, Some(95.0)));
        assert_eq!(seen[0].quality, Quality::Good);
        assert_eq!(observe(&temp(0.0), &read(0))[0].quality, Quality::Good, "the lowest value it can give is a value");
    }

    #[test]
    fn a_value_the_sensor_cannot_give_is_implausible_and_no_value_is_unavailable() {
        assert_eq!(observe(&temp(255.0), &read(0))[0].quality, Quality::Implausible);
        assert_eq!(observe(&temp(f64::NAN), &read(0))[0].quality, Quality::Unavailable);
        let off = Sensor { reading: Reading::Unavailable { why: "scanning off".into() }, ..temp(0.0) };
        let seen = observe(&off, &read(0));
        assert_eq!((seen.len(), seen[0].quality), (1, Quality::Unavailable));
    }

    #[test]
    fn a_discrete_supply_sensor_says_failure_and_lost_input() {
        let mut s = Sensor { name: "PS1 Status".into(), kind: SensorKind::Discrete, context: Some("power supply 1".into()), ..temp(0.0) };
        let states = |s: &Sensor| -> Vec<String> { observe(s, &read(0)).iter().map(|o| o.told()).collect() };
        s.reading = Reading::States { words: vec!["presence detected".into()], offsets: 1 };
        assert_eq!(states(&s), ["health of PS1 Status is ok", "line_input of PS1 Status is normal"]);
        s.reading = Reading::States { words: vec!["presence detected".into(), "power supply failure detected".into()], offsets: 3 };
        assert_eq!(states(&s)[0], "health of PS1 Status is critical");
        s.reading = Reading::States { words: vec!["Power Supply input lost (AC/DC)".into()], offsets: 8 };
        assert_eq!(states(&s)[1], "line_input of PS1 Status is lossofinput");
    }
}
