//! What a repair policy says: rules that turn observations into cases, and ladders that say what is tried in which order.
//!
//! A policy can only tighten what the site's safety allows; the gate, the domain holds and the protected flag are not in it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::case::{Class, Severity};
use crate::domain::observation::{Family, Signal};
use crate::domain::permit::Tier;
use crate::domain::power::text_form;
use crate::domain::sensor::SensorKind;

/// A duration as it stands in a policy: `30s`, `15m`, `4h`, `7d`. Whole seconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u64);

impl Span {
    pub const fn secs(secs: u64) -> Self {
        Self(if secs == 0 { 1 } else { secs })
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a duration: {0:?}; write a whole number with its unit, for example 30s, 15m, 4h or 7d")]
pub struct BadSpan(pub String);

impl std::str::FromStr for Span {
    type Err = BadSpan;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadSpan(s.chars().take(40).collect());
        let unit = s.chars().last().ok_or_else(bad)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let number = &s[..s.len() - 1];
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let secs = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| (1..=315_360_000).contains(n));
        secs.map(Self).ok_or_else(bad)
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (unit, secs) in [("d", 86_400), ("h", 3600), ("m", 60)] {
            if self.0.is_multiple_of(secs) {
                return write!(f, "{}{unit}", self.0 / secs);
            }
        }
        write!(f, "{}s", self.0)
    }
}

impl TryFrom<String> for Span {
    type Error = BadSpan;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Span> for String {
    fn from(s: Span) -> Self {
        s.to_string()
    }
}

/// How much a policy may do in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Decisions are recorded, nothing is done.
    Observe,
    /// Tickets and lights by itself; a person clicks for what interrupts a machine.
    Recommend,
    /// Acts inside its limits.
    Enforce,
}
text_form!(Mode { Observe = "observe", Recommend = "recommend", Enforce = "enforce" });

/// One action of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// R0: wait, read again, collect evidence.
    Observe,
    /// R1: a ticket, and the locate LED of the part or machine.
    Ticket,
    /// R1: no new work for the machine.
    Cordon,
    /// R1: restart the BMC alone, never the machine.
    BmcReset,
    /// R2: in band: GPU reset, page or core offline.
    SoftFix,
    /// R3.
    GracefulReboot,
    /// R4.
    ForceRestart,
    /// R5: off, a pause, on.
    PowerCycle,
    /// R5: off and left off, to stop damage by heat or liquid.
    PowerOff,
    /// R6: firmware or BIOS settings.
    FirmwareFix,
    /// R7: boot our own image, which runs from memory and must not write disks.
    Diagnose,
    /// R8: install the machine's own image again; the system disk is lost.
    Reimage,
    /// R9: a person must touch it.
    NeedsHands,
    /// R10: out of use until a person decides.
    Quarantine,
    /// R11: erase everything and take it out.
    Retire,
}
text_form!(Rung {
    Observe = "observe", Ticket = "ticket", Cordon = "cordon", BmcReset = "bmc_reset", SoftFix = "soft_fix",
    GracefulReboot = "graceful_reboot", ForceRestart = "force_restart", PowerCycle = "power_cycle", PowerOff = "power_off",
    FirmwareFix = "firmware_fix", Diagnose = "diagnose", Reimage = "reimage", NeedsHands = "needs_hands",
    Quarantine = "quarantine", Retire = "retire",
});

impl Rung {
    pub const ALL: [Self; 15] = [
        Self::Observe,
        Self::Ticket,
        Self::Cordon,
        Self::BmcReset,
        Self::SoftFix,
        Self::GracefulReboot,
        Self::ForceRestart,
        Self::PowerCycle,
        Self::PowerOff,
        Self::FirmwareFix,
        Self::Diagnose,
        Self::Reimage,
        Self::NeedsHands,
        Self::Quarantine,
        Self::Retire,
    ];

    pub fn tier(self) -> Tier {
        match self {
            Self::Observe => Tier::T0,
            Self::Ticket | Self::Cordon | Self::BmcReset | Self::NeedsHands | Self::Quarantine => Tier::T1,
            Self::SoftFix
            | Self::GracefulReboot
            | Self::ForceRestart
            | Self::PowerCycle
            | Self::PowerOff
            | Self::FirmwareFix
            | Self::Diagnose => Tier::T2,
            Self::Reimage => Tier::T3,
            Self::Retire => Tier::T4,
        }
    }

