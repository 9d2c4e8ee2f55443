//! Whether a reading can be believed, how old it may get, and where it stands among its thresholds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::polling::STALE_AFTER;
use crate::domain::power::text_form;
use crate::domain::reading::{KnownSensor, Latest, Point, Quality};
use crate::domain::sensor::{Reading, Sensor, SensorKind, Thresholds, Unit};
use crate::domain::time::Timestamp;

/// Nothing in a machine changes its temperature faster (signals, section 5, rule b).
const FASTEST_CELSIUS_PER_SEC: f64 = 20.0;
/// Sensors of one machine that are kept; a BMC that names more is not believed.
pub const MAX_SENSORS: usize = 2048;

/// Where a value stands among the limits of its sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Within all limits that are set.
    Normal,
    Caution,
    Critical,
    Fatal,
}
text_form!(Level { Normal = "normal", Caution = "caution", Critical = "critical", Fatal = "fatal" });

/// Judges a value by the limits alone. `None` when the sensor has no limit: then nothing can be said (defect C2: a sensor
/// without the BMC's own judgement still has its limits; defect C3: `range` is no limit).
pub fn level(thresholds: &Thresholds, value: f64) -> Option<Level> {
    let t = thresholds;
    let below = |limit: Option<f64>| limit.is_some_and(|l| value <= l);
    let above = |limit: Option<f64>| limit.is_some_and(|l| value >= l);
    if below(t.lower_fatal) || above(t.upper_fatal) {
        return Some(Level::Fatal);
    }
    if below(t.lower_critical) || above(t.upper_critical) {
        return Some(Level::Critical);
    }
    if below(t.lower_caution) || above(t.upper_caution) {
        return Some(Level::Caution);
    }
    let any = [t.lower_caution, t.lower_critical, t.lower_fatal, t.upper_caution, t.upper_critical, t.upper_fatal];
    any.iter().any(Option::is_some).then_some(Level::Normal)
}

/// Whether a number can be what the sensor says it is; `Err` is why not.
fn plausible(sensor: &Sensor, value: f64, before: Option<(f64, Timestamp)>, now: Timestamp) -> Result<(), String> {
    let unit = sensor.unit.symbol();
    if !value.is_finite() {
        return Err(format!("{value} is no number"));
    }
    if let (Some(low), Some(high)) = sensor.range
        && low < high
        && !(low..=high).contains(&value)
    {
        return Err(format!("{value}{unit} is outside of what the sensor can give ({low} to {high})"));
    }
    let possible = match (sensor.kind, sensor.unit) {
        (SensorKind::Temperature, Unit::Celsius) => (-90.0..=400.0).contains(&value),
        (SensorKind::Fan, _) => value >= 0.0,
        (SensorKind::Humidity, Unit::Percent) => (0.0..=100.0).contains(&value),
        _ => true,
    };
    if !possible {
        return Err(format!("{value}{unit} cannot be"));
    }
    if let Some((old, at)) = before
        && sensor.kind == SensorKind::Temperature
    {
        let secs = now.since(at).as_secs_f64().max(1.0);
        if (value - old).abs() / secs > FASTEST_CELSIUS_PER_SEC {
            return Err(format!("{value}{unit} after {old}{unit} {secs:.0} s before is faster than anything real"));
        }
    }
    Ok(())
}

/// What one poll of a machine's sensors makes of what was known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// All sensors, those that the BMC left out this time included.
    pub known: Vec<KnownSensor>,
    /// A definition is new or changed: `known` is to be written.
    pub redefined: bool,
    pub latest: Vec<Latest>,
    /// What goes into the samples: sensors the BMC left out have none.
    pub points: Vec<(u32, Point)>,
    /// Sensors that turned implausible with this poll, for the evidence.
    pub disbelieved: Vec<u32>,
}

