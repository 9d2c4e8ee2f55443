//! Lints L1 to L13: what a policy may not say. A finding blocks activation.
//!
//! What only the fleet can tell (how many machines a selector matches, how long a model boots, which signals are reported) is
//! checked when [`Fleet`] is given; `hostler policy lint FILE` runs without one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::decide::policy::parse::PolicyFile;
use crate::domain::observation::Family;
use crate::domain::permit::Tier;
use crate::domain::policy::{Condition, Ladder, Limit, Mode, Policy, Rule, Rung, Traits};
use crate::domain::power::text_form;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lint {
    /// A hardware class reaches reimage.
    L1,
    /// A destructive rung without `requires`.
    L2,
    /// A restart in a ladder of power supplies, fans, heat, liquid or power budgets.
    L3,
    /// A rule that never ends.
    L4,
    /// A raise limit inside the hysteresis of another.
    L5,
    /// A selector that is empty, takes everything, or takes machines that run Hostler.
    L6,
    /// A rung that cannot be reached.
    L7,
    /// Limits looser than the site's.
    L8,
    /// Two rules see the same thing and climb different ladders.
    L9,
    /// A settle time shorter than the machine needs to boot.
    L10,
    /// Freshness longer than the evidence may be old.
    L11,
    /// A signal that too few of the machines report.
    L12,
    /// Reimage without a restart that was tried and failed.
    L13,
}
text_form!(Lint {
    L1 = "L1", L2 = "L2", L3 = "L3", L4 = "L4", L5 = "L5", L6 = "L6", L7 = "L7", L8 = "L8", L9 = "L9", L10 = "L10", L11 = "L11",
    L12 = "L12", L13 = "L13",
});

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub lint: Lint,
    pub line: usize,
    pub what: String,
}

/// One machine as lints see it.
#[derive(Clone, Debug, Default)]
pub struct Member {
    pub traits: Traits,
    /// It runs Hostler or its database.
    pub is_controller: bool,
}

/// What the fleet knows.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    pub members: Vec<Member>,
    /// 95th percentile of measured boots, by model.
    pub boot_p95: BTreeMap<String, Duration>,
    /// Share of the selected machines (0 to 1) that report what a rule looks at, by rule.
    pub reported: BTreeMap<String, f64>,
}

/// The site's share of a pool that may be interrupted at once.
const SITE_DISRUPTIVE_PERCENT: f64 = 5.0;
/// The site's share of the fleet that may be reimaged in a day.
const SITE_REIMAGE_SHARE: f64 = 0.01;
/// Limits nearer to each other than this flap between two rules: the default hysteresis of temperatures, 3 degrees.
const HYSTERESIS: f64 = 3.0;
/// No server boots in less: POST takes 3 to 15 minutes.
const LEAST_BOOT: Duration = Duration::from_secs(5 * 60);
/// Evidence for an interruption may be 5 minutes old, for a ticket 15.
const EVIDENCE_T2: Duration = Duration::from_secs(5 * 60);
const EVIDENCE_T1: Duration = Duration::from_secs(15 * 60);

/// Runs every lint. Empty: the policy may be activated.
pub fn lint(file: &PolicyFile, fleet: Option<&Fleet>) -> Vec<Finding> {
    let mut run = Run { policy: &file.policy, file, found: Vec::new() };
    for rule in &file.policy.rules {
        run.rule(rule, fleet);
    }
    for ladder in &file.policy.ladders {
        run.ladder(ladder, fleet);
    }
    run.pairs();
    run.selectors(fleet);
    run.pools(fleet);
    run.freshness();
    run.found.sort_by_key(|f| (f.line, f.lint));
    run.found
}

struct Run<'a> {
    policy: &'a Policy,
    file: &'a PolicyFile,
    found: Vec<Finding>,
}

