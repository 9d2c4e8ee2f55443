//! What one condition remembers: the last samples, a leaky bucket, events, or a silence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::health::judge::Verdict;
use crate::domain::policy::{Condition, KofN, Rule, Span};
use crate::domain::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Gauges and states.
    Samples(Samples),
    Bucket(Bucket),
    Events(Events),
    Silence(Silence),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Last samples, newest in bit 0; 1 is bad.
    bits: u64,
    good_run: u8,
    first_bad: Option<Timestamp>,
    raised: bool,
    is_gauge: bool,
    of: u8,
}

/// Fills with growth and leaks `above` per `per`; bad while more than `above` is in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    total: Option<u64>,
    level: f64,
    at: Option<Timestamp>,
    bad_at: Option<Timestamp>,
    samples: Samples,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    at: Vec<Timestamp>,
    raised: bool,
    denied: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    suspect: bool,
    raised: bool,
    beats: u8,
}

impl Samples {
    fn take(&mut self, verdict: Verdict, k: KofN, rule: &Rule, now: Timestamp) {
        self.of = k.of;
        let mask = if k.of >= 64 { u64::MAX } else { (1 << k.of) - 1 };
        match verdict {
            Verdict::Bad | Verdict::Disputed => {
                self.bits = (self.bits << 1 | 1) & mask;
                self.good_run = 0;
                let first = *self.first_bad.get_or_insert(now);
                let long_enough = rule.raise.dwell.is_none_or(|d| now.since(first) >= d.duration());
                self.raised |= self.bits.count_ones() >= u32::from(k.bad) && long_enough;
            }
            Verdict::Good => {
                self.bits = (self.bits << 1) & mask;
                self.good_run = self.good_run.saturating_add(1);
                if self.raised && rule.clear.good.is_some_and(|n| self.good_run >= n) {
                    self.raised = false;
                    self.bits = 0;
                }
                if self.bits == 0 && !self.raised {
                    self.first_bad = None;
                }
            }
            Verdict::Between => self.good_run = 0,
            Verdict::NoSay | Verdict::Counter { .. } => {}
        }
    }
}

impl Cell {
    pub fn of(condition: &Condition) -> Self {
        match condition {
            Condition::Event { .. } => Self::Events(Events::default()),
            Condition::State { .. } => Self::Samples(Samples::default()),
            Condition::Gauge { .. } => Self::Samples(Samples { is_gauge: true, ..Samples::default() }),
            Condition::Counter { .. } => Self::Bucket(Bucket::default()),
            Condition::Silence { .. } => Self::Silence(Silence::default()),
        }
    }

    /// Adds a counter's growth. `None`: the first total, or one that says nothing either way. A total below the last is a
    /// counter that started anew, not a negative number of errors.
    pub fn pour(&mut self, total: u64, above: u64, per: Span, now: Timestamp) -> Option<bool> {
        let Self::Bucket(b) = self else { return None };
        let grown = match b.total {
            None => 0,
            Some(last) if total >= last => total - last,
            Some(_) => total,
        };
        let first = b.total.is_none();
        #[expect(clippy::cast_precision_loss, reason = "error counts beyond 2^52 are beyond every limit")]
        let (grown, above) = (grown as f64, above as f64);
        let leak = b.at.map_or(0.0, |at| now.since(at).as_secs_f64() / per.duration().as_secs_f64() * above.max(1.0));
        b.level = (b.level - leak).max(0.0) + grown;
        b.total = Some(total);
        b.at = Some(now);
        if first {
            return None;
        }
        if b.level > above {
            b.bad_at = Some(now);
            Some(true)
        } else if b.level <= above / 2.0 {
            Some(false)
        } else {
            None
        }
    }

    pub fn take(&mut self, verdict: Verdict, rule: &Rule, now: Timestamp) {
        match self {
            Self::Samples(s) => s.take(verdict, if s.is_gauge { rule.raise.samples } else { rule.raise.reads }, rule, now),
            Self::Bucket(b) => b.samples.take(verdict, rule.raise.reads, rule, now),
            Self::Events(e) => match verdict {
                Verdict::Bad | Verdict::Disputed => {
                    let within = rule.raise.within.duration();
                    e.at.retain(|at| now.since(*at) <= within);
                    e.at.push(now);
                    // No rule asks for more than 255; older ones do not matter.
                    if e.at.len() > 255 {
                        e.at.remove(0);
                    }
                    e.denied = 0;
                    e.raised |= e.at.len() >= usize::from(rule.raise.events);
                }
                // The end of an assertion ends what a part's own health may end as well; an error that happened stays one.
                Verdict::Good if rule.clear.by_health => *e = Events::default(),
                Verdict::Good | Verdict::Between | Verdict::NoSay | Verdict::Counter { .. } => {}
            },
            Self::Silence(s) => {
                s.suspect = false;
                s.beats = s.beats.saturating_add(1);
                if s.beats >= rule.clear.good.unwrap_or(2) {
                    s.raised = false;
                }
            }
        }
    }

    pub fn be_silent(&mut self, long: bool) {
        if let Self::Silence(s) = self {
            s.suspect = true;
            s.raised |= long;
            s.beats = 0;
        }
    }

    /// The part's health says ok. Twice withdraws what the log asserted; true if it did.
    pub fn deny(&mut self) -> bool {
        let Self::Events(e) = self else { return false };
        if e.at.is_empty() {
            return false;
        }
        e.denied = e.denied.saturating_add(1);
        let over = e.denied >= 2;
        if over {
            *e = Events::default();
        }
        over
    }

    /// No new event for this long, while the log was being read.
    pub fn fall_quiet(&mut self, quiet: Duration, now: Timestamp) {
        match self {
            Self::Events(e) if e.at.last().is_some_and(|at| now.since(*at) >= quiet) => *e = Events::default(),
            // A counter whose bucket has leaked empty, seen at least once since it was bad.
            Self::Bucket(b) if b.samples.raised && b.samples.good_run > 0 && b.bad_at.is_some_and(|at| now.since(at) >= quiet) => {
                b.samples = Samples { of: b.samples.of, ..Samples::default() };
            }
            Self::Samples(_) | Self::Bucket(_) | Self::Events(_) | Self::Silence(_) => {}
        }
    }

    /// Forgets what happened, keeps what is.
    pub fn spend(&mut self) {
        match self {
            Self::Events(e) => *e = Events::default(),
            Self::Bucket(b) => {
                b.level = 0.0;
                b.samples = Samples { of: b.samples.of, ..Samples::default() };
            }
            Self::Samples(_) | Self::Silence(_) => {}
        }
    }

    pub fn is_raised(&self) -> bool {
        match self {
            Self::Samples(s) => s.raised,
            Self::Bucket(b) => b.samples.raised,
            Self::Events(e) => e.raised,
            Self::Silence(s) => s.raised,
        }
    }

    pub fn is_suspect(&self) -> bool {
        match self {
            Self::Samples(s) => s.bits != 0,
            Self::Bucket(b) => b.samples.bits != 0,
            Self::Events(e) => !e.at.is_empty(),
            Self::Silence(s) => s.suspect,
        }
    }

    /// Fed by samples, so that not being fed means not being heard.
    pub fn is_sampled(&self) -> bool {
        matches!(self, Self::Samples(_) | Self::Bucket(_))
    }
}
