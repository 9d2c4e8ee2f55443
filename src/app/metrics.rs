//! Metrics for Prometheus (text format 0.0.4). Series follow the inventory: a machine whose BMC is silent has its series, and
//! they say so, instead of being absent.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use crate::app::{App, Result, need};
use crate::clock;
use crate::decide::polling::is_stale;
use crate::decide::quality::aged;
use crate::domain::access::{Actor, Role};
use crate::domain::id::MachineId;
use crate::domain::machine::Machine;
use crate::domain::poll::{PollKind, PollState};
use crate::domain::power::PowerState;
use crate::domain::reading::{KnownSensor, Latest, Quality};
use crate::domain::sensor::{SensorKind, Unit};
use crate::domain::time::Timestamp;
use crate::engine::collect::count::{BUCKETS, Outcome};
use crate::store::sheets::{Sheet, hour_of};

/// Sensors of one machine that get series; the rest is counted.
const SENSORS_PER_MACHINE: usize = 256;
/// Longest sensor name in a label.
const MAX_LABEL: usize = 120;

/// Which machines to export.
#[derive(Clone, Debug, Default)]
pub struct MachineMetricsFilter {
    pub rack: Option<String>,
    pub machine: Option<String>,
}

/// Text in the making, one family after the other.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.push(format_args!("{name}{labels} {}", number(value)));
    }

    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        if self.0.write_fmt(line).is_ok() {
            self.0.push('\n');
        }
    }
}

fn number(value: f64) -> String {
    if value.is_nan() { "NaN".to_owned() } else { format!("{value}") }
}

/// A label's value: untrusted text cannot end it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().take(MAX_LABEL) {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(f64::NAN)
}

impl App {
    /// Metrics of the fleet: few series, however many machines there are.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn fleet_metrics(&self, actor: &Actor) -> Result<String> {
        need(actor, Role::Viewer)?;
        let now = clock::now();
        let mut page = Page::default();
        page.family("hostler_machines", "gauge", "Machines by lifecycle state.");
        for (state, count) in self.count_by_lifecycle().await? {
            page.sample("hostler_machines", &[("state", &state.to_string())], count as f64);
        }
        page.family("hostler_build_info", "gauge", "The running program.");
        page.sample("hostler_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        let machines = self.store().machines().await?;
        let polls = self.store().all_polls().await?;
        self.bmc_states(&mut page, &machines, &polls, now);
        self.poll_counters(&mut page);
        let (samples, rollups) = self.store().sample_bytes().await?;
        page.family("hostler_sample_bytes", "gauge", "Bytes of sensor history in the database.");
        page.sample("hostler_sample_bytes", &[("of", "samples")], samples as f64);
        page.sample("hostler_sample_bytes", &[("of", "rollups")], rollups as f64);
        Ok(page.0)
    }

    fn bmc_states(&self, page: &mut Page, machines: &[Machine], polls: &HashMap<MachineId, BTreeMap<PollKind, PollState>>, now: Timestamp) {
        let mut counts = BTreeMap::from([("answering", 0), ("silent", 0), ("barred", 0), ("not_asked", 0), ("unknown", 0)]);
        for m in machines {
            let power = polls.get(&m.id).and_then(|p| p.get(&PollKind::Power));
            let word = match (&m.bmc, power) {
                (None, _) => "unknown",
                (Some(b), _) if b.paused_until.is_some_and(|until| until > now) => "barred",
                (Some(_), None) => "not_asked",
                (Some(_), Some(p)) if p.failures > 0 || is_stale(p, self.settings().polls.power, now) => "silent",
                (Some(_), Some(_)) => "answering",
            };
            *counts.entry(word).or_default() += 1;
        }
        page.family("hostler_bmcs", "gauge", "BMCs by how they answer; unknown: no BMC is known for the machine.");
        for (word, count) in counts {
            page.sample("hostler_bmcs", &[("state", word)], f64::from(count));
        }
        page.family("hostler_bmc_stale", "gauge", "Machines whose last good answer is older than three intervals, or that never gave one.");
        page.family(
            "hostler_bmc_answer_age_seconds",
            "gauge",
            "Age of the last good answer over all polled BMCs; those that never answered are in hostler_bmc_stale only.",
        );
        for kind in PollKind::ALL {
            let word = kind.to_string();
            let states: Vec<&PollState> = polls.values().filter_map(|p| p.get(&kind)).filter(|s| !s.unsupported).collect();
            let stale = states.iter().filter(|s| is_stale(s, self.settings().polls.wanted(kind), now)).count();
            page.sample("hostler_bmc_stale", &[("kind", &word)], stale as f64);
            let mut ages: Vec<f64> = states.iter().filter_map(|s| s.last_ok_at).map(|at| now.since(at).as_secs_f64()).collect();
            ages.sort_by(f64::total_cmp);
            for (quantile, percent) in [("0.5", 50), ("0.99", 99), ("1", 100)] {
                page.sample("hostler_bmc_answer_age_seconds", &[("kind", &word), ("quantile", quantile)], percentile(&ages, percent));
            }
        }
    }

