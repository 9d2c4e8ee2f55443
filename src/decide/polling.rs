//! When a BMC is asked next, and for what: intervals that keep within its budget, back-off after failures.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::poll::{PollKind, PollState};
use crate::domain::time::Timestamp;

/// IPMI commands that count as one request: one Redfish answer of a chassis' sensors carries what about as many Get Sensor
/// Reading commands do.
pub const IPMI_COMMANDS_PER_REQUEST: f64 = 32.0;
/// A request that takes this long at the 95th percentile is too much for the BMC: everything but power slows down.
const SLOW_REQUEST: Duration = Duration::from_secs(5);
/// At most this many times slower for slowness alone.
const SLOWEST: f64 = 4.0;
/// Shares of the budget that logs, and all the slow walks together, get before sensors take the rest.
const LOG_SHARE: f64 = 0.1;
const WALK_SHARE: f64 = 0.1;
/// After a failure: 10, 20, 40, 80, 160, 320 s, then every 10 min. A BMC that restarts is back within two minutes.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_LONGEST: Duration = Duration::from_secs(600);
/// What a BMC does not offer is asked for again this often: its firmware may have been updated.
const ASK_UNSUPPORTED: Duration = Duration::from_secs(24 * 3600);
/// A value older than this many intervals is stale (C11).
pub const STALE_AFTER: u32 = 3;

/// How often things are asked for when nothing stands against it, and what a BMC is burdened with at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PollSettings {
    pub power: Duration,
    pub sensors: Duration,
    pub logs: Duration,
    pub parts: Duration,
    /// Firmware, BIOS settings and capabilities.
    pub sheet: Duration,
    /// Requests per minute and BMC on average.
    pub budget_per_minute: f64,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self {
            // With a tenth of jitter and an answer of 5 s this is under 90 s.
            power: Duration::from_secs(70),
            sensors: Duration::from_secs(60),
            logs: Duration::from_secs(300),
            parts: Duration::from_secs(300),
            sheet: Duration::from_secs(6 * 3600),
            budget_per_minute: 3.0,
        }
    }
}

impl PollSettings {
    /// The interval while nothing stands against it.
    pub fn wanted(&self, kind: PollKind) -> Duration {
        match kind {
            PollKind::Power => self.power,
            PollKind::Sensors => self.sensors,
            PollKind::Logs => self.logs,
            PollKind::Parts => self.parts,
            PollKind::Firmware | PollKind::Bios | PollKind::Capabilities => self.sheet,
        }
    }
}

/// Requests of one poll before any was made.
fn first_guess(kind: PollKind) -> f64 {
    match kind {
        PollKind::Power => 1.0,
        PollKind::Sensors | PollKind::Logs => 2.0,
        PollKind::Parts => 20.0,
        PollKind::Firmware => 10.0,
        PollKind::Bios | PollKind::Capabilities => 4.0,
    }
}

/// The interval of each kind for one BMC.
///
/// Power comes first and as often as configured. Sensors take what is left of the budget beside a share kept for logs and one
/// for the walks over parts, firmware, BIOS and capabilities; what sensors leave over goes to those again. Whatever does not
/// fit its share comes less often, never incompletely.
pub fn intervals(settings: &PollSettings, states: &BTreeMap<PollKind, PollState>) -> BTreeMap<PollKind, Duration> {
    let slow = slowness(states);
    let offered = |kind: PollKind| states.get(&kind).is_none_or(|s| !s.unsupported);
    let cost = |kind: PollKind| states.get(&kind).and_then(|s| s.cost).unwrap_or_else(|| first_guess(kind)).max(0.01);
    let wanted = |kind: PollKind| match kind {
        PollKind::Power => settings.power,
        other => settings.wanted(other).mul_f64(slow),
    };
    // Requests per minute.
    let rate = |kind: PollKind| if offered(kind) { cost(kind) * 60.0 / wanted(kind).as_secs_f64().max(0.001) } else { 0.0 };
    let budget = settings.budget_per_minute.max(0.01);
    let walks = [PollKind::Parts, PollKind::Firmware, PollKind::Bios, PollKind::Capabilities];
    let walk_rate: f64 = walks.iter().map(|k| rate(*k)).sum();
    let log_floor = rate(PollKind::Logs).min(budget * LOG_SHARE);
    let walk_floor = walk_rate.min(budget * WALK_SHARE);
    let left = (budget - rate(PollKind::Power)).max(budget * 0.05);
    let sensors = rate(PollKind::Sensors).min((left - log_floor - walk_floor).max(left * 0.3));
    let left = (left - sensors).max(0.0);
    let logs = rate(PollKind::Logs).min((left - walk_floor).max(left * 0.5));
    let walk = walk_rate.min((left - logs).max(0.0));
    let stretch = |demand: f64, share: f64| if share > 0.0 { (demand / share).max(1.0) } else { 1.0 };
    PollKind::ALL
        .into_iter()
        .map(|kind| {
            let factor = match kind {
                PollKind::Power => 1.0,
                PollKind::Sensors => stretch(rate(kind), sensors),
                PollKind::Logs => stretch(rate(kind), logs),
                PollKind::Parts | PollKind::Firmware | PollKind::Bios | PollKind::Capabilities => stretch(walk_rate, walk),
            };
            (kind, if offered(kind) { wanted(kind).mul_f64(factor.min(1000.0)) } else { ASK_UNSUPPORTED })
        })
        .collect()
}