impl Run<'_> {
    fn add(&mut self, lint: Lint, line: usize, what: String) {
        self.found.push(Finding { lint, line, what });
    }

    fn rule_line(&self, id: &str) -> usize {
        self.file.lines.rules.get(id).copied().unwrap_or(1)
    }

    fn ladder_line(&self, id: &str) -> usize {
        self.file.lines.ladders.get(id).copied().unwrap_or(1)
    }

    fn rule(&mut self, rule: &Rule, fleet: Option<&Fleet>) {
        let line = self.rule_line(&rule.id);
        if let Some(ladder) = self.policy.ladder(&rule.ladder) {
            let reimages = ladder.steps.iter().any(|s| s.rung.loses_data());
            if reimages && !rule.family.reimage_may_help() {
                let what = format!(
                    "{} is about {}, which is hardware: its ladder {} must not reach a rung that loses data",
                    rule.id, rule.family, ladder.id
                );
                self.add(Lint::L1, line, what);
            }
            if !rule.family.restart_may_help()
                && let Some(step) = ladder.steps.iter().find(|s| s.rung.restarts())
            {
                let what = format!("{} is about {}: no restart mends it, and {} has {}", rule.id, rule.family, ladder.id, step.rung);
                self.add(Lint::L3, line, what);
            }
        }
        let clear = &rule.clear;
        if clear.good.is_none() && clear.quiet.is_none() && !clear.by_person {
            self.add(Lint::L4, line, format!("{} has no `good`, `quiet` or `by_person`: it would never end", rule.id));
        }
        // A rule of events alone never sees a good sample; one of states alone never falls quiet.
        let events = |c: &Condition| matches!(c, Condition::Event { .. });
        if rule.any.iter().any(events) && clear.quiet.is_none() && !clear.by_health && !clear.by_person {
            self.add(
                Lint::L4,
                line,
                format!("{} matches log events but says neither `quiet` nor `by_health`: they would never end", rule.id),
            );
        }
        if rule.any.iter().any(|c| !events(c)) && clear.good.is_none() && clear.quiet.is_none() && !clear.by_person {
            self.add(Lint::L4, line, format!("{} matches samples but does not say after how many good ones it is over", rule.id));
        }
        if let Some(share) = fleet.and_then(|f| f.reported.get(&rule.id)).filter(|s| **s < 0.8) {
            let what =
                format!("only {:.0} % of the machines of {} report what it looks at: it is blind on the others", share * 100.0, rule.id);
            self.add(Lint::L12, line, what);
        }
    }

    fn ladder(&mut self, ladder: &Ladder, fleet: Option<&Fleet>) {
        let line = self.ladder_line(&ladder.id);
        for step in ladder.steps.iter().filter(|s| s.rung.loses_data() && s.requires.is_none()) {
            self.add(Lint::L2, line, format!("{} reaches {} without saying what it requires", ladder.id, step.rung));
        }
        if let Some(at) = ladder.steps.iter().position(|s| s.rung.is_last())
            && at + 1 < ladder.steps.len()
        {
            let what = format!("in {} nothing behind {} can be reached", ladder.id, ladder.steps[at].rung);
            self.add(Lint::L7, line, what);
        }
        if !self.policy.rules.iter().any(|r| r.ladder == ladder.id) {
            self.add(Lint::L7, line, format!("no rule leads to {}", ladder.id));
        }
        if let Some(at) = ladder.steps.iter().position(|s| s.rung == Rung::Reimage)
            && !ladder.steps[..at].iter().any(|s| s.rung.is_restart())
        {
            let what = format!("{} reimages without a restart before it whose failure would be its evidence", ladder.id);
            self.add(Lint::L13, line, what);
        }
        let slowest = fleet.and_then(|f| f.boot_p95.iter().max_by_key(|(_, d)| **d));
        for step in ladder.steps.iter().filter(|s| s.rung.restarts()) {
            let settle = step.settle.duration();
            if settle < LEAST_BOOT {
                let what = format!("{} gives {} {} to settle; no server boots in less than 5 minutes", ladder.id, step.rung, step.settle);
                self.add(Lint::L10, line, what);
            } else if let Some((model, p95)) = slowest.filter(|(_, p95)| settle < **p95) {
                let what = format!(
                    "{} gives {} {} to settle, and one {model} in twenty takes longer than {} s to boot",
                    ladder.id,
                    step.rung,
                    step.settle,
                    p95.as_secs()
                );
                self.add(Lint::L10, line, what);
            }
        }
    }

    /// L5 and L9: what two rules say of one thing.
    fn pairs(&mut self) {
        let rules = &self.policy.rules;
        let mut found = Vec::new();
        for (n, a) in rules.iter().enumerate() {
            for b in &rules[n..] {
                if a.family != b.family || !may_share(a, b) {
                    continue;
                }
                for (x, y) in a.any.iter().flat_map(|x| b.any.iter().map(move |y| (x, y))) {
                    if a.ladder != b.ladder && same_sight(x, y) {
                        found.push((
                            Lint::L9,
                            b.id.clone(),
                            format!("{} and {} see the same thing and climb {} and {}", a.id, b.id, a.ladder, b.ladder),
                        ));
                    }
                    if let Some(gap) = gap(x, y)
                        && gap < HYSTERESIS
                    {
                        found.push((
                            Lint::L5,
                            b.id.clone(),
                            format!("the limits of {} and {} lie {gap} apart, inside the hysteresis of {HYSTERESIS}", a.id, b.id),
                        ));
                    }
                }
            }
        }
        for (lint, rule, what) in found {
            self.add(lint, self.rule_line(&rule), what);
        }
    }

    fn selectors(&mut self, fleet: Option<&Fleet>) {
        for (name, selector) in &self.policy.selectors {
            let line = self.file.lines.selectors.get(name).copied().unwrap_or(1);
            if selector.pools.is_empty() && selector.models.is_empty() {
                self.add(Lint::L6, line, format!("selector {name} names no pool and no model: it selects nothing"));
            }
            let wild = |t: &String| t.trim().is_empty() || t.contains(['*', '?']);
            if let Some(text) = selector.pools.iter().chain(&selector.models).find(|t| wild(t)) {
                self.add(Lint::L6, line, format!("selector {name} has {text:?}: there are no patterns, write the names"));
            }
            let Some(fleet) = fleet else { continue };
            let taken: Vec<&Member> = fleet.members.iter().filter(|m| selector.selects(&m.traits)).collect();
            if taken.is_empty() {
                self.add(Lint::L6, line, format!("selector {name} takes none of the {} machines", fleet.members.len()));
            } else if taken.len() == fleet.members.len() && fleet.members.len() > 1 {
                self.add(Lint::L6, line, format!("selector {name} takes all {} machines", fleet.members.len()));
            }
            if taken.iter().any(|m| m.is_controller) {
                self.add(Lint::L6, line, format!("selector {name} takes a machine that runs Hostler"));
            }
        }
    }

    fn pools(&mut self, fleet: Option<&Fleet>) {
        for (name, pool) in &self.policy.pools {
            let line = self.file.lines.pools.get(name).copied().unwrap_or(1);
            if name.trim().is_empty() || name.contains(['*', '?']) {
                self.add(Lint::L6, line, format!("pool {name:?} is a pattern: write the name of one pool"));
            }
            if let Some(p) = pool.limits.disruptive_in_flight_percent.filter(|p| *p > SITE_DISRUPTIVE_PERCENT) {
                let what = format!("pool {name} lets {p} % be interrupted at once; the site allows {SITE_DISRUPTIVE_PERCENT} %");
                self.add(Lint::L8, line, what);
            }
            if pool.reimage == Mode::Enforce && !pool.stateless {
                let what = format!("pool {name} would reimage without a person but is not stateless");
                self.add(Lint::L8, line, what);
            }
            let Some(fleet) = fleet else { continue };
            #[expect(clippy::cast_precision_loss, reason = "a fleet has fewer than 2^52 machines")]
            let allowed = (fleet.members.len() as f64 * SITE_REIMAGE_SHARE).max(1.0);
            if let Some(n) = pool.limits.reimages_per_day.filter(|n| f64::from(*n) > allowed) {
                let what = format!("pool {name} lets {n} be reimaged in a day; the site allows {allowed:.0}");
                self.add(Lint::L8, line, what);
            }
            if !fleet.members.iter().any(|m| m.traits.pool.as_deref() == Some(name.as_str())) {
                self.add(Lint::L6, line, format!("pool {name} has no machine"));
            }
        }
    }

    fn freshness(&mut self) {
        let interrupts = self.policy.ladders.iter().flat_map(|l| &l.steps).any(|s| s.rung.tier() >= Tier::T2);
        let most = if interrupts { EVIDENCE_T2 } else { EVIDENCE_T1 };
        if self.policy.freshness.duration() > most {
            let what =
                format!("freshness {} is longer than the {} minutes that evidence may be old", self.policy.freshness, most.as_secs() / 60);
            self.add(Lint::L11, 1, what);
        }
    }
}

