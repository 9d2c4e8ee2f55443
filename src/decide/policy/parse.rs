//! Reads a policy file. Unknown keys, missing units, unknown signals and dangling names are errors with their line.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use crate::domain::case::{Class, Severity};
use crate::domain::observation::{Family, Signal};
use crate::domain::policy::{
    ApprovalRule, Clear, Condition, DrainRule, KofN, Ladder, LadderStep, Limit, Mode, Policy, PoolLimits, PoolPolicy, Raise, Requires,
    Rule, Rung, Selector, Span, Success, When,
};
use crate::domain::sensor::SensorKind;

/// A file larger than this is not a policy. The one that ships has 30 KB.
const MAX_BYTES: usize = 1 << 20;

/// One thing that is wrong, with its line (1 is the first).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub line: usize,
    pub what: String,
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Why a file is not a policy: every flaw that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a policy: {}", .0.first().map_or_else(String::new, Flaw::to_string))]
pub struct BadPolicy(pub Vec<Flaw>);

/// A policy and where its parts stand in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFile {
    pub policy: Policy,
    pub lines: Lines,
}

/// Line of each rule, ladder, selector and pool, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    pub rules: BTreeMap<String, usize>,
    pub ladders: BTreeMap<String, usize>,
    pub selectors: BTreeMap<String, usize>,
    pub pools: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    version: u64,
    comment: Spanned<String>,
    defaults: RawDefaults,
    #[serde(default)]
    selectors: BTreeMap<String, Spanned<RawSelector>>,
    #[serde(default)]
    pools: BTreeMap<String, Spanned<RawPool>>,
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
    #[serde(default)]
    ladder: Vec<Spanned<RawLadder>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefaults {
    mode: Spanned<String>,
    freshness: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSelector {
    #[serde(default)]
    pools: Vec<String>,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    exclude_tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    mode: Spanned<String>,
    #[serde(default)]
    stateless: bool,
    reimage: Option<Spanned<String>>,
    disruptive_in_flight: Option<Spanned<String>>,
    reimages_per_day: Option<u32>,
    min_available: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    id: String,
    row: String,
    why: String,
    component: Spanned<String>,
    selector: Option<String>,
    any: Vec<Spanned<RawCondition>>,
    #[serde(default)]
    only_on: bool,
    #[serde(default)]
    raise: RawRaise,
    clear: Option<RawClear>,
    class: Spanned<String>,
    severity: Spanned<String>,
    #[serde(default)]
    positive_fatal: bool,
    #[serde(default)]
    correlate: bool,
    ladder: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    event: Option<String>,
    state: Option<String>,
    is: Option<Vec<String>>,
    gauge: Option<String>,
    context: Option<String>,
    at: Option<String>,
    above: Option<f64>,
    below: Option<f64>,
    counter: Option<String>,
    per: Option<String>,
    silence: Option<String>,
    after: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRaise {
    samples: Option<Spanned<String>>,
    reads: Option<Spanned<String>>,
    events: Option<u8>,
    within: Option<Spanned<String>>,
    dwell: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClear {
    good: Option<u8>,
    quiet: Option<Spanned<String>>,
    #[serde(default)]
    by_health: bool,
    #[serde(default)]
    by_person: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLadder {
    id: String,
    steps: Vec<Spanned<RawStep>>,
    probation: Spanned<String>,
    validate: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    rung: Spanned<String>,
    #[serde(rename = "for")]
    wait: Option<Spanned<String>>,
    settle: Option<Spanned<String>>,
    attempts: Option<u8>,
    success: Option<Spanned<String>>,
    drain: Option<Spanned<String>>,
    when: Option<Spanned<String>>,
    requires: Option<RawRequires>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequires {
    stateless: bool,
    approval: Spanned<String>,
}

/// Reads a policy from its text.
///
/// # Errors
/// Every flaw found, by line. Text that is not TOML, or lacks a key, gives one.
pub fn read(text: &str) -> Result<PolicyFile, BadPolicy> {
    if text.len() > MAX_BYTES {
        return Err(BadPolicy(vec![Flaw { line: 1, what: format!("the file has {} bytes; at most {MAX_BYTES} are read", text.len()) }]));
    }
    let raw: RawPolicy = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |s| line_of(text, s.start));
        BadPolicy(vec![Flaw { line, what: e.message().to_owned() }])
    })?;
    let mut reader = Reader { text, flaws: Vec::new() };
    let file = reader.policy(raw);
    if reader.flaws.is_empty() {
        Ok(file)
    } else {
        reader.flaws.sort_by_key(|f| f.line);
        Err(BadPolicy(reader.flaws))
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes().iter().take(byte).filter(|b| **b == b'\n').count() + 1
}

struct Reader<'a> {
    text: &'a str,
    flaws: Vec<Flaw>,
}

impl Reader<'_> {
    fn line<T>(&self, at: &Spanned<T>) -> usize {
        line_of(self.text, at.span().start)
    }

    fn flaw(&mut self, line: usize, what: impl Into<String>) {
        self.flaws.push(Flaw { line, what: what.into() });
    }

    /// A word of ours; a flaw and the fallback if it is none. The fallback never leaves: a file with flaws is refused.
    fn word<T: FromStr>(&mut self, at: &Spanned<String>, fallback: T) -> T
    where
        T::Err: std::fmt::Display,
    {
        match at.get_ref().parse() {
            Ok(value) => value,
            Err(e) => {
                let line = self.line(at);
                self.flaw(line, e.to_string());
                fallback
            }
        }
    }

    fn maybe<T: FromStr>(&mut self, at: Option<&Spanned<String>>, fallback: T) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        at.map(|at| self.word(at, fallback))
    }

    fn policy(&mut self, raw: RawPolicy) -> PolicyFile {
        if raw.comment.get_ref().trim().is_empty() {
            let line = self.line(&raw.comment);
            self.flaw(line, "the comment is empty: say why this version exists");
        }
        let mut lines = Lines::default();
        let mut selectors = BTreeMap::new();
        for (name, at) in raw.selectors {
            lines.selectors.insert(name.clone(), self.line(&at));
            let s = at.into_inner();
            selectors.insert(name, Selector { pools: s.pools, models: s.models, exclude_tags: s.exclude_tags });
        }
        let mut pools = BTreeMap::new();
        for (name, at) in raw.pools {
            lines.pools.insert(name.clone(), self.line(&at));
            let pool = self.pool(at.into_inner());
            pools.insert(name, pool);
        }
        let mut ladders = Vec::new();
        for at in raw.ladder {
            let line = self.line(&at);
            let ladder = self.ladder(line, at.into_inner());
            if lines.ladders.insert(ladder.id.clone(), line).is_some() {
                self.flaw(line, format!("a ladder named {:?} stands above already", ladder.id));
            }
            ladders.push(ladder);
        }
        let known: BTreeSet<String> = ladders.iter().map(|l: &Ladder| l.id.clone()).collect();
        let mut rules = Vec::new();
        for at in raw.rule {
            let line = self.line(&at);
            let rule = self.rule(line, at.into_inner());
            if lines.rules.insert(rule.id.clone(), line).is_some() {
                self.flaw(line, format!("a rule named {:?} stands above already", rule.id));
            }
            if !known.contains(&rule.ladder) {
                self.flaw(line, format!("rule {:?} names the ladder {:?}, which does not exist", rule.id, rule.ladder));
            }
            if let Some(s) = rule.selector.as_ref().filter(|s| !selectors.contains_key(*s)) {
                self.flaw(line, format!("rule {:?} names the selector {s:?}, which does not exist", rule.id));
            }
            rules.push(rule);
        }
        if rules.is_empty() {
            self.flaw(1, "there is no rule");
        }
        let mode = self.word(&raw.defaults.mode, Mode::Observe);
        let freshness = self.word(&raw.defaults.freshness, Span::secs(1));
        let policy = Policy { version: raw.version, comment: raw.comment.into_inner(), mode, freshness, selectors, pools, rules, ladders };
        PolicyFile { policy, lines }
    }

    fn pool(&mut self, raw: RawPool) -> PoolPolicy {
        let mode = self.word(&raw.mode, Mode::Observe);
        PoolPolicy {
            mode,
            stateless: raw.stateless,
            reimage: self.maybe(raw.reimage.as_ref(), Mode::Observe).unwrap_or(Mode::Recommend),
            limits: PoolLimits {
                disruptive_in_flight_percent: self.percent(raw.disruptive_in_flight.as_ref()),
                reimages_per_day: raw.reimages_per_day,
                min_available_percent: self.percent(raw.min_available.as_ref()),
            },
        }
    }

    fn percent(&mut self, at: Option<&Spanned<String>>) -> Option<f64> {
        let at = at?;
        let value = at.get_ref().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok()).filter(|p| (0.0..=100.0).contains(p));
        if value.is_none() {
            let line = self.line(at);
            self.flaw(line, format!("{:?} is not a share; write for example 3%", at.get_ref()));
        }
        value
    }

    fn rule(&mut self, line: usize, raw: RawRule) -> Rule {
        for (name, value) in [("id", &raw.id), ("row", &raw.row), ("why", &raw.why)] {
            if value.trim().is_empty() {
                self.flaw(line, format!("the {name} of a rule is empty"));
            }
        }
        if raw.any.is_empty() {
            self.flaw(line, format!("rule {:?} matches nothing: `any` is empty", raw.id));
        }
        let family = self.word(&raw.component, Family::Report);
        let any = raw.any.into_iter().filter_map(|c| self.condition(c)).collect();
        let clear = raw.clear.map_or(Clear { good: None, quiet: None, by_health: false, by_person: false }, |c| Clear {
            good: c.good,
            quiet: self.maybe(c.quiet.as_ref(), Span::secs(1)),
            by_health: c.by_health,
            by_person: c.by_person,
        });
        if clear.good == Some(0) {
            self.flaw(line, format!("rule {:?} clears after 0 good reads", raw.id));
        }
        let raise = Raise {
            samples: self.k_of_n(raw.raise.samples.as_ref()).unwrap_or(KofN { bad: 3, of: 5 }),
            reads: self.k_of_n(raw.raise.reads.as_ref()).unwrap_or(KofN { bad: 2, of: 2 }),
            events: raw.raise.events.unwrap_or(1).max(1),
            within: self.maybe(raw.raise.within.as_ref(), Span::secs(1)).unwrap_or(Span::secs(86_400)),
            dwell: self.maybe(raw.raise.dwell.as_ref(), Span::secs(1)),
        };
        Rule {
            family,
            any,
            clear,
            raise,
            class: self.word(&raw.class, Class::Unknown),
            severity: self.word(&raw.severity, Severity::Info),
            id: raw.id,
            row: raw.row,
            why: raw.why,
            selector: raw.selector,
            only_on: raw.only_on,
            positive_fatal: raw.positive_fatal,
            correlate: raw.correlate,
            ladder: raw.ladder,
        }
    }

    /// `3 of 5`, or `2` for 2 of 2.
    fn k_of_n(&mut self, at: Option<&Spanned<String>>) -> Option<KofN> {
        let at = at?;
        let text = at.get_ref();
        let read = || {
            let (bad, of) = text.split_once(" of ").unwrap_or((text, text));
            let k = KofN { bad: bad.trim().parse().ok()?, of: of.trim().parse().ok()? };
            (k.bad >= 1 && k.bad <= k.of && k.of <= 64).then_some(k)
        };
        let value = read();
        if value.is_none() {
            let line = self.line(at);
            self.flaw(line, format!("{text:?} is not a count of samples; write for example \"3 of 5\", at most of 64"));
        }
        value
    }

    fn condition(&mut self, at: Spanned<RawCondition>) -> Option<Condition> {
        let line = self.line(&at);
        let read = read_condition(at.into_inner());
        match read {
            Ok(c) => Some(c),
            Err(what) => {
                self.flaw(line, what);
                None
            }
        }
    }

    fn ladder(&mut self, line: usize, raw: RawLadder) -> Ladder {
        if raw.steps.is_empty() {
            self.flaw(line, format!("ladder {:?} has no steps", raw.id));
        }
        let steps = raw.steps.into_iter().map(|s| self.step(s)).collect();
        Ladder { steps, probation: self.word(&raw.probation, Span::secs(1)), id: raw.id, validate: raw.validate }
    }

    fn step(&mut self, at: Spanned<RawStep>) -> LadderStep {
        let line = self.line(&at);
        let raw = at.into_inner();
        let rung = self.word(&raw.rung, Rung::Observe);
        let wait = self.maybe(raw.wait.as_ref(), Span::secs(1));
        if rung == Rung::Observe && wait.is_none() {
            self.flaw(line, "observe needs `for`: how long");
        }
        if raw.attempts == Some(0) {
            self.flaw(line, format!("{rung} with 0 attempts does nothing"));
        }
        let success = match raw.success.as_ref() {
            None => default_success(rung),
            Some(at) => match read_success(at.get_ref()) {
                Ok(s) => s,
                Err(what) => {
                    let line = self.line(at);
                    self.flaw(line, what);
                    Success::Signals
                }
            },
        };
        let requires = raw.requires.map(|r| Requires { stateless: r.stateless, approval: self.word(&r.approval, ApprovalRule::Person) });
        LadderStep {
            rung,
            wait,
            settle: self.maybe(raw.settle.as_ref(), Span::secs(1)).unwrap_or(default_settle(rung)),
            attempts: raw.attempts.unwrap_or(1),
            success,
            drain: self.maybe(raw.drain.as_ref(), DrainRule::Required).unwrap_or(default_drain(rung)),
            when: self.maybe(raw.when.as_ref(), When::Window).unwrap_or(When::Now),
            requires,
            detail: raw.detail,
        }
    }
}

