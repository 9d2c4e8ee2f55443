//! What this process asked BMCs since it started, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::poll::PollKind;

/// How a poll ended, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Unsupported,
    Failed,
    /// Not asked, or asked in vain, because a person must act first (refused login, changed certificate).
    Barred,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Unsupported, Self::Failed, Self::Barred];

    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
            Self::Barred => "barred",
        }
    }
}

/// Upper ends of the buckets of a poll's duration, in seconds.
pub const BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// Counters of one kind of poll.
#[derive(Debug, Default)]
pub struct KindCount {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Durations by bucket, each counted in the first that holds it.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [KindCount; PollKind::ALL.len()],
    requests: AtomicU64,
    commands: AtomicU64,
}

fn index(kind: PollKind) -> usize {
    PollKind::ALL.iter().position(|k| *k == kind).unwrap_or(0)
}

impl KindCount {
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        let at = Outcome::ALL.iter().position(|o| *o == outcome).unwrap_or(0);
        self.outcomes[at].load(Ordering::Relaxed)
    }

    /// How many polls took at most so long: one number a bucket, growing, and all of them last.
    pub fn durations(&self) -> [u64; BUCKETS.len() + 1] {
        let mut sum = 0;
        self.buckets.each_ref().map(|b| {
            sum += b.load(Ordering::Relaxed);
            sum
        })
    }

    pub fn seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

impl Counters {
    pub fn of(&self, kind: PollKind) -> &KindCount {
        &self.kinds[index(kind)]
    }

    /// HTTP requests and IPMI commands to BMCs whose polls were counted.
    pub fn sent(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.commands.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, kind: PollKind, outcome: Outcome, took: Option<Duration>, requests: u64, commands: u64) {
        let count = self.of(kind);
        let at = Outcome::ALL.iter().position(|o| *o == outcome).unwrap_or(0);
        count.outcomes[at].fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.commands.fetch_add(commands, Ordering::Relaxed);
        if let Some(took) = took {
            let bucket = BUCKETS.iter().position(|end| took.as_secs_f64() <= *end).unwrap_or(BUCKETS.len());
            count.buckets[bucket].fetch_add(1, Ordering::Relaxed);
            count.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_up_to_the_end_of_their_bucket() {
        let counters = Counters::default();
        for millis in [40, 50, 51, 200_000] {
            counters.add(PollKind::Logs, Outcome::Ok, Some(Duration::from_millis(millis)), 2, 0);
        }
        counters.add(PollKind::Logs, Outcome::Barred, None, 0, 0);
        let logs = counters.of(PollKind::Logs);
        assert_eq!((logs.durations()[0], logs.durations()[1], logs.durations()[BUCKETS.len()]), (2, 3, 4));
        assert_eq!((logs.outcome(Outcome::Ok), logs.outcome(Outcome::Barred), counters.sent()), (4, 1, (8, 0)));
        assert_eq!(counters.of(PollKind::Power).durations()[BUCKETS.len()], 0);
    }
}