/// Whether one machine may fall under both rules.
fn may_share(a: &Rule, b: &Rule) -> bool {
    match (&a.selector, &b.selector) {
        (Some(x), Some(y)) => x == y,
        // Rules for everything meet every other; two different selectors may be kept apart on purpose.
        (None, _) | (_, None) => true,
    }
}

fn same_sight(x: &Condition, y: &Condition) -> bool {
    match (x, y) {
        (Condition::Event { code: a }, Condition::Event { code: b }) => a == b,
        (Condition::State { signal: a, is: v }, Condition::State { signal: b, is: w }) => {
            a == b && v.iter().collect::<BTreeSet<_>>().intersection(&w.iter().collect()).next().is_some()
        }
        (
            Condition::Gauge { signal: a, sensor: s, context: c, limit: l },
            Condition::Gauge { signal: b, sensor: t, context: d, limit: m },
        ) => a == b && s == t && c == d && l == m,
        (Condition::Counter { signal: a, above: v, .. }, Condition::Counter { signal: b, above: w, .. }) => a == b && v == w,
        (Condition::Silence { signal: a, .. }, Condition::Silence { signal: b, .. }) => a == b,
        (
            Condition::Event { .. }
            | Condition::State { .. }
            | Condition::Gauge { .. }
            | Condition::Counter { .. }
            | Condition::Silence { .. },
            _,
        ) => false,
    }
}

