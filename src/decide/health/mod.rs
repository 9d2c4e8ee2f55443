//! From observations to findings: what is bad, how often it was seen, and when it is over.
//!
//! [`observe`] and [`tick`] are a fold over (state, observation, now). Three values throughout: silence makes a finding
//! unknown and never ends it, and a signal that was never heard is neither good nor bad.

pub mod cell;
pub mod judge;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::health::cell::Cell;
use crate::decide::health::judge::{Verdict, judge};
use crate::domain::case::{Evidence, Severity};
use crate::domain::hardware_log::LogDirection;
use crate::domain::id::{MachineId, Sha256};
use crate::domain::observation::{Component, Family, Observation, Quality, Signal, Source, Value};
use crate::domain::policy::{Condition, Policy, Rule};
use crate::domain::time::{Timestamp, spoken};

/// Stored form of [`Watch`].
pub const WATCH_VERSION: u8 = 1;
/// Ids of log entries kept per machine to tell a repeated entry from a new one. The log's cursor does most of that.
const SEEN: usize = 128;
/// Three heartbeats of 30 s missed: a suspicion that counts for a common cause, not yet a finding.
pub const SILENCE_SUSPECT: Duration = Duration::from_secs(90);

/// A policy prepared for many observations.
pub struct Rules {
    pub policy: Policy,
    by_code: HashMap<String, Vec<(usize, usize)>>,
    by_signal: HashMap<(Family, Signal), Vec<(usize, usize)>>,
    silences: Vec<(usize, usize)>,
}

impl Rules {
    pub fn of(policy: Policy) -> Self {
        let mut rules = Self { by_code: HashMap::new(), by_signal: HashMap::new(), silences: Vec::new(), policy };
        for (r, rule) in rules.policy.rules.iter().enumerate() {
            for (c, condition) in rule.any.iter().enumerate() {
                match condition {
                    Condition::Event { code } => rules.by_code.entry(code.clone()).or_default().push((r, c)),
                    Condition::State { signal, .. } | Condition::Gauge { signal, .. } | Condition::Counter { signal, .. } => {
                        rules.by_signal.entry((rule.family, *signal)).or_default().push((r, c));
                    }
                    Condition::Silence { .. } => rules.silences.push((r, c)),
                }
            }
        }
        rules
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Quiet,
    Suspect,
    Raised,
}

/// One rule on one component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    pub rule: String,
    pub component: Component,
    cells: BTreeMap<usize, Cell>,
    pub phase: Phase,
    /// When it was first bad, until it is quiet again. Nothing moves it.
    pub since: Option<Timestamp>,
    pub last_bad_at: Option<Timestamp>,
    pub last_heard: Timestamp,
    pub unknown_since: Option<Timestamp>,
    pub disputed: bool,
    /// It was good at least once: links and lanes count as bad only after that.
    ever_good: bool,
}

/// All that is remembered of one machine between observations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    pub version: u8,
    pub machine: MachineId,
    pub trackers: BTreeMap<String, Tracker>,
    /// Last sign of life by kind.
    pub heard: BTreeMap<Signal, Timestamp>,
    /// What the BMC last said of the machine's power.
    pub power: Option<String>,
    seen: Vec<String>,
    /// Components that were repaired, and when: what happened before is history.
    pub repaired: BTreeMap<String, Timestamp>,
}

impl Watch {
    pub fn new(machine: MachineId) -> Self {
        Self {
            version: WATCH_VERSION,
            machine,
            trackers: BTreeMap::new(),
            heard: BTreeMap::new(),
            power: None,
            seen: Vec::new(),
            repaired: BTreeMap::new(),
        }
    }

    /// Whether a sign of life of this kind is fresh. `None`: never heard.
    pub fn is_heard(&self, signal: Signal, within: Duration, now: Timestamp) -> Option<bool> {
        self.heard.get(&signal).map(|at| now.since(*at) <= within)
    }

    /// Drops trackers that are quiet, for a caller that hands in changes instead of every sample.
    pub fn forget_quiet(&mut self) {
        self.trackers.retain(|_, t| t.phase != Phase::Quiet);
    }

    /// What is remembered of a component is dropped: it was replaced or repaired at this time.
    pub fn repaired(&mut self, component: &Component, at: Timestamp) {
        let key = component.key();
        self.trackers.retain(|_, t| t.component.key() != key);
        self.repaired.insert(key, at);
    }

