//! One observation against one condition: bad, good, or in between.

use crate::domain::observation::{Gauge, Observation, Value};
use crate::domain::policy::{Condition, Limit, Span};
use crate::domain::sensor::{Health, SensorKind, Unit};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Bad,
    Good,
    /// Not beyond the limit, but not far enough from it to count as over.
    Between,
    /// Limits and the BMC's own judgement contradict each other: neither is trusted.
    Disputed,
    /// The condition is not about this.
    NoSay,
    /// Needs the growth since before.
    Counter {
        total: u64,
        above: u64,
        per: Span,
    },
}

/// Without a hysteresis of the BMC: 3 degrees, 3 percent, 5 percent of the limit for speeds and voltages.
fn hysteresis(g: &Gauge, limit: f64) -> f64 {
    g.hysteresis.unwrap_or(match g.unit {
        Unit::Celsius | Unit::Percent => 3.0,
        Unit::Rpm => limit.abs() * 0.05,
        Unit::Volt => limit.abs() * 0.01,
        Unit::Ampere | Unit::Watt | Unit::Joule | Unit::LitrePerMinute | Unit::Pascal | Unit::Hertz | Unit::Second | Unit::None => {
            limit.abs() * 0.03
        }
    })
}

pub fn judge(condition: &Condition, seen: &Observation) -> Verdict {
    match (condition, &seen.value) {
        (Condition::State { signal, is }, Value::State { word }) if *signal == seen.signal => {
            // Several alarms stand in one word, separated by semicolons.
            if word.split("; ").any(|w| is.iter().any(|i| i == w)) { Verdict::Bad } else { Verdict::Good }
        }
        (Condition::Gauge { signal, sensor, context, limit }, Value::Gauge(g)) if *signal == seen.signal => {
            if sensor.is_some_and(|k| k != g.kind)
                || context.as_ref().is_some_and(|c| !g.context.as_ref().is_some_and(|h| h.contains(c.as_str())))
            {
                return Verdict::NoSay;
            }
            gauge(g, *limit)
        }
        (Condition::Counter { signal, above, per }, Value::Counter { total }) if *signal == seen.signal => {
            Verdict::Counter { total: *total, above: *above, per: *per }
        }
        (
            Condition::Event { .. }
            | Condition::State { .. }
            | Condition::Gauge { .. }
            | Condition::Counter { .. }
            | Condition::Silence { .. },
            _,
        ) => Verdict::NoSay,
    }
}

fn gauge(g: &Gauge, limit: Limit) -> Verdict {
    let l = &g.limits;
    // (lower, upper, the BMC's word that means the same)
    let (low, high, word) = match limit {
        Limit::Caution => (l.lower_caution, l.upper_caution, Some(Health::Warning)),
        Limit::Critical => (l.lower_critical, l.upper_critical, Some(Health::Critical)),
        Limit::Fatal => (l.lower_fatal, l.upper_fatal, None),
        Limit::LowerCritical => (l.lower_critical, None, Some(Health::Critical)),
        // A speed in RPM is not a share: a limit of ours for fans is in percent.
        Limit::Above(_) | Limit::Below(_) if g.kind == SensorKind::Fan && g.unit != Unit::Percent => return Verdict::NoSay,
        Limit::Above(n) => return beyond(g, None, Some(n)),
        Limit::Below(n) => return beyond(g, Some(n), None),
    };
    if low.is_none() && high.is_none() {
        // No limits of its own: the BMC's judgement alone counts (and a sensor with neither has no say).
        return match (g.bmc, word) {
            (Some(said), Some(word)) if said >= word => Verdict::Bad,
            (Some(_), Some(_)) => Verdict::Good,
            (None, _) | (_, None) => Verdict::NoSay,
        };
    }
    let ours = beyond(g, low, high);
    match (ours, g.bmc, word) {
        (Verdict::Bad, Some(Health::Ok), _) => Verdict::Disputed,
        (Verdict::Good, Some(said), Some(word)) if said >= word && word == Health::Critical => Verdict::Disputed,
        (ours, _, _) => ours,
    }
}

/// At or beyond a limit is bad; clear of it by the hysteresis is good.
fn beyond(g: &Gauge, low: Option<f64>, high: Option<f64>) -> Verdict {
    let is_bad = low.is_some_and(|l| g.value <= l) || high.is_some_and(|h| g.value >= h);
    let is_near = low.is_some_and(|l| g.value < l + hysteresis(g, l)) || high.is_some_and(|h| g.value > h - hysteresis(g, h));
    match (is_bad, is_near) {
        (true, _) => Verdict::Bad,
        (false, true) => Verdict::Between,
        (false, false) => Verdict::Good,
    }
}