/// Takes a poll's answer in. A sensor that is missing from it keeps its last value, which ages (C1).
pub fn take(known: &[KnownSensor], latest: &[Latest], seen: Vec<Sensor>, now: Timestamp) -> Taken {
    let mut out = Taken { known: known.to_vec(), ..Taken::default() };
    let by_id: HashMap<String, usize> = known.iter().enumerate().map(|(i, k)| (k.sensor.id.clone(), i)).collect();
    let mut kept: BTreeMap<u32, Latest> = latest.iter().map(|l| (l.number, l.clone())).collect();
    let mut next = known.iter().map(|k| k.number + 1).max().unwrap_or(1);
    let mut named = HashSet::new();
    for sensor in seen {
        // A BMC that names one sensor twice: the first counts.
        if !named.insert(sensor.id.clone()) {
            continue;
        }
        let place = by_id.get(&sensor.id).copied();
        let number = match place.and_then(|i| out.known.get_mut(i)) {
            Some(k) => {
                if is_redefined(&k.sensor, &sensor) {
                    k.sensor = sensor.clone();
                    out.redefined = true;
                }
                k.number
            }
            None => {
                if out.known.len() >= MAX_SENSORS {
                    continue;
                }
                out.known.push(KnownSensor { number: next, sensor: sensor.clone(), first_at: now });
                out.redefined = true;
                next += 1;
                next - 1
            }
        };
        let (fresh, point) = judge(number, &sensor, kept.get(&number), now);
        if fresh.quality == Quality::Implausible && kept.get(&number).is_none_or(|l| l.quality != Quality::Implausible) {
            out.disbelieved.push(number);
        }
        kept.insert(number, fresh);
        out.points.push((number, point));
    }
    out.latest = kept.into_values().collect();
    out
}

fn is_redefined(old: &Sensor, new: &Sensor) -> bool {
    let plain = |s: &Sensor| Sensor { reading: Reading::Number { value: 0.0 }, health: None, ..s.clone() };
    plain(old) != plain(new)
}

fn judge(number: u32, sensor: &Sensor, before: Option<&Latest>, now: Timestamp) -> (Latest, Point) {
    let mut latest = Latest {
        number,
        value: before.and_then(|b| b.value),
        words: before.map(|b| b.words.clone()).unwrap_or_default(),
        offsets: before.and_then(|b| b.offsets),
        at: before.and_then(|b| b.at),
        named_at: now,
        quality: Quality::Good,
        health: sensor.health,
        why: None,
    };
    let point = match &sensor.reading {
        Reading::Number { value } => match plausible(sensor, *value, latest.value.zip(latest.at), now) {
            Ok(()) => {
                (latest.value, latest.at) = (Some(*value), Some(now));
                Point::Good(*value)
            }
            Err(why) => {
                (latest.quality, latest.why) = (Quality::Implausible, Some(why));
                if value.is_finite() { Point::Implausible(*value) } else { Point::Absent }
            }
        },
        Reading::States { words, offsets } => {
            latest.words.clone_from(words);
            (latest.offsets, latest.at) = (Some(*offsets), Some(now));
            Point::Good(f64::from(*offsets))
        }
        Reading::Unavailable { why } => {
            (latest.quality, latest.why) = (Quality::Unavailable, Some(why.clone()));
            Point::Absent
        }
    };
    (latest, point)
}