fn default_settle(rung: Rung) -> Span {
    Span::secs(match rung {
        Rung::Observe | Rung::Ticket | Rung::Cordon | Rung::NeedsHands | Rung::Quarantine => 1,
        Rung::BmcReset | Rung::SoftFix | Rung::PowerOff => 5 * 60,
        Rung::GracefulReboot | Rung::ForceRestart => 15 * 60,
        Rung::PowerCycle => 20 * 60,
        Rung::FirmwareFix => 3600,
        Rung::Diagnose => 30 * 60,
        Rung::Reimage => 45 * 60,
        Rung::Retire => 86_400,
    })
}

fn default_success(rung: Rung) -> Success {
    match rung {
        Rung::Diagnose => Success::Diagnosis,
        Rung::BmcReset => Success::Bmc,
        Rung::Observe
        | Rung::Ticket
        | Rung::Cordon
        | Rung::SoftFix
        | Rung::GracefulReboot
        | Rung::ForceRestart
        | Rung::PowerCycle
        | Rung::PowerOff
        | Rung::FirmwareFix
        | Rung::Reimage
        | Rung::NeedsHands
        | Rung::Quarantine
        | Rung::Retire => Success::Signals,
    }
}

fn default_drain(rung: Rung) -> DrainRule {
    if rung.restarts() || rung == Rung::PowerOff || rung == Rung::Retire { DrainRule::Required } else { DrainRule::NotNeeded }
}