    fn poll_counters(&self, page: &mut Page) {
        let counters = &self.inner.engine.counters;
        page.family("hostler_bmc_polls_total", "counter", "Polls of BMCs by this process.");
        for kind in PollKind::ALL {
            for outcome in Outcome::ALL {
                let count = counters.of(kind).outcome(outcome) as f64;
                page.sample("hostler_bmc_polls_total", &[("kind", &kind.to_string()), ("outcome", outcome.word())], count);
            }
        }
        let (requests, commands) = counters.sent();
        page.family("hostler_bmc_requests_total", "counter", "HTTP requests and IPMI commands sent to BMCs by this process.");
        page.sample("hostler_bmc_requests_total", &[("protocol", "redfish")], requests as f64);
        page.sample("hostler_bmc_requests_total", &[("protocol", "ipmi")], commands as f64);
        page.family("hostler_bmc_poll_duration_seconds", "histogram", "How long polls of BMCs took.");
        for kind in PollKind::ALL {
            let (count, kind) = (counters.of(kind), kind.to_string());
            let durations = count.durations();
            for (end, number) in BUCKETS.iter().zip(durations) {
                page.sample("hostler_bmc_poll_duration_seconds_bucket", &[("kind", &kind), ("le", &end.to_string())], number as f64);
            }
            let all = durations.last().copied().unwrap_or(0) as f64;
            page.sample("hostler_bmc_poll_duration_seconds_bucket", &[("kind", &kind), ("le", "+Inf")], all);
            page.sample("hostler_bmc_poll_duration_seconds_sum", &[("kind", &kind)], count.seconds());
            page.sample("hostler_bmc_poll_duration_seconds_count", &[("kind", &kind)], all);
        }
    }

