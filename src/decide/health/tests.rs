use super::*;
use crate::decide::policy::default_policy;
use crate::domain::observation::{Anchor, Gauge, LoggedEvent};
use crate::domain::sensor::{Health, SensorKind, Thresholds, Unit};

fn rules() -> Rules {
    Rules::of(default_policy().unwrap())
}

fn at(secs: i64) -> Timestamp {
    Timestamp((1_790_000_000 + secs) * 1_000_000)
}

fn part(family: Family, name: &str) -> Component {
    Component { family, anchor: Anchor::Source(name.into()), name: name.into(), place: None }
}

fn see(component: Component, signal: Signal, value: Value, secs: i64) -> Observation {
    Observation {
        machine: MachineId(uuid::Uuid::from_u128(1)),
        component,
        signal,
        value,
        source: Source::RedfishPoll,
        observed_at: None,
        received_at: at(secs),
        clock_offset_secs: None,
        quality: Quality::Good,
        evidence: Sha256([1; 32]),
        read_at: "x".into(),
    }
}

fn state(family: Family, signal: Signal, word: &str, secs: i64) -> Observation {
    see(part(family, "p1"), signal, Value::State { word: word.into() }, secs)
}

fn temp(value: f64, bmc: Option<Health>, secs: i64) -> Observation {
    let limits = Thresholds { upper_caution: Some(80.0), upper_critical: Some(95.0), upper_fatal: Some(105.0), ..Thresholds::default() };
    let g = Gauge { kind: SensorKind::Temperature, value, unit: Unit::Celsius, limits, hysteresis: None, context: Some("cpu".into()), bmc };
    see(part(Family::Temperature, "t1"), Signal::Reading, Value::Gauge(Box::new(g)), secs)
}

fn event(code: &str, family: Family, record: &str, direction: LogDirection, secs: i64) -> Observation {
    let e =
        LoggedEvent { code: code.into(), direction, log: "sel".into(), epoch: "1".into(), record: record.into(), content: Sha256([2; 32]) };
    see(part(family, "p1"), Signal::Health, Value::Event(Box::new(e)), secs)
}

fn beat(signal: Signal, secs: i64) -> Observation {
    see(Component::whole_machine(Family::System), signal, Value::Beat, secs)
}

struct Bench {
    rules: Rules,
    watch: Watch,
    said: Vec<(String, Change)>,
}

impl Bench {
    fn new() -> Self {
        Self { rules: rules(), watch: Watch::new(MachineId(uuid::Uuid::from_u128(1))), said: Vec::new() }
    }

    fn feed(&mut self, o: &Observation) -> &mut Self {
        let found = observe(&mut self.watch, &self.rules, o);
        self.said.extend(found.into_iter().map(|f| (f.rule, f.change)));
        self
    }

    fn tick(&mut self, secs: i64) -> &mut Self {
        let found = tick(&mut self.watch, &self.rules, at(secs));
        self.said.extend(found.into_iter().map(|f| (f.rule, f.change)));
        self
    }

    fn heard(&self, rule: &str) -> Vec<Change> {
        self.said.iter().filter(|(r, _)| r == rule).map(|(_, c)| *c).collect()
    }
}

#[test]
fn one_bad_sample_is_a_suspicion_and_not_a_finding() {
    let mut b = Bench::new();
    b.feed(&temp(97.0, Some(Health::Critical), 0));
    for n in 1..6 {
        b.feed(&temp(60.0, Some(Health::Ok), n * 60));
    }
    assert_eq!(b.heard("temperature-critical"), [Change::Suspect, Change::Dropped]);
}

#[test]
fn two_of_three_critical_samples_raise_and_five_good_ones_clear() {
    let mut b = Bench::new();
    b.feed(&temp(97.0, None, 0)).feed(&temp(60.0, None, 60)).feed(&temp(97.0, None, 120));
    assert_eq!(b.heard("temperature-critical"), [Change::Suspect, Change::Raised]);
    for n in 0..4 {
        b.feed(&temp(60.0, None, 180 + n * 60));
    }
    assert!(!b.heard("temperature-critical").contains(&Change::Cleared));
    b.feed(&temp(60.0, None, 500));
    assert_eq!(b.heard("temperature-critical").last(), Some(&Change::Cleared));
}