/// The quality now. What was good gets stale when the BMC did not name the sensor for three intervals (C1, C11); what was
/// not good never turns good by waiting.
pub fn aged(latest: &Latest, interval: Duration, now: Timestamp) -> Quality {
    match latest.quality {
        Quality::Good | Quality::Stale | Quality::Unavailable | Quality::Implausible
            if now.since(latest.named_at) > interval * STALE_AFTER =>
        {
            Quality::Stale
        }
        quality => quality,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(secs: i64) -> Timestamp {
        Timestamp(secs * 1_000_000)
    }

    fn temperature(id: &str, reading: Reading) -> Sensor {
        Sensor {
            id: id.to_owned(),
            name: format!("{id} Temp"),
            kind: SensorKind::Temperature,
            unit: Unit::Celsius,
            reading,
            thresholds: Thresholds { upper_critical: Some(90.0), ..Thresholds::default() },
            range: (None, None),
            context: None,
            health: None,
            hysteresis: None,
            source: format!("/redfish/v1/{id}"),
        }
    }

    fn number(value: f64) -> Reading {
        Reading::Number { value }
    }

    #[test]
    fn c1_a_sensor_that_is_missing_from_an_answer_keeps_its_value_and_gets_stale() {
        let first = take(&[], &[], vec![temperature("a", number(95.0)), temperature("b", number(40.0))], at(0));
        let second = take(&first.known, &first.latest, vec![temperature("b", number(41.0))], at(60));
        let hot = &second.latest[0];
        assert_eq!((hot.value, hot.at, second.latest.len()), (Some(95.0), Some(at(0)), 2));
        assert_eq!(aged(hot, MINUTE, at(180)), Quality::Good);
        assert_eq!(aged(hot, MINUTE, at(181)), Quality::Stale);
        assert_eq!(second.points, [(2, Point::Good(41.0))]);
    }

    #[test]
    fn c1_a_reading_that_is_unavailable_is_neither_zero_nor_health() {
        let first = take(&[], &[], vec![temperature("a", number(95.0))], at(0));
        let gone = Reading::Unavailable { why: "scanning is off".to_owned() };
        let second = take(&first.known, &first.latest, vec![temperature("a", gone)], at(60));
        assert_eq!((second.latest[0].value, second.latest[0].quality), (Some(95.0), Quality::Unavailable));
        assert_eq!(second.points, [(1, Point::Absent)]);
        assert!(!second.redefined);
    }

    #[test]
    fn c2_limits_count_without_the_bmcs_own_judgement() {
        let sensor = temperature("a", number(91.0));
        assert_eq!((sensor.health, level(&sensor.thresholds, 91.0)), (None, Some(Level::Critical)));
        assert_eq!(level(&Thresholds::default(), 91.0), None, "without limits nothing is said");
    }

    #[test]
    fn c3_every_limit_is_read_from_its_own_field() {
        let none = Thresholds::default;
        for (thresholds, tripped, free, expected) in [
            (Thresholds { lower_caution: Some(10.0), ..none() }, 10.0, 10.5, Level::Caution),
            (Thresholds { lower_critical: Some(10.0), ..none() }, 10.0, 10.5, Level::Critical),
            (Thresholds { lower_fatal: Some(10.0), ..none() }, 10.0, 10.5, Level::Fatal),
            (Thresholds { upper_caution: Some(10.0), ..none() }, 10.0, 9.5, Level::Caution),
            (Thresholds { upper_critical: Some(10.0), ..none() }, 10.0, 9.5, Level::Critical),
            (Thresholds { upper_fatal: Some(10.0), ..none() }, 10.0, 9.5, Level::Fatal),
        ] {
            assert_eq!(level(&thresholds, tripped), Some(expected));
            assert_eq!(level(&thresholds, free), Some(Level::Normal));
        }
    }

    #[test]
    fn c3_a_reading_at_the_end_of_its_range_is_believed() {
        let mut parked = temperature("fan", number(0.0));
        (parked.kind, parked.unit, parked.range) = (SensorKind::Fan, Unit::Rpm, (Some(0.0), Some(20_000.0)));
        parked.thresholds = Thresholds::default();
        let taken = take(&[], &[], vec![parked], at(0));
        assert_eq!(taken.latest[0].quality, Quality::Good);
    }

    #[test]
    fn what_no_sensor_can_give_is_implausible_and_the_last_good_value_stays() {
        let mut known = take(&[], &[], vec![temperature("a", number(40.0))], at(0));
        for (n, wrong) in [(1, 4000.0), (2, f64::NAN), (3, -273.2)] {
            let taken = take(&known.known, &known.latest, vec![temperature("a", number(wrong))], at(n));
            assert_eq!((taken.latest[0].quality, taken.latest[0].value), (Quality::Implausible, Some(40.0)), "{wrong}");
            assert!(taken.latest[0].why.is_some());
            known.latest = taken.latest;
        }
        let mut ranged = temperature("r", number(130.0));
        ranged.range = (Some(0.0), Some(125.0));
        assert_eq!(take(&[], &[], vec![ranged], at(0)).latest[0].quality, Quality::Implausible);
    }

    #[test]
    fn a_temperature_that_jumps_is_implausible_and_one_that_climbs_is_not() {
        let cool = take(&[], &[], vec![temperature("a", number(30.0))], at(0));
        let jumped = take(&cool.known, &cool.latest, vec![temperature("a", number(95.0))], at(2));
        assert_eq!(jumped.latest[0].quality, Quality::Implausible);
        let climbed = take(&cool.known, &cool.latest, vec![temperature("a", number(95.0))], at(60));
        assert_eq!(climbed.latest[0].quality, Quality::Good);
    }

    #[test]
    fn a_sensor_named_twice_counts_once_and_numbers_are_lasting() {
        let first = take(&[], &[], vec![temperature("a", number(1.0)), temperature("a", number(2.0))], at(0));
        assert_eq!((first.known.len(), first.latest[0].value), (1, Some(1.0)));
        let second = take(&first.known, &first.latest, vec![temperature("b", number(3.0)), temperature("a", number(4.0))], at(60));
        let numbers: Vec<_> = second.known.iter().map(|k| (k.sensor.id.as_str(), k.number)).collect();
        assert_eq!(numbers, [("a", 1), ("b", 2)]);
    }
}