    /// Whether it makes the machine start anew. A diagnostic boot and a firmware fix do; being switched off does not.
    pub fn restarts(self) -> bool {
        match self {
            Self::GracefulReboot | Self::ForceRestart | Self::PowerCycle | Self::FirmwareFix | Self::Diagnose | Self::Reimage => true,
            Self::Observe
            | Self::Ticket
            | Self::Cordon
            | Self::BmcReset
            | Self::SoftFix
            | Self::PowerOff
            | Self::NeedsHands
            | Self::Quarantine
            | Self::Retire => false,
        }
    }

    /// R3 to R5: the failed success test of one of these is what a reimage needs as evidence.
    pub fn is_restart(self) -> bool {
        matches!(self, Self::GracefulReboot | Self::ForceRestart | Self::PowerCycle)
    }

    /// Ends a ladder: nothing may stand behind it.
    pub fn is_last(self) -> bool {
        matches!(self, Self::NeedsHands | Self::Quarantine | Self::Retire)
    }

    pub fn loses_data(self) -> bool {
        self.tier() >= Tier::T3
    }
}

/// Which of a sensor's own limits, or a number of ours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// At or beyond the device's caution limits, either side.
    Caution,
    Critical,
    Fatal,
    LowerCritical,
    Above(f64),
    Below(f64),
}

/// One thing that makes an observation count against a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Event {
        code: String,
    },
    State {
        signal: Signal,
        is: Vec<String>,
    },
    Gauge {
        signal: Signal,
        sensor: Option<SensorKind>,
        context: Option<String>,
        limit: Limit,
    },
    /// Growth of a counter above `above` in any window of `per`.
    Counter {
        signal: Signal,
        above: u64,
        per: Span,
    },
    /// A heartbeat not heard for this long.
    Silence {
        signal: Signal,
        after: Span,
    },
}

/// `bad` among the last `of`, for example 3 of 5. At most 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KofN {
    pub bad: u8,
    pub of: u8,
}

impl std::fmt::Display for KofN {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.bad, self.of)
    }
}

/// When bad observations become a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// Of a gauge's samples.
    pub samples: KofN,
    /// Of a state's reads, and of a counter's.
    pub reads: KofN,
    /// Events: this many within `within`.
    pub events: u8,
    pub within: Span,
    /// All samples that count must span at least this long.
    pub dwell: Option<Span>,
}

/// When a finding ends. Never by silence alone: `quiet` counts only while the source of events is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clear {
    /// Good samples or reads in a row; `None`: samples do not clear it.
    pub good: Option<u8>,
    /// No new event for this long.
    pub quiet: Option<Span>,
    /// A log assertion is withdrawn after two reads of the part's own health that say ok.
    pub by_health: bool,
    /// A person closes it.
    pub by_person: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub id: String,
    /// Row of the signal table it implements.
    pub row: String,
    pub why: String,
    pub family: Family,
    /// Name of a selector; `None`: every machine.
    pub selector: Option<String>,
    pub any: Vec<Condition>,
    /// Only while the machine is on.
    pub only_on: bool,
    pub raise: Raise,
    pub clear: Clear,
    pub class: Class,
    pub severity: Severity,
    /// Its evidence is a hardware report that names the failed component: one source is enough for T2.
    pub positive_fatal: bool,
    /// Two or more of these in one feed, rack or image at once have their cause there.
    pub correlate: bool,
    pub ladder: String,
}

/// What shows that a rung worked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Success {
    /// Every signal of the case is good and fresh.
    Signals,
    /// The agent or the system reports in.
    Agent,
    /// The BMC answers.
    Bmc,
    /// This event is seen.
    Event(String),
    /// The self-tests of the diagnostic boot passed.
    Diagnosis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainRule {
    /// The workload must have left.
    Required,
    /// Wait until the deadline of the drain, then go on.
    OrDeadline,
    /// Nothing to drain: it does not interrupt, or the machine is down.
    NotNeeded,
}
text_form!(DrainRule { Required = "required", OrDeadline = "or_deadline", NotNeeded = "not_needed" });

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Now,
    /// Only in the pool's maintenance window.
    Window,
}
text_form!(When { Now = "now", Window = "window" });

/// What a destructive rung demands beyond the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requires {
    /// The pool is marked stateless.
    pub stateless: bool,
    /// A person always, or nobody where the pool allows it.
    pub approval: ApprovalRule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalRule {
    AutoIfPoolAllows,
    Person,
}
text_form!(ApprovalRule { AutoIfPoolAllows = "auto_if_pool_allows", Person = "person" });

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LadderStep {
    pub rung: Rung,
    /// Observe: how long.
    pub wait: Option<Span>,
    /// How long the machine gets to show success.
    pub settle: Span,
    pub attempts: u8,
    pub success: Success,
    pub drain: DrainRule,
    pub when: When,
    pub requires: Option<Requires>,
    /// What the technician needs: the part to bring, the test profile to run.
    pub detail: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    pub id: String,
    pub steps: Vec<LadderStep>,
    /// How long everything must stay good before the machine counts as repaired.
    pub probation: Span,
    /// Test profile that must pass before it returns.
    pub validate: Option<String>,
}