#[test]
fn inside_the_hysteresis_nothing_clears() {
    let mut b = Bench::new();
    b.feed(&temp(97.0, None, 0)).feed(&temp(97.0, None, 60));
    for n in 0..20 {
        b.feed(&temp(93.0, None, 120 + n * 60));
    }
    assert!(!b.heard("temperature-critical").contains(&Change::Cleared));
}

#[test]
fn limits_and_the_bmc_that_disagree_are_disputed() {
    let mut b = Bench::new();
    b.feed(&temp(97.0, Some(Health::Ok), 0)).feed(&temp(97.0, Some(Health::Ok), 60));
    let t = b.watch.trackers.values().find(|t| t.rule == "temperature-critical").unwrap();
    assert!(t.disputed && t.phase == Phase::Raised);
}

#[test]
fn each_limit_is_read_from_its_own_field() {
    for (limits, value, rule) in [
        (Thresholds { upper_caution: Some(50.0), ..Thresholds::default() }, 55.0, "temperature-caution"),
        (Thresholds { lower_caution: Some(5.0), ..Thresholds::default() }, 4.0, "temperature-caution"),
        (Thresholds { upper_critical: Some(50.0), ..Thresholds::default() }, 55.0, "temperature-critical"),
        (Thresholds { lower_critical: Some(5.0), ..Thresholds::default() }, 4.0, "temperature-critical"),
        (Thresholds { upper_fatal: Some(50.0), ..Thresholds::default() }, 55.0, "thermal-trip"),
        (Thresholds { lower_fatal: Some(5.0), ..Thresholds::default() }, 4.0, "thermal-trip"),
    ] {
        let mut b = Bench::new();
        for n in 0..5 {
            let mut o = temp(value, None, n * 60);
            if let Value::Gauge(g) = &mut o.value {
                g.limits = limits;
            }
            b.feed(&o);
        }
        let raised: Vec<&str> = b.said.iter().filter(|(_, c)| *c == Change::Raised).map(|(r, _)| r.as_str()).collect();
        assert_eq!(raised, [rule], "{limits:?}");
    }
}

#[test]
fn c12_a_state_is_read_twice_and_its_start_never_moves() {
    let mut b = Bench::new();
    let first = observe(&mut b.watch, &b.rules, &state(Family::PowerSupply, Signal::Health, "critical", 0));
    let suspect = first.iter().find(|f| f.rule == "psu-failed").unwrap();
    assert_eq!((suspect.change, suspect.reread), (Change::Suspect, Some(Duration::from_secs(2))));
    for n in 1..200 {
        for f in observe(&mut b.watch, &b.rules, &state(Family::PowerSupply, Signal::Health, "critical", n * 60)) {
            assert_eq!(f.since, at(0), "an alert's start is not the last report's time");
        }
    }
}

#[test]
fn a_reading_that_fails_or_stops_is_unknown_and_never_heals() {
    let mut b = Bench::new();
    b.feed(&state(Family::PowerSupply, Signal::Health, "critical", 0));
    b.feed(&state(Family::PowerSupply, Signal::Health, "critical", 2));
    b.feed(&see(part(Family::PowerSupply, "p1"), Signal::Health, Value::Missing { why: "timeout".into() }, 60));
    b.feed(&beat(Signal::BmcAnswers, 600)).tick(600).tick(90_000);
    assert_eq!(b.heard("psu-failed"), [Change::Suspect, Change::Raised, Change::Unknown]);
    assert_eq!(b.watch.state_of(Family::PowerSupply), Signals::Unknown);
    b.feed(&state(Family::PowerSupply, Signal::Health, "ok", 90_060));
    assert_eq!(b.watch.state_of(Family::PowerSupply), Signals::Bad, "one good read is not two");
    b.feed(&state(Family::PowerSupply, Signal::Health, "ok", 90_120));
    assert_eq!(b.watch.state_of(Family::PowerSupply), Signals::Good);
}