fn read_success(text: &str) -> Result<Success, String> {
    match text {
        "signals" => Ok(Success::Signals),
        "agent" => Ok(Success::Agent),
        "bmc" => Ok(Success::Bmc),
        "diagnosis" => Ok(Success::Diagnosis),
        other => match other.strip_prefix("event ") {
            Some(code) => event_code(code).map(Success::Event),
            None => Err(format!("{other:?} is not a success test; write signals, agent, bmc, diagnosis or event CODE")),
        },
    }
}

fn read_condition(raw: RawCondition) -> Result<Condition, String> {
    let kinds = [&raw.event, &raw.state, &raw.gauge, &raw.counter, &raw.silence].into_iter().flatten().count();
    if kinds != 1 {
        return Err("a condition is exactly one of event, state, gauge, counter, silence".to_owned());
    }
    let spare = |keys: &[(&str, bool)], of: &str| match keys.iter().find(|(_, given)| *given) {
        Some((key, _)) => Err(format!("`{key}` has no meaning beside {of}")),
        None => Ok(()),
    };
    let (is, context, at, above, below, per, after) = (
        ("is", raw.is.is_some()),
        ("context", raw.context.is_some()),
        ("at", raw.at.is_some()),
        ("above", raw.above.is_some()),
        ("below", raw.below.is_some()),
        ("per", raw.per.is_some()),
        ("after", raw.after.is_some()),
    );
    if let Some(code) = raw.event {
        spare(&[is, context, at, above, below, per, after], "event")?;
        return event_code(&code).map(|code| Condition::Event { code });
    }
    if let Some(signal) = raw.state {
        spare(&[context, at, above, below, per, after], "state")?;
        let is: Vec<String> = raw.is.unwrap_or_default().into_iter().map(|w| w.to_lowercase()).collect();
        if is.is_empty() {
            return Err("a state condition needs `is`: the words that are bad".to_owned());
        }
        return Ok(Condition::State { signal: signal.parse()?, is });
    }
    if let Some(name) = raw.gauge {
        spare(&[is, per, after], "gauge")?;
        let limit = match (raw.at.as_deref(), raw.above, raw.below) {
            (Some("caution"), None, None) => Limit::Caution,
            (Some("critical"), None, None) => Limit::Critical,
            (Some("fatal"), None, None) => Limit::Fatal,
            (Some("lower_critical"), None, None) => Limit::LowerCritical,
            (None, Some(n), None) if n.is_finite() => Limit::Above(n),
            (None, None, Some(n)) if n.is_finite() => Limit::Below(n),
            _ => {
                return Err("a gauge needs one limit: at = \"caution\", \"critical\", \"fatal\" or \"lower_critical\", or above, or below"
                    .to_owned());
            }
        };
        let (signal, sensor) = match name.parse::<SensorKind>() {
            Ok(kind) => (Signal::Reading, Some(kind)),
            Err(_) => (
                name.parse::<Signal>()
                    .map_err(|_| format!("{name:?} is neither a kind of sensor (temperature, fan, voltage…) nor a signal"))?,
                None,
            ),
        };
        return Ok(Condition::Gauge { signal, sensor, context: raw.context.map(|c| c.to_lowercase()), limit });
    }
    if let Some(signal) = raw.counter {
        spare(&[is, context, at, below, after], "counter")?;
        let above = raw.above.filter(|n| n.is_finite() && *n >= 0.0 && *n < 1e15 && n.fract() == 0.0);
        let (Some(above), Some(per)) = (above, raw.per) else {
            return Err("a counter needs `above` (a whole number) and `per` (a duration)".to_owned());
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: whole, not negative, below 1e15")]
        let above = above as u64;
        return Ok(Condition::Counter {
            signal: signal.parse()?,
            above,
            per: per.parse().map_err(|e: crate::domain::policy::BadSpan| e.to_string())?,
        });
    }
    spare(&[is, context, at, above, below, per], "silence")?;
    let signal: Signal = raw.silence.unwrap_or_default().parse()?;
    if !matches!(signal, Signal::AgentAnswers | Signal::BmcAnswers) {
        return Err(format!("{signal} is not a heartbeat; silence is of agent_answers or bmc_answers"));
    }
    let after = raw.after.ok_or("silence needs `after`: how long")?;
    Ok(Condition::Silence { signal, after: after.parse().map_err(|e: crate::domain::policy::BadSpan| e.to_string())? })
}

/// Makes sure a code has the form of one.
fn event_code(code: &str) -> Result<String, String> {
    let bad =
        || Err(format!("{code:?} is not an event code; write ipmi:0c/05, ipmi:09/0b:01, dell:MEM0701, hpe:NAME, redfish:NAME or xid:79"));
    let Some((family, rest)) = code.split_once(':') else { return bad() };
    let hex = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let fits = match family {
        "ipmi" => match rest.split_once('/') {
            Some((kind, offset)) => hex(kind) && offset.split(':').all(hex) && offset.split(':').count() <= 2,
            None => false,
        },
        "dell" | "hpe" | "lenovo" | "redfish" | "kernel" => {
            !rest.is_empty() && rest.len() <= 80 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
        }
        "xid" => !rest.is_empty() && rest.len() <= 3 && rest.bytes().all(|b| b.is_ascii_digit()),
        _ => false,
    };
    if fits { Ok(code.to_owned()) } else { bad() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
version = 1
comment = "small"
[defaults]
mode = "observe"
freshness = "3m"

[[ladder]]
id = "psu"
steps = [ { rung = "ticket" }, { rung = "needs_hands", detail = "psu" } ]
probation = "1h"

[[rule]]
id = "psu-failed"
row = "PSU-1"
why = "It failed."
component = "power_supply"
any = [ { state = "health", is = ["Critical"] }, { event = "ipmi:08/01" } ]
raise = { reads = "2" }
clear = { good = 2 }
class = "degraded"
severity = "critical"
ladder = "psu"
"#;

    fn flaws(text: &str) -> Vec<Flaw> {
        read(text).expect_err("the text has a flaw").0
    }

    #[test]
    fn a_small_policy_is_read_whole() {
        let file = read(SMALL).unwrap();
        let rule = &file.policy.rules[0];
        assert_eq!(rule.any[0], Condition::State { signal: Signal::Health, is: vec!["critical".into()] });
        assert_eq!((rule.raise.reads, rule.raise.samples), (KofN { bad: 2, of: 2 }, KofN { bad: 3, of: 5 }));
        assert_eq!(file.lines.rules["psu-failed"], 13);
        assert_eq!(file.policy.pool(Some("web")).mode, Mode::Observe);
    }

    #[test]
    fn a_flaw_is_told_with_its_line() {
        for (from, to, line, word) in [
            ("comment = \"small\"", "comment = \" \"", 3, "comment"),
            ("mode = \"observe\"", "mode = \"watch\"", 5, "watch"),
            ("freshness = \"3m\"", "freshness = \"3\"", 6, "duration"),
            ("why = \"It failed.\"", "why = \"It failed.\"\nwhen = 3", 17, "unknown field"),
            ("component = \"power_supply\"", "component = \"psu\"", 17, "psu"),
            ("reads = \"2\"", "reads = \"3 of 2\"", 19, "3 of 2"),
            ("ipmi:08/01", "ipmi:8/1", 18, "event code"),
            ("ladder = \"psu\"", "ladder = \"fan\"", 13, "does not exist"),
            ("is = [\"Critical\"]", "is = []", 18, "`is`"),
            ("is = [\"Critical\"]", "is = [\"x\"], per = \"1h\"", 18, "`per`"),
            ("{ rung = \"ticket\" }", "{ rung = \"observe\" }", 10, "for"),
            ("{ rung = \"ticket\" }", "{ rung = \"reboot\" }", 10, "reboot"),
        ] {
            assert!(SMALL.contains(from), "{from}");
            let found = flaws(&SMALL.replace(from, to));
            assert!(found.iter().any(|f| f.line == line && f.what.contains(word)), "{to}: {found:?}");
        }
    }

    #[test]
    fn a_version_without_a_comment_and_a_policy_without_rules_are_refused() {
        assert!(flaws(&SMALL.replace("comment = \"small\"", ""))[0].what.contains("comment"));
        let head = SMALL.split("[[rule]]").next().unwrap();
        assert!(flaws(head)[0].what.contains("no rule"));
    }

    #[test]
    fn a_name_that_is_used_twice_is_refused() {
        let rule = SMALL.split("[[rule]]").nth(1).unwrap();
        assert!(flaws(&format!("{SMALL}\n[[rule]]{rule}")).iter().any(|f| f.what.contains("above already")));
    }

    proptest::proptest! {
        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,400}", cut in 0usize..600) {
            std::hint::black_box(read(&text).is_ok());
            let cut = SMALL.char_indices().map(|(i, _)| i).nth(cut).unwrap_or(SMALL.len());
            std::hint::black_box(read(&format!("{}{text}{}", &SMALL[..cut], &SMALL[cut..])).is_ok());
        }
    }
}