/// Machines by their properties. Every named list must contain the machine's value; a selector that names nothing selects
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    pub pools: Vec<String>,
    pub models: Vec<String>,
    pub exclude_tags: Vec<String>,
}

/// What a selector looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    pub pool: Option<String>,
    pub model: Option<String>,
    pub tags: Vec<String>,
}

impl Selector {
    pub fn selects(&self, of: &Traits) -> bool {
        if self.pools.is_empty() && self.models.is_empty() {
            return false;
        }
        let named = |list: &[String], value: &Option<String>| list.is_empty() || value.as_ref().is_some_and(|v| list.contains(v));
        named(&self.pools, &of.pool) && named(&self.models, &of.model) && !of.tags.iter().any(|t| self.exclude_tags.contains(t))
    }
}

/// Limits of one pool; each may only be tighter than the site's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolLimits {
    /// Share of the pool that may be interrupted at once, in percent.
    pub disruptive_in_flight_percent: Option<f64>,
    pub reimages_per_day: Option<u32>,
    /// Share that must stay in service, in percent.
    pub min_available_percent: Option<f64>,
}

/// What the operator declares about a pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolPolicy {
    pub mode: Mode,
    /// Nothing on its machines needs to be kept.
    pub stateless: bool,
    /// Mode of the reimage rung alone; never above `recommend` unless the pool is stateless.
    pub reimage: Mode,
    pub limits: PoolLimits,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self { mode: Mode::Recommend, stateless: false, reimage: Mode::Recommend, limits: PoolLimits::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub version: u64,
    /// Why this version exists.
    pub comment: String,
    /// Mode of machines whose pool is not named below.
    pub mode: Mode,
    /// A signal not heard for this long is unknown.
    pub freshness: Span,
    pub selectors: BTreeMap<String, Selector>,
    pub pools: BTreeMap<String, PoolPolicy>,
    pub rules: Vec<Rule>,
    pub ladders: Vec<Ladder>,
}

impl Policy {
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|r| r.id == id)
    }

    pub fn ladder(&self, id: &str) -> Option<&Ladder> {
        self.ladders.iter().find(|l| l.id == id)
    }

    /// What holds in a pool; machines of no pool, and of pools the policy does not name, get the default mode and are never
    /// stateless.
    pub fn pool(&self, name: Option<&str>) -> PoolPolicy {
        name.and_then(|n| self.pools.get(n).copied()).unwrap_or(PoolPolicy { mode: self.mode, ..PoolPolicy::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_says_its_unit_or_is_refused() {
        for (text, secs) in [("30s", 30), ("15m", 900), ("4h", 14_400), ("7d", 604_800)] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.duration().as_secs(), span.to_string().as_str()), (secs, text));
        }
        for text in ["", "30", "m", "-5m", "1.5h", "0s", "99999999999d", "5 m", "5µ", "١s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_selector_that_names_nothing_selects_nothing() {
        let machine = Traits { pool: Some("web".into()), model: Some("R650".into()), tags: vec![] };
        assert!(!Selector::default().selects(&machine));
        assert!(!Selector { exclude_tags: vec!["x".into()], ..Selector::default() }.selects(&machine));
        assert!(Selector { pools: vec!["web".into()], ..Selector::default() }.selects(&machine));
        assert!(!Selector { pools: vec!["*".into()], ..Selector::default() }.selects(&machine));
        let stateful = Traits { tags: vec!["stateful".into()], ..machine };
        assert!(!Selector { pools: vec!["web".into()], exclude_tags: vec!["stateful".into()], ..Selector::default() }.selects(&stateful));
    }

    #[test]
    fn a_machine_of_an_unnamed_pool_is_never_stateless() {
        let policy = Policy {
            version: 1,
            comment: "x".into(),
            mode: Mode::Enforce,
            freshness: Span::secs(180),
            selectors: BTreeMap::new(),
            pools: BTreeMap::new(),
            rules: vec![],
            ladders: vec![],
        };
        assert!(!policy.pool(None).stateless && !policy.pool(Some("web")).stateless);
        assert_eq!(policy.pool(None).reimage, Mode::Recommend);
    }
}