/// 1 while requests are quick; grows with the 95th percentile of their time.
fn slowness(states: &BTreeMap<PollKind, PollState>) -> f64 {
    let mut took: Vec<u32> = states.values().flat_map(|s| s.took_ms.iter().copied()).collect();
    took.sort_unstable();
    let Some(p95) = took.get(took.len().saturating_sub(1) * 95 / 100) else { return 1.0 };
    (f64::from(*p95) / SLOW_REQUEST.as_millis() as f64).clamp(1.0, SLOWEST)
}

/// How a poll ended, as far as its next due time goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PollEnd {
    Ok,
    Unsupported,
    /// May pass by itself.
    Failed,
    /// The BMC is not asked before this (refused logins), or until a person changed something.
    Barred {
        until: Timestamp,
    },
}

/// When to ask again. `failures` counts this one; `jitter` is between 0 and 1 and spreads the fleet.
pub fn next_due(kind: PollKind, end: PollEnd, interval: Duration, failures: u32, jitter: f64, now: Timestamp) -> Timestamp {
    let spread = 0.9 + 0.2 * jitter.clamp(0.0, 1.0);
    match end {
        PollEnd::Ok => now.plus(interval.mul_f64(spread)),
        PollEnd::Unsupported => now.plus(ASK_UNSUPPORTED.mul_f64(spread)),
        PollEnd::Failed => {
            let wait = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(RETRY_LONGEST);
            // What is asked for seldom need not be asked for more often because it fails.
            let wait = match kind {
                PollKind::Power | PollKind::Sensors | PollKind::Logs => wait,
                PollKind::Parts | PollKind::Firmware | PollKind::Bios | PollKind::Capabilities => wait.max(interval.min(RETRY_LONGEST) / 2),
            };
            now.plus(wait.mul_f64(spread))
        }
        PollEnd::Barred { until } => until.max(now.plus(RETRY_FIRST)).plus(Duration::from_secs(5).mul_f64(spread)),
    }
}

/// Takes the outcome of a poll into its state. `requests` were counted for it, `took` is the time of the whole poll.
pub fn note(state: &mut PollState, end: PollEnd, fault: Option<String>, requests: f64, took: Duration, now: Timestamp) {
    state.last_try_at = Some(now);
    state.unsupported = end == PollEnd::Unsupported;
    match end {
        PollEnd::Ok | PollEnd::Unsupported => {
            state.last_ok_at = if end == PollEnd::Ok { Some(now) } else { state.last_ok_at };
            state.failures = 0;
            state.fault = None;
            state.silence_said = false;
        }
        PollEnd::Failed | PollEnd::Barred { .. } => {
            state.failures = state.failures.saturating_add(1);
            state.fault = fault;
        }
    }
    // A poll that was barred or cut off says nothing of what one costs.
    if end == PollEnd::Ok && requests > 0.0 {
        state.cost = Some(state.cost.map_or(requests, |old| old * 0.7 + requests * 0.3));
        let each = took.as_millis() as f64 / requests.max(1.0);
        state.took_ms.push(each.min(f64::from(u32::MAX)) as u32);
        let surplus = state.took_ms.len().saturating_sub(PollState::TOOK_KEPT);
        state.took_ms.drain(..surplus);
    }
}

