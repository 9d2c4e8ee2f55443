//! What is wrong with a BMC or its machine, by what it said. Pure: a report in, sentences out.

use serde::Serialize;

use crate::cli::bmc::probe::Report;
use crate::domain::bmc_features::Capability;
use crate::domain::part::{PartKind, PartState};
use crate::domain::sensor::{Health, Reading, Sensor};
use crate::domain::time::spoken;

/// Largest difference of clocks that is none (signal BMC-4).
const CLOCK_OFFSET_SECS: u64 = 300;
/// Share of a log from which on it is nearly full, in percent (signal BMC-3).
const LOG_FILL_PERCENT: u64 = 90;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `critical`, `warning` or `info`.
    pub severity: Severity,
    pub what: String,
    /// Where it was read; none for what concerns the whole BMC.
    pub source: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Critical,
    Warning,
    Info,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

pub fn find(report: &Report) -> Vec<Problem> {
    let mut out = Vec::new();
    of_bmc(report, &mut out);
    of_parts(report, &mut out);
    report.sensors.iter().for_each(|s| of_sensor(s, &mut out));
    out.sort_by_key(|p| p.severity);
    out
}

fn push(out: &mut Vec<Problem>, severity: Severity, what: impl Into<String>, source: Option<&str>) {
    out.push(Problem { severity, what: what.into(), source: source.map(str::to_owned) });
}

fn of_bmc(report: &Report, out: &mut Vec<Problem>) {
    if let Some(offset) = report.clock_offset_secs
        && offset.unsigned_abs() > CLOCK_OFFSET_SECS
    {
        let by = spoken(std::time::Duration::from_secs(offset.unsigned_abs()));
        let side = if offset > 0 { "ahead of" } else { "behind" };
        push(out, Severity::Warning, format!("its clock is {by} {side} ours: times in its logs cannot be trusted"), None);
    }
    for log in &report.logs {
        if let (Some(used), Some(total)) = (log.used, log.total)
            && u64::from(used) * 100 >= u64::from(total) * LOG_FILL_PERCENT
        {
            let what = format!("a log with {used} of {total} entries: new events may be dropped or old ones overwritten");
            push(out, Severity::Warning, what, Some(&log.source));
        }
    }
    if report.address.starts_with("http://") {
        push(out, Severity::Warning, "it was asked without TLS: its password can be read on the way", None);
    }
    let identity = &report.identity;
    if identity.serial.as_deref().is_none_or(|s| s.parse::<crate::domain::id::Serial>().is_err()) {
        push(out, Severity::Info, "it gives no usable serial number of the machine", None);
    }
    let systems: Vec<&str> = report.parts.iter().filter(|p| p.kind == PartKind::System).map(|p| p.name.as_str()).collect();
    if systems.len() > 1 {
        let what = format!("it serves {} systems ({}); identity and power are those of one", systems.len(), systems.join(", "));
        push(out, Severity::Info, what, identity.source.as_deref());
    }
    for (capability, so) in [
        (Capability::Power, "the machine cannot be switched by it"),
        (Capability::BootOnce, "the machine cannot be told what to boot next"),
        (Capability::Sensors, "nothing is measured"),
        (Capability::Logs, "no events are kept"),
        (Capability::FirmwareUpdate, "its firmware is updated by hand"),
    ] {
        if let Some(line) = report.capabilities.iter().find(|c| c.capability == capability && !c.offered) {
            push(out, Severity::Info, format!("no {capability}: {so} ({})", line.evidence), None);
        }
    }
    for unread in &report.unread {
        push(out, Severity::Info, format!("{} cannot be read: {}", unread.area, unread.oddity.what), Some(&unread.oddity.source));
    }
    for failure in &report.failed {
        push(out, Severity::Warning, format!("{} failed: {}", failure.area, failure.why), None);
    }
    for account in report.accounts.iter().filter(|a| a.locked == Some(true)) {
        let name = account.name.clone().unwrap_or_default();
        push(out, Severity::Warning, format!("the account {name:?} is locked"), Some(&account.source));
    }
}