#[test]
fn the_same_log_entry_read_again_is_one_event_and_a_new_life_of_the_log_is_not() {
    let mut b = Bench::new();
    for n in 0..30 {
        b.feed(&event("ipmi:07/0c", Family::Cpu, "5", LogDirection::Asserted, n * 60));
    }
    assert_eq!(b.heard("cpu-corrected"), [Change::Suspect]);
    for n in 0..17 {
        b.feed(&event("ipmi:07/0c", Family::Cpu, &format!("{}", 6 + n), LogDirection::Asserted, 2000 + n));
    }
    assert_eq!(b.heard("cpu-corrected").last(), Some(&Change::Raised));
    let mut cleared = event("ipmi:07/0c", Family::Cpu, "5", LogDirection::Asserted, 3000);
    if let Value::Event(e) = &mut cleared.value {
        e.epoch = "2".into();
    }
    b.feed(&cleared);
    assert_eq!(b.heard("cpu-corrected").last(), Some(&Change::StillBad));
}

#[test]
fn c5_a_log_entry_is_evidence_and_changes_health_by_itself() {
    let mut b = Bench::new();
    b.feed(&event("ipmi:0c/01", Family::Memory, "1", LogDirection::Asserted, 0));
    assert_eq!(b.heard("mem-ue"), [Change::Raised], "no reading said so, and none is needed");
    b.tick(86_400 * 3);
    assert!(!b.heard("mem-ue").contains(&Change::Cleared), "and silence after it is no health");
    let mut quiet = Bench::new();
    quiet.feed(&event("ipmi:0c/06", Family::Memory, "1", LogDirection::Asserted, 0));
    assert_eq!(quiet.heard("mem-ue"), [], "a presence is no failure");
}

#[test]
fn a_log_assertion_that_the_part_denies_twice_is_history() {
    let mut b = Bench::new();
    b.feed(&event("ipmi:08/01", Family::PowerSupply, "1", LogDirection::Asserted, 0));
    b.feed(&state(Family::PowerSupply, Signal::Health, "ok", 60));
    assert_eq!(b.heard("psu-failed"), [Change::Raised]);
    b.feed(&state(Family::PowerSupply, Signal::Health, "ok", 120));
    assert_eq!(b.heard("psu-failed"), [Change::Raised, Change::Historical]);
}

#[test]
fn a_deassertion_ends_lost_input_and_does_not_undo_a_memory_error() {
    let mut b = Bench::new();
    b.feed(&event("ipmi:08/03", Family::PowerSupply, "1", LogDirection::Asserted, 0));
    b.feed(&event("ipmi:08/03", Family::PowerSupply, "2", LogDirection::Deasserted, 30));
    assert_eq!(b.heard("psu-input-lost"), [Change::Raised, Change::Cleared]);
    b.feed(&event("ipmi:0c/01", Family::Memory, "3", LogDirection::Asserted, 60));
    b.feed(&event("ipmi:0c/01", Family::Memory, "4", LogDirection::Deasserted, 61));
    assert_eq!(b.heard("mem-ue"), [Change::Raised]);
}

#[test]
fn a_week_without_events_counts_only_while_the_log_is_read() {
    let mut b = Bench::new();
    let week = 7 * 86_400;
    b.feed(&event("ipmi:0c/01", Family::Memory, "3", LogDirection::Asserted, 0));
    b.tick(week + 60);
    assert_eq!(b.heard("mem-ue"), [Change::Raised]);
    b.feed(&beat(Signal::BmcAnswers, week + 100)).tick(week + 110);
    assert_eq!(b.heard("mem-ue"), [Change::Raised, Change::Cleared]);
}