    /// Metrics of each machine and its sensors.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn machine_metrics(&self, actor: &Actor, filter: &MachineMetricsFilter) -> Result<String> {
        need(actor, Role::Viewer)?;
        let now = clock::now();
        let mut machines = self.store().machines().await?;
        machines.retain(|m| {
            filter.rack.as_deref().is_none_or(|r| m.place.as_ref().is_some_and(|p| p.rack.as_str().eq_ignore_ascii_case(r)))
                && filter.machine.as_deref().is_none_or(|n| m.name.as_str() == n || m.id.to_string() == n)
        });
        let polls = self.store().all_polls().await?;
        let traffic: HashMap<MachineId, _> = self.store().traffic_in(hour_of(now) - 1).await?.into_iter().collect();
        let mut page = Page::default();
        page.family("hostler_machine_info", "gauge", "What a machine is.");
        for m in &machines {
            let (serial, rack) = (
                m.serial.as_ref().map(ToString::to_string).unwrap_or_default(),
                m.place.as_ref().map(|p| p.rack.as_str().to_owned()).unwrap_or_default(),
            );
            let state = m.lifecycle.to_string();
            page.sample(
                "hostler_machine_info",
                &[("machine", m.name.as_str()), ("serial", &serial), ("rack", &rack), ("state", &state)],
                1.0,
            );
        }
        page.family("hostler_bmc_up", "gauge", "1: the BMC answered within three intervals. 0: it did not, or no BMC is known.");
        page.family("hostler_machine_power_on", "gauge", "1 on, 0 off, NaN when the BMC did not say within three intervals.");
        page.family("hostler_bmc_answer_timestamp_seconds", "gauge", "Last good answer about power; 0 when there was none.");
        page.family("hostler_bmc_requests_last_hour", "gauge", "HTTP requests and IPMI commands in the last whole hour.");
        for m in &machines {
            let name = m.name.as_str();
            let power = polls.get(&m.id).and_then(|p| p.get(&PollKind::Power));
            let fresh = power.is_some_and(|p| !is_stale(p, self.settings().polls.power, now));
            page.sample("hostler_bmc_up", &[("machine", name)], f64::from(u8::from(fresh)));
            let on = match m.bmc.as_ref().and_then(|b| b.power).filter(|_| fresh) {
                Some(PowerState::On) => 1.0,
                Some(PowerState::Off) => 0.0,
                Some(PowerState::Changing) | None => f64::NAN,
            };
            page.sample("hostler_machine_power_on", &[("machine", name)], on);
            let at = power.and_then(|p| p.last_ok_at).map_or(0.0, |at| at.unix_secs() as f64);
            page.sample("hostler_bmc_answer_timestamp_seconds", &[("machine", name)], at);
            let asked = traffic.get(&m.id).copied().unwrap_or_default();
            page.sample("hostler_bmc_requests_last_hour", &[("machine", name), ("protocol", "redfish")], asked.requests as f64);
            page.sample("hostler_bmc_requests_last_hour", &[("machine", name), ("protocol", "ipmi")], asked.commands as f64);
        }
        self.sensor_series(&mut page, &machines, &polls, now).await?;
        Ok(page.0)
    }

    async fn sensor_series(
        &self,
        page: &mut Page,
        machines: &[Machine],
        polls: &HashMap<MachineId, BTreeMap<PollKind, PollState>>,
        now: Timestamp,
    ) -> Result<()> {
        let known: HashMap<MachineId, Vec<KnownSensor>> =
            self.store().sheets(Sheet::Sensors).await?.into_iter().map(|(id, known, _)| (id, known)).collect();
        let latest: HashMap<MachineId, Vec<Latest>> =
            self.store().sheets(Sheet::Readings).await?.into_iter().map(|(id, latest, _)| (id, latest)).collect();
        let mut families: BTreeMap<&str, Vec<(String, String, u32, f64)>> = BTreeMap::new();
        let mut good = Vec::new();
        let mut left_out = Vec::new();
        for m in machines {
            let Some(known) = known.get(&m.id) else { continue };
            let state = polls.get(&m.id).and_then(|p| p.get(&PollKind::Sensors));
            let wanted = self.settings().polls.sensors;
            let interval = state.map_or(wanted, |s| Duration::from_secs(s.interval_secs).max(wanted));
            let readings: HashMap<u32, &Latest> = latest.get(&m.id).into_iter().flatten().map(|l| (l.number, l)).collect();
            for k in known.iter().take(SENSORS_PER_MACHINE) {
                let reading = readings.get(&k.number);
                let quality = reading.map_or(Quality::Unavailable, |l| aged(l, interval, now));
                let is_good = quality == Quality::Good;
                let label = (m.name.to_string(), k.sensor.name.clone(), k.number);
                if let Some(family) = family_of(k.sensor.kind, k.sensor.unit) {
                    // Silence is not health, and an old value is not a value.
                    let value = reading.and_then(|l| l.value).filter(|_| is_good).unwrap_or(f64::NAN);
                    families.entry(family).or_default().push((label.0.clone(), label.1.clone(), label.2, value));
                }
                good.push((label.0, label.1, label.2, f64::from(u8::from(is_good))));
            }
            if known.len() > SENSORS_PER_MACHINE {
                left_out.push((m.name.to_string(), known.len() - SENSORS_PER_MACHINE));
            }
        }
        let mut put = |name: &str, help: &str, rows: Vec<(String, String, u32, f64)>| {
            page.family(name, "gauge", help);
            for (machine, sensor, number, value) in rows {
                let id = number.to_string();
                page.sample(name, &[("machine", &machine), ("sensor", &sensor), ("id", &id)], value);
            }
        };
        put(
            "hostler_hw_sensor_good",
            "1 when the sensor's value can be believed now; 0 when it is stale, unavailable or implausible.",
            good,
        );
        for (family, rows) in families {
            put(family, "A sensor's value; NaN when it cannot be believed now.", rows);
        }
        page.family("hostler_hw_sensors_left_out", "gauge", "Sensors beyond the bound of series for one machine.");
        for (machine, count) in left_out {
            page.sample("hostler_hw_sensors_left_out", &[("machine", &machine)], count as f64);
        }
        Ok(())
    }
}

fn family_of(kind: SensorKind, unit: Unit) -> Option<&'static str> {
    match (kind, unit) {
        (SensorKind::Temperature, Unit::Celsius) => Some("hostler_hw_temperature_celsius"),
        (SensorKind::Fan, Unit::Rpm) => Some("hostler_hw_fan_speed_rpm"),
        (SensorKind::Fan, Unit::Percent) => Some("hostler_hw_fan_speed_percent"),
        (SensorKind::Power, Unit::Watt) => Some("hostler_hw_power_watts"),
        (SensorKind::Voltage, Unit::Volt) => Some("hostler_hw_voltage_volts"),
        (SensorKind::Current, Unit::Ampere) => Some("hostler_hw_current_amperes"),
        (SensorKind::Energy, Unit::Joule) => Some("hostler_hw_energy_joules"),
        (SensorKind::Humidity, Unit::Percent) => Some("hostler_hw_humidity_percent"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_be_ended_by_a_sensors_name() {
        let mut page = Page::default();
        page.sample("x", &[("sensor", "a\"} 1\nhostler_machines{state=\"x\\")], 1.0);
        assert_eq!(page.0, "x{sensor=\"a\\\"} 1\\nhostler_machines{state=\\\"x\\\\\"} 1\n");
    }

    #[test]
    fn no_ages_have_no_percentile() {
        assert!(percentile(&[], 99).is_nan());
        assert_eq!((percentile(&[1.0, 2.0, 3.0], 100), percentile(&[1.0, 2.0, 3.0], 50)), (3.0, 2.0));
    }
}