    /// A rung was begun against a family: what its logs and counters said until now led to it and is spent. What is still so
    /// will be said or read again.
    pub fn attempted(&mut self, family: Family) {
        for t in self.trackers.values_mut().filter(|t| t.component.family == family) {
            for cell in t.cells.values_mut() {
                cell.spend();
            }
            if !t.cells.values().any(|c| c.is_raised() || c.is_suspect()) {
                t.phase = Phase::Quiet;
                t.since = None;
            }
        }
    }

    /// The state of everything a family's case rests on: any raised tracker is bad, any unheard one unknown.
    pub fn state_of(&self, family: Family) -> Signals {
        let mut out = Signals::Good;
        for t in self.trackers.values().filter(|t| t.component.family == family) {
            match t.phase {
                Phase::Raised | Phase::Suspect if t.unknown_since.is_some() => out = out.max(Signals::Unknown),
                Phase::Raised | Phase::Suspect => return Signals::Bad,
                Phase::Quiet => {}
            }
        }
        out
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signals {
    Good,
    /// Not heard: neither good nor bad.
    Unknown,
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Bad for the first time.
    Suspect,
    /// A suspicion that went away unconfirmed.
    Dropped,
    /// As often bad as the rule asks for.
    Raised,
    /// Bad again while it is raised.
    StillBad,
    Cleared,
    /// The log said so and the part's own health has denied it twice.
    Historical,
    /// Not heard any more; it stays as it was.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub rule: String,
    pub component: Component,
    pub change: Change,
    pub at: Timestamp,
    /// First bad sample.
    pub since: Timestamp,
    pub evidence: Option<Evidence>,
    pub disputed: bool,
    /// Read it again within this time.
    pub reread: Option<Duration>,
    pub why: String,
}

/// Takes in one observation.
pub fn observe(watch: &mut Watch, rules: &Rules, seen: &Observation) -> Vec<Finding> {
    let now = seen.received_at;
    let mut out = Vec::new();
    match (&seen.value, seen.quality) {
        (Value::Beat, _) => beat(watch, rules, seen, &mut out),
        (Value::Event(event), quality) => {
            let id = format!("{}#{}#{}", event.log, event.epoch, event.record);
            let before_repair = watch.repaired.get(&seen.component.key()).is_some_and(|at| seen.observed_at.is_some_and(|o| o < *at));
            if quality != Quality::Good || before_repair || watch.seen.contains(&id) {
                return out;
            }
            watch.seen.push(id);
            if watch.seen.len() > SEEN {
                watch.seen.remove(0);
            }
            for (r, c) in rules.by_code.get(&event.code).into_iter().flatten().copied() {
                let rule = &rules.policy.rules[r];
                let verdict = match event.direction {
                    LogDirection::Asserted | LogDirection::Said => Verdict::Bad,
                    LogDirection::Deasserted => Verdict::Good,
                };
                step(watch, rule, c, seen, verdict, now, &mut out);
            }
        }
        (Value::Missing { .. }, _) | (_, Quality::Unavailable | Quality::Stale) => unheard(watch, seen, &mut out),
        (_, Quality::Implausible | Quality::Historical) => {}
        (Value::Gauge(_) | Value::Counter { .. } | Value::State { .. }, Quality::Good) => {
            if seen.signal == Signal::Power
                && let Value::State { word } = &seen.value
            {
                watch.power = Some(word.clone());
            }
            let off = watch.power.as_deref() == Some("off");
            for (r, c) in rules.by_signal.get(&(seen.component.family, seen.signal)).into_iter().flatten().copied() {
                let rule = &rules.policy.rules[r];
                if rule.only_on && off {
                    continue;
                }
                let verdict = judge(&rule.any[c], seen);
                step(watch, rule, c, seen, verdict, now, &mut out);
            }
            if seen.signal == Signal::Health
                && let Value::State { word } = &seen.value
                && word == "ok"
            {
                deny(watch, rules, &seen.component, now, &mut out);
            }
        }
    }
    out
}

/// Lets time pass: silence, staleness, and the end of events that did not come again.
pub fn tick(watch: &mut Watch, rules: &Rules, now: Timestamp) -> Vec<Finding> {
    let mut out = Vec::new();
    for (r, c) in &rules.silences {
        silence(watch, &rules.policy.rules[*r], *c, now, &mut out);
    }
    let freshness = rules.policy.freshness.duration();
    let bmc_read = watch.is_heard(Signal::BmcAnswers, freshness, now) == Some(true);
    let agent_read = watch.is_heard(Signal::AgentAnswers, freshness, now) == Some(true);
    for tracker in watch.trackers.values_mut().filter(|t| t.phase != Phase::Quiet) {
        let Some(rule) = rules.policy.rule(&tracker.rule) else { continue };
        if let Some(quiet) = rule.clear.quiet
            && (bmc_read || agent_read)
        {
            for cell in tracker.cells.values_mut() {
                cell.fall_quiet(quiet.duration(), now);
            }
            settle(tracker, rule, None, now, &mut out);
        }
        let sampled = tracker.cells.values().any(Cell::is_sampled);
        if sampled && tracker.phase != Phase::Quiet && tracker.unknown_since.is_none() && now.since(tracker.last_heard) > freshness {
            tracker.unknown_since = Some(now);
            let why = format!("{} was not heard for {}", tracker.component, spoken(now.since(tracker.last_heard)));
            out.push(finding(tracker, Change::Unknown, now, None, why));
        }
    }
    out
}

fn tracker<'a>(watch: &'a mut Watch, rule: &Rule, component: &Component, now: Timestamp) -> &'a mut Tracker {
    let key = format!("{}|{}", rule.id, component.key());
    watch.trackers.entry(key).or_insert_with(|| Tracker {
        rule: rule.id.clone(),
        component: component.clone(),
        cells: BTreeMap::new(),
        phase: Phase::Quiet,
        since: None,
        last_bad_at: None,
        last_heard: now,
        unknown_since: None,
        disputed: false,
        ever_good: false,
    })
}