#[test]
fn history_and_impossible_values_count_for_nothing() {
    let mut b = Bench::new();
    for n in 0..5 {
        b.feed(&Observation { quality: Quality::Implausible, ..temp(255.0, None, n * 60) });
        b.feed(&Observation {
            quality: Quality::Historical,
            ..event("ipmi:0c/01", Family::Memory, &format!("{n}"), LogDirection::Asserted, n * 60)
        });
    }
    assert_eq!(b.said, vec![]);
}

#[test]
fn a_counter_that_starts_anew_is_no_burst_and_steady_errors_below_the_limit_are_not_bad() {
    let mut b = Bench::new();
    let count = |total, secs| see(part(Family::Memory, "d1"), Signal::CorrectableErrors, Value::Counter { total }, secs);
    b.feed(&count(5_000_000, 0)).feed(&count(12, 3600)).feed(&count(20, 7200));
    for n in 0..200 {
        b.feed(&count(20 + n * 30, 7200 + i64::try_from(n).unwrap() * 3600));
    }
    assert_eq!(b.heard("mem-ce-rate"), vec![], "the first total is a beginning, 720 a day are below 1000");
    b.feed(&count(20 + 199 * 30 + 2000, 800_000));
    assert_eq!(b.heard("mem-ce-rate"), [Change::Raised]);
}

#[test]
fn a_port_that_never_had_a_link_is_not_down() {
    let mut b = Bench::new();
    for n in 0..10 {
        b.feed(&state(Family::Network, Signal::Link, "linkdown", n * 60));
    }
    assert_eq!(b.said, vec![]);
    b.feed(&state(Family::Network, Signal::Link, "linkup", 900));
    for n in 0..5 {
        b.feed(&state(Family::Network, Signal::Link, "linkdown", 960 + n * 60));
    }
    assert!(b.heard("link-down").contains(&Change::Raised));
}

#[test]
fn silence_is_suspected_at_90_seconds_believed_at_5_minutes_and_ended_by_answers_only() {
    let mut b = Bench::new();
    b.tick(10_000);
    assert_eq!(b.said, vec![], "never heard is not silent");
    b.feed(&beat(Signal::AgentAnswers, 20_000)).tick(20_060);
    assert_eq!(b.said, vec![]);
    b.tick(20_091).tick(20_299).tick(20_301);
    assert_eq!(b.heard("system-silent"), [Change::Suspect, Change::Raised]);
    b.tick(900_000);
    b.feed(&beat(Signal::AgentAnswers, 900_010)).feed(&beat(Signal::AgentAnswers, 900_040)).feed(&beat(Signal::AgentAnswers, 900_070));
    assert_eq!(b.heard("system-silent").last(), Some(&Change::Cleared));
}

#[test]
fn a_machine_that_is_off_neither_hangs_nor_has_stopped_fans() {
    let mut b = Bench::new();
    b.feed(&see(Component::whole_machine(Family::System), Signal::Power, Value::State { word: "off".into() }, 0));
    b.feed(&beat(Signal::AgentAnswers, 0)).tick(4000);
    for n in 0..5 {
        b.feed(&temp(97.0, None, n * 60));
    }
    assert_eq!(b.heard("system-silent"), vec![]);
    assert_eq!(b.heard("temperature-critical"), vec![]);
}

#[test]
fn the_fold_is_a_function_of_its_inputs_and_survives_being_stored() {
    let rules = rules();
    let (mut a, mut b) = (Watch::new(MachineId(uuid::Uuid::from_u128(1))), Watch::new(MachineId(uuid::Uuid::from_u128(1))));
    for n in 0..50 {
        let o = if n % 3 == 0 { temp(97.0, None, n * 60) } else { state(Family::Drive, Signal::Health, "critical", n * 60) };
        let stored: Watch = serde_json::from_str(&serde_json::to_string(&b).unwrap()).unwrap();
        b = stored;
        assert_eq!(observe(&mut a, &rules, &o), observe(&mut b, &rules, &o));
    }
    assert_eq!(serde_json::to_string(&a).unwrap(), serde_json::to_string(&b).unwrap());
}