/// Distance of two numeric limits of one gauge, if they are two.
fn gap(x: &Condition, y: &Condition) -> Option<f64> {
    let (Condition::Gauge { signal: a, sensor: s, context: c, limit: l }, Condition::Gauge { signal: b, sensor: t, context: d, limit: m }) =
        (x, y)
    else {
        return None;
    };
    if a != b || s != t || c != d {
        return None;
    }
    match (l, m) {
        (Limit::Above(p), Limit::Above(q)) | (Limit::Below(p), Limit::Below(q)) if p != q => Some((p - q).abs()),
        // Too high and too low at once: between them there must be room to be well.
        (Limit::Above(hi), Limit::Below(lo)) | (Limit::Below(lo), Limit::Above(hi)) => Some((hi - lo) / 2.0),
        _ => None,
    }
}

/// Families whose ladder holds a restart or a reimage although none may. Empty for a policy that passes L1 and L3; the
/// engine refuses such a step as well, whatever the policy says.
pub fn forbidden(family: Family, rung: Rung) -> bool {
    (rung.loses_data() && rung != Rung::Retire && !family.reimage_may_help()) || (rung.restarts() && !family.restart_may_help())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::policy::{DEFAULT, parse};
    use crate::domain::policy::PoolPolicy;

    fn found(text: &str, fleet: Option<&Fleet>) -> Vec<Lint> {
        let file = parse::read(text).unwrap_or_else(|e| panic!("{:?}", e.0));
        lint(&file, fleet).into_iter().map(|f| f.lint).collect()
    }

    fn policy(ladder: &str, rule: &str, rest: &str) -> String {
        format!(
            "version = 1\ncomment = \"x\"\n[defaults]\nmode = \"observe\"\nfreshness = \"3m\"\n{rest}\n[[ladder]]\nid = \"l\"\nprobation = \"1h\"\nsteps = [ {ladder} ]\n\
             [[rule]]\nid = \"r\"\nrow = \"X-1\"\nwhy = \"w\"\nclass = \"failed\"\nseverity = \"critical\"\nladder = \"l\"\n{rule}\n"
        )
    }

    const HANG: &str = "component = \"system\"\nany = [ { silence = \"agent_answers\", after = \"5m\" } ]\nclear = { good = 3 }";
    const FAN: &str = "component = \"fan\"\nany = [ { gauge = \"fan\", at = \"critical\" } ]\nclear = { good = 3 }";
    const REIMAGE: &str = "{ rung = \"reimage\", requires = { stateless = true, approval = \"person\" } }";

    #[test]
    fn the_policy_that_ships_reads_and_passes_every_lint() {
        let file = parse::read(DEFAULT).unwrap_or_else(|e| panic!("{:#?}", e.0));
        assert_eq!(lint(&file, None), vec![]);
        assert!(file.policy.pools.is_empty(), "a site names its own pools");
        assert_ne!(file.policy.mode, Mode::Enforce, "nothing is interrupted by itself out of the box");
    }

    #[test]
    fn every_row_of_the_signal_table_has_a_rule() {
        let file = parse::read(DEFAULT).unwrap();
        let rows: BTreeSet<&str> = file.policy.rules.iter().map(|r| r.row.as_str()).collect();
        // PWB-2 is a sum over a rack and BMC-5 an order to subscribe anew: neither is a rule about one machine.
        for row in [
            "PSU-1", "PSU-2", "PSU-3", "PSU-4", "FAN-1", "FAN-2", "TMP-1", "TMP-2", "TMP-3", "LEAK-1", "VLT-1", "VLT-2", "MEM-1", "MEM-2",
            "MEM-3", "MEM-4", "CPU-1", "CPU-2", "CPU-3", "CPU-4", "SDC-1", "PCI-1", "PCI-2", "PCI-3", "NVM-1", "NVM-2", "NVM-3", "NVM-4",
            "HDD-1", "HDD-2", "HDD-3", "RAID-1", "RAID-2", "NIC-1", "NIC-2", "NIC-3", "GPU-1", "GPU-2", "GPU-3", "GPU-4", "GPU-5", "GPU-6",
            "GPU-7", "BMC-1", "BMC-2", "BMC-3", "BMC-4", "WDG-1", "INT-1", "PWB-1", "BOOT-1", "BOOT-2", "BOOT-3", "FW-1", "FW-2", "HB-1",
            "HUM-1",
        ] {
            assert!(rows.contains(row), "{row}");
        }
    }

    #[test]
    fn hardware_never_reaches_reimage_and_fans_never_a_restart() {
        let ladder = format!("{{ rung = \"force_restart\" }}, {REIMAGE}, {{ rung = \"needs_hands\" }}");
        assert_eq!(found(&policy(&ladder, HANG, ""), None), vec![]);
        assert_eq!(found(&policy(&ladder, FAN, ""), None), [Lint::L1, Lint::L3]);
        let dimm = FAN.replace("\"fan\"", "\"memory\"").replace("gauge = \"memory\"", "gauge = \"temperature\"");
        assert_eq!(found(&policy(&ladder, &dimm, ""), None), [Lint::L1]);
    }

    #[test]
    fn each_lint_refuses_what_it_is_for() {
        let r = "{ rung = \"force_restart\" }";
        assert_eq!(found(&policy(&format!("{r}, {{ rung = \"reimage\" }}"), HANG, ""), None), [Lint::L2]);
        let no_clear = HANG.replace("clear = { good = 3 }", "");
        assert!(found(&policy(r, &no_clear, ""), None).contains(&Lint::L4));
        let event = "component = \"cpu\"\nany = [ { event = \"ipmi:07/00\" } ]\nclear = { good = 3 }";
        assert_eq!(found(&policy(r, event, ""), None), [Lint::L4]);
        let near = "component = \"temperature\"\nclear = { good = 3 }\nany = [ { gauge = \"temperature\", above = 32 }, { gauge = \"temperature\", above = 33 } ]";
        assert!(found(&policy("{ rung = \"ticket\" }", near, ""), None).contains(&Lint::L5));
        assert_eq!(found(&policy("{ rung = \"needs_hands\" }, { rung = \"ticket\" }", HANG, ""), None), [Lint::L7]);
        assert_eq!(found(&policy("{ rung = \"force_restart\", settle = \"1m\" }", HANG, ""), None), [Lint::L10]);
        assert_eq!(found(&policy(r, HANG, "").replace("\"3m\"", "\"6m\""), None), [Lint::L11]);
        assert_eq!(found(&policy(&format!("{REIMAGE}, {{ rung = \"needs_hands\" }}"), HANG, ""), None), [Lint::L13]);
        let other = "\n[[ladder]]\nid = \"m\"\nprobation = \"1h\"\nsteps = [ { rung = \"ticket\" } ]\n[[rule]]\nid = \"s\"\nrow = \"X-2\"\nwhy = \"w\"\nclass = \"failed\"\nseverity = \"critical\"\nladder = \"m\"\n";
        assert_eq!(found(&(policy(r, HANG, "") + other + HANG), None), [Lint::L9]);
    }

    #[test]
    fn selectors_that_take_nothing_everything_or_ourselves_are_refused() {
        let r = "{ rung = \"force_restart\" }";
        let with = |s: &str| policy(r, HANG, &format!("[selectors.s]\n{s}"));
        assert_eq!(found(&with("exclude_tags = [\"x\"]"), None), [Lint::L6]);
        assert_eq!(found(&with("pools = [\"*\"]"), None), [Lint::L6]);
        let member = |pool: &str, is_controller| Member { traits: Traits { pool: Some(pool.into()), ..Traits::default() }, is_controller };
        let fleet = Fleet { members: vec![member("web", false), member("db", true)], ..Fleet::default() };
        assert_eq!(found(&with("pools = [\"web\"]"), Some(&fleet)), vec![]);
        assert_eq!(found(&with("pools = [\"mail\"]"), Some(&fleet)), [Lint::L6]);
        assert_eq!(found(&with("pools = [\"web\", \"db\"]"), Some(&fleet)), [Lint::L6, Lint::L6]);
        assert_eq!(found(&with("pools = [\"db\"]"), Some(&fleet)), [Lint::L6]);
    }

    #[test]
    fn pools_may_only_tighten() {
        let r = "{ rung = \"force_restart\" }";
        let with = |s: &str| policy(r, HANG, &format!("[pools.web]\nmode = \"enforce\"\n{s}"));
        assert_eq!(found(&with("disruptive_in_flight = \"3%\""), None), vec![]);
        assert_eq!(found(&with("disruptive_in_flight = \"10%\""), None), [Lint::L8]);
        assert_eq!(found(&with("reimage = \"enforce\""), None), [Lint::L8]);
        assert_eq!(found(&with("reimage = \"enforce\"\nstateless = true"), None), vec![]);
        assert_eq!(found(&policy(r, HANG, "[pools.\"*\"]\nmode = \"enforce\""), None), [Lint::L6]);
        assert_eq!(PoolPolicy::default().reimage, Mode::Recommend);
    }

    #[test]
    fn the_fleet_tells_slow_boots_and_dead_rules() {
        let fleet = Fleet {
            boot_p95: [("R750".to_owned(), Duration::from_secs(1200))].into(),
            reported: [("r".to_owned(), 0.5)].into(),
            ..Fleet::default()
        };
        assert_eq!(found(&policy("{ rung = \"force_restart\" }", HANG, ""), Some(&fleet)), [Lint::L10, Lint::L12]);
    }
}