fn step(watch: &mut Watch, rule: &Rule, c: usize, seen: &Observation, verdict: Verdict, now: Timestamp, out: &mut Vec<Finding>) {
    let t = tracker(watch, rule, &seen.component, now);
    t.last_heard = now;
    t.unknown_since = None;
    let verdict = match verdict {
        Verdict::Counter { total, above, per } => {
            match t.cells.entry(c).or_insert_with(|| Cell::of(&rule.any[c])).pour(total, above, per, now) {
                Some(true) => Verdict::Bad,
                Some(false) => Verdict::Good,
                None => Verdict::Between,
            }
        }
        Verdict::Bad | Verdict::Good | Verdict::Between | Verdict::Disputed | Verdict::NoSay => verdict,
    };
    if verdict == Verdict::NoSay {
        return;
    }
    t.ever_good |= verdict == Verdict::Good;
    if matches!(seen.signal, Signal::Link | Signal::Lanes) && !t.ever_good {
        return;
    }
    let bad = matches!(verdict, Verdict::Bad | Verdict::Disputed);
    if bad {
        t.last_bad_at = Some(now);
        t.disputed = verdict == Verdict::Disputed;
    }
    t.cells.entry(c).or_insert_with(|| Cell::of(&rule.any[c])).take(verdict, rule, now);
    settle(t, rule, bad.then_some(seen), now, out);
}

/// Brings the tracker's phase in line with its cells and says what changed.
fn settle(t: &mut Tracker, rule: &Rule, bad: Option<&Observation>, now: Timestamp, out: &mut Vec<Finding>) {
    let raised = t.cells.values().any(Cell::is_raised);
    let suspect = t.cells.values().any(Cell::is_suspect);
    let next = if raised {
        Phase::Raised
    } else if suspect {
        Phase::Suspect
    } else {
        Phase::Quiet
    };
    if next != Phase::Quiet && t.since.is_none() {
        t.since = Some(now);
    }
    let told = bad.map_or_else(|| t.component.to_string(), Observation::told);
    let change = match (t.phase, next) {
        (Phase::Quiet, Phase::Suspect) => Some((Change::Suspect, format!("{told}; it is read again before it is believed"))),
        (Phase::Quiet | Phase::Suspect, Phase::Raised) => Some((Change::Raised, format!("{told}: {}", rule.why))),
        (Phase::Raised, Phase::Raised) if bad.is_some() => Some((Change::StillBad, told)),
        (Phase::Suspect, Phase::Quiet) => Some((Change::Dropped, format!("{told} was bad and is good again before it was confirmed"))),
        (Phase::Raised, Phase::Quiet | Phase::Suspect) => Some((Change::Cleared, format!("{} is good again", t.component))),
        (Phase::Quiet, Phase::Quiet) | (Phase::Suspect, Phase::Suspect) | (Phase::Raised, Phase::Raised) => None,
    };
    t.phase = next;
    if let Some((change, why)) = change {
        let mut f = finding(t, change, now, bad.map(Evidence::of), why);
        if change == Change::Suspect {
            // States and fatal gauges are read again at once; other gauges have their next sample in a minute.
            let at_once = rule.severity == Severity::Fatal || bad.is_some_and(|o| matches!(o.value, Value::State { .. }));
            f.reread = at_once.then_some(Duration::from_secs(2));
        }
        out.push(f);
    }
    if next == Phase::Quiet {
        t.since = None;
        t.disputed = false;
    }
}