/// Whether what this poll brings is stale: not heard for three intervals, or never.
pub fn is_stale(state: &PollState, wanted: Duration, now: Timestamp) -> bool {
    let interval = Duration::from_secs(state.interval_secs).max(wanted);
    state.last_ok_at.is_none_or(|at| now.since(at) > interval * STALE_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(costs: &[(PollKind, f64)], took_ms: u32) -> BTreeMap<PollKind, PollState> {
        costs
            .iter()
            .map(|(kind, cost)| (*kind, PollState { cost: Some(*cost), took_ms: vec![took_ms; 20], ..PollState::default() }))
            .collect()
    }

    fn per_minute(intervals: &BTreeMap<PollKind, Duration>, costs: &[(PollKind, f64)]) -> f64 {
        costs.iter().map(|(kind, cost)| cost * 60.0 / intervals[kind].as_secs_f64()).sum()
    }

    /// Two GETs for sensors, three for logs, a walk of 60 over the parts.
    const LEGACY: [(PollKind, f64); 7] = [
        (PollKind::Power, 1.0),
        (PollKind::Sensors, 2.0),
        (PollKind::Logs, 3.0),
        (PollKind::Parts, 60.0),
        (PollKind::Firmware, 25.0),
        (PollKind::Bios, 3.0),
        (PollKind::Capabilities, 8.0),
    ];

    #[test]
    fn a_bmc_is_asked_three_times_a_minute_on_average_whatever_its_answers_cost() {
        let settings = PollSettings::default();
        for sensors in [1.0, 2.0, 8.0, 80.0] {
            for parts in [1.0, 10.0, 200.0] {
                let mut costs = LEGACY;
                costs[1].1 = sensors;
                costs[3].1 = parts;
                let got = intervals(&settings, &states(&costs, 300));
                let rate = per_minute(&got, &costs);
                assert!(rate <= 3.001, "{rate} for {sensors} and {parts}");
                assert_eq!(got[&PollKind::Power], settings.power);
            }
        }
    }

    #[test]
    fn what_fits_the_budget_comes_as_often_as_configured() {
        let cheap: Vec<_> = LEGACY.iter().map(|(k, _)| (*k, 1.0)).collect();
        let settings = PollSettings::default();
        let got = intervals(&settings, &states(&cheap, 300));
        for kind in PollKind::ALL {
            assert_eq!(got[&kind], settings.wanted(kind), "{kind}");
        }
    }

    #[test]
    fn a_costly_walk_comes_seldom_and_sensors_hardly_suffer() {
        let got = intervals(&PollSettings::default(), &states(&LEGACY, 300));
        assert!(got[&PollKind::Sensors] <= Duration::from_secs(80), "{:?}", got[&PollKind::Sensors]);
        assert!(got[&PollKind::Parts] > Duration::from_secs(3600), "{:?}", got[&PollKind::Parts]);
    }

    #[test]
    fn a_slow_bmc_is_asked_less_often_but_its_power_state_stays_fresh() {
        let settings = PollSettings::default();
        let quick = intervals(&settings, &states(&[(PollKind::Sensors, 1.0)], 4_900));
        let slow = intervals(&settings, &states(&[(PollKind::Sensors, 1.0)], 10_000));
        assert_eq!(quick[&PollKind::Sensors], Duration::from_secs(60));
        assert_eq!(slow[&PollKind::Sensors], Duration::from_secs(120));
        assert_eq!(slow[&PollKind::Power], settings.power);
    }

    #[test]
    fn power_polls_are_never_ninety_seconds_apart() {
        let now = Timestamp(0);
        let latest = next_due(PollKind::Power, PollEnd::Ok, PollSettings::default().power, 0, 1.0, now);
        assert!(latest.since(now) + Duration::from_secs(5) < Duration::from_secs(90), "{latest}");
    }

    #[test]
    fn failures_are_repeated_ever_later() {
        let now = Timestamp(0);
        let due = |failures| next_due(PollKind::Power, PollEnd::Failed, Duration::from_secs(70), failures, 0.5, now).since(now).as_secs();
        assert_eq!([due(1), due(2), due(3), due(7), due(70)], [10, 20, 40, 600, 600]);
    }

    #[test]
    fn a_paused_login_is_respected() {
        let until = Timestamp(900_000_000);
        let end = PollEnd::Barred { until };
        assert!(next_due(PollKind::Power, end, Duration::from_secs(70), 2, 0.0, Timestamp(0)) > until);
    }

    #[test]
    fn what_is_not_offered_costs_nothing_and_is_asked_for_once_a_day() {
        let mut states = states(&LEGACY, 100);
        states.get_mut(&PollKind::Parts).unwrap().unsupported = true;
        let got = intervals(&PollSettings::default(), &states);
        assert_eq!(got[&PollKind::Parts], ASK_UNSUPPORTED);
        let with_parts = intervals(&PollSettings::default(), &self::states(&LEGACY, 100));
        assert!(got[&PollKind::Firmware] < with_parts[&PollKind::Firmware], "what it does not use goes to the others");
    }

    #[test]
    fn c11_a_value_not_heard_for_three_intervals_is_stale() {
        let wanted = Duration::from_secs(60);
        let mut state = PollState { interval_secs: 60, last_ok_at: Some(Timestamp(0)), ..PollState::default() };
        assert!(!is_stale(&state, wanted, Timestamp(180_000_000)));
        assert!(is_stale(&state, wanted, Timestamp(180_000_001)));
        state.interval_secs = 100;
        assert!(!is_stale(&state, wanted, Timestamp(300_000_000)), "its own interval counts");
        assert!(is_stale(&PollState::default(), wanted, Timestamp(1)), "never heard");
    }
}