fn of_parts(report: &Report, out: &mut Vec<Problem>) {
    for part in &report.parts {
        let name = format!("{} {:?}", part.kind, part.place.as_deref().unwrap_or(&part.name));
        let source = Some(part.source.as_str());
        match part.health {
            Some(Health::Critical) => push(out, Severity::Critical, format!("{name} is critical"), source),
            Some(Health::Warning) => push(out, Severity::Warning, format!("{name} has a warning"), source),
            Some(Health::Ok) | None => {}
        }
        if let PartState::Unavailable(word) = &part.state {
            push(out, Severity::Warning, format!("{name} is {word}"), source);
        }
        let facts = &part.facts;
        if facts.failure_predicted == Some(true) {
            push(out, Severity::Critical, format!("{name} predicts its failure"), source);
        }
        if facts.life_left_percent.is_some_and(|l| l <= 10.0) {
            push(out, Severity::Warning, format!("{name} has {} % of its life left", facts.life_left_percent.unwrap_or(0.0)), source);
        }
        if let Some(input) = facts.line_input.as_deref().filter(|i| *i != "Normal") {
            push(out, Severity::Critical, format!("{name} has line input {input}"), source);
        }
        for alarm in &facts.alarms {
            push(out, Severity::Warning, format!("{name}: {alarm}"), source);
        }
        if let (Some(used), Some(max)) = (facts.lanes_in_use, facts.lanes_max)
            && used < max
            && part.kind == PartKind::Gpu
        {
            push(out, Severity::Warning, format!("{name} uses {used} of {max} PCIe lanes"), source);
        }
    }
}

/// A sensor beyond a limit of its own, with or without a health of its own (defect C2); where the two disagree, that is said.
fn of_sensor(sensor: &Sensor, out: &mut Vec<Problem>) {
    let Reading::Number { value } = sensor.reading else { return };
    let t = &sensor.thresholds;
    let below = |limit: Option<f64>| limit.filter(|l| value <= *l);
    let above = |limit: Option<f64>| limit.filter(|l| value >= *l);
    let serious = below(t.lower_fatal).or(below(t.lower_critical)).or(above(t.upper_fatal)).or(above(t.upper_critical));
    let mild = below(t.lower_caution).or(above(t.upper_caution));
    let crossed = serious.map(|l| (Severity::Critical, l)).or(mild.map(|l| (Severity::Warning, l)));
    let unit = sensor.unit.symbol();
    let source = Some(sensor.source.as_str());
    match (crossed, sensor.health) {
        (Some((severity, limit)), health) => {
            let but = if health == Some(Health::Ok) { "; the BMC itself says ok" } else { "" };
            push(out, severity, format!("{} reads {value}{unit}, its limit is {limit}{unit}{but}", sensor.name), source);
        }
        (None, Some(Health::Critical)) => push(out, Severity::Critical, format!("{} is critical at {value}{unit}", sensor.name), source),
        (None, Some(Health::Warning)) => push(out, Severity::Warning, format!("{} has a warning at {value}{unit}", sensor.name), source),
        (None, Some(Health::Ok) | None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sensor::{SensorKind, Thresholds, Unit};

    fn sensor(value: f64, thresholds: Thresholds, health: Option<Health>) -> Vec<Problem> {
        let sensor = Sensor {
            id: "/s".into(),
            name: "Inlet".into(),
            kind: SensorKind::Temperature,
            unit: Unit::Celsius,
            reading: Reading::Number { value },
            thresholds,
            range: (Some(0.0), None),
            context: None,
            health,
            hysteresis: None,
            source: "/s".into(),
        };
        let mut out = Vec::new();
        of_sensor(&sensor, &mut out);
        out
    }

    #[test]
    fn c2_a_limit_counts_without_the_bmcs_own_health() {
        let hot = sensor(48.0, Thresholds { upper_critical: Some(47.0), ..Thresholds::default() }, None);
        assert_eq!((hot[0].severity, hot[0].what.as_str()), (Severity::Critical, "Inlet reads 48 °C, its limit is 47 °C"));
        let disputed = sensor(48.0, Thresholds { upper_critical: Some(47.0), ..Thresholds::default() }, Some(Health::Ok));
        assert!(disputed[0].what.ends_with("the BMC itself says ok"));
    }

    #[test]
    fn c3_the_lowest_possible_reading_is_no_limit() {
        assert_eq!(sensor(0.0, Thresholds::default(), None), []);
        assert_eq!(sensor(2.0, Thresholds { lower_fatal: Some(3.0), ..Thresholds::default() }, None)[0].severity, Severity::Critical);
    }
}