fn finding(t: &Tracker, change: Change, at: Timestamp, evidence: Option<Evidence>, why: String) -> Finding {
    Finding {
        rule: t.rule.clone(),
        component: t.component.clone(),
        change,
        at,
        since: t.since.unwrap_or(at),
        evidence,
        disputed: t.disputed,
        reread: None,
        why,
    }
}

/// A value that could not be read: what is known stays, and is marked unknown.
fn unheard(watch: &mut Watch, seen: &Observation, out: &mut Vec<Finding>) {
    let key = seen.component.key();
    for t in watch.trackers.values_mut().filter(|t| t.component.key() == key && t.phase != Phase::Quiet && t.unknown_since.is_none()) {
        t.unknown_since = Some(seen.received_at);
        out.push(finding(t, Change::Unknown, seen.received_at, None, seen.told()));
    }
}

/// The part's own health says ok: log assertions about it that are withdrawn by that are counted down.
fn deny(watch: &mut Watch, rules: &Rules, component: &Component, now: Timestamp, out: &mut Vec<Finding>) {
    let key = component.key();
    for t in watch.trackers.values_mut().filter(|t| t.phase != Phase::Quiet && t.component.key() == key) {
        let Some(rule) = rules.policy.rule(&t.rule).filter(|r| r.clear.by_health) else { continue };
        let mut withdrawn = false;
        for cell in t.cells.values_mut() {
            withdrawn |= cell.deny();
        }
        if withdrawn {
            let before = out.len();
            settle(t, rule, None, now, out);
            for f in out.iter_mut().skip(before).filter(|f| f.change == Change::Cleared) {
                f.change = Change::Historical;
                f.why = format!("the log said so, but {} has said twice since that it is well", t.component);
            }
        }
    }
}

fn beat(watch: &mut Watch, rules: &Rules, seen: &Observation, out: &mut Vec<Finding>) {
    let now = seen.received_at;
    watch.heard.insert(seen.signal, now);
    for (r, c) in &rules.silences {
        let rule = &rules.policy.rules[*r];
        let Condition::Silence { signal, .. } = &rule.any[*c] else { continue };
        if *signal != seen.signal {
            continue;
        }
        let key = format!("{}|{}", rule.id, Component::whole_machine(rule.family).key());
        if let Some(t) = watch.trackers.get_mut(&key) {
            t.last_heard = now;
            t.unknown_since = None;
            if let Some(cell) = t.cells.get_mut(c) {
                cell.take(Verdict::Good, rule, now);
            }
            settle(t, rule, None, now, out);
        }
    }
}

fn silence(watch: &mut Watch, rule: &Rule, c: usize, now: Timestamp, out: &mut Vec<Finding>) {
    let Condition::Silence { signal, after } = &rule.any[c] else { return };
    let Some(heard) = watch.heard.get(signal).copied() else { return };
    let quiet_for = now.since(heard);
    if quiet_for < SILENCE_SUSPECT || (rule.only_on && watch.power.as_deref() == Some("off")) {
        return;
    }
    let machine = watch.machine;
    let t = tracker(watch, rule, &Component::whole_machine(rule.family), now);
    t.last_heard = now;
    if t.since.is_none() {
        t.since = Some(heard);
    }
    t.last_bad_at = Some(now);
    t.cells.entry(c).or_insert_with(|| Cell::of(&rule.any[c])).be_silent(quiet_for >= after.duration());
    let seen = Observation {
        machine,
        component: t.component.clone(),
        signal: *signal,
        value: Value::Missing { why: format!("silent for {}", spoken(quiet_for)) },
        source: if *signal == Signal::AgentAnswers { Source::InBand } else { Source::RedfishPoll },
        observed_at: None,
        received_at: now,
        clock_offset_secs: None,
        quality: Quality::Good,
        evidence: Sha256([0; 32]),
        read_at: signal.to_string(),
    };
    settle(t, rule, Some(&seen), now, out);
}

#[cfg(test)]
mod tests;
