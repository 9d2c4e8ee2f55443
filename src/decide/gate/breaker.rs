//! Check 13: a rung that does not help is stopped for its pool, and someone is paged.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::id::MachineId;
use crate::domain::time::{Timestamp, spoken};

/// Results that are looked at.
const LAST: usize = 20;
/// Failures in a row that open it.
const IN_A_ROW: usize = 3;
/// Failures further apart than this do not come from one bad image or firmware: a rung late in a ladder fails now and then
/// because the part is broken, and three such cases in a month are no pattern.
const ROW_WITHIN: Duration = Duration::from_secs(86_400);

/// One pool and one rung. Opens by itself, closes only by a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Newest last: machine, when the result came, and whether it reached the end of its probation (or failed its test).
    results: VecDeque<(MachineId, Timestamp, bool)>,
    opened: Option<(Timestamp, String)>,
}

impl Breaker {
    pub fn record(&mut self, machine: MachineId, passed: bool, at: Timestamp) {
        self.results.push_back((machine, at, passed));
        if self.results.len() > LAST {
            self.results.pop_front();
        }
        if self.opened.is_some() {
            return;
        }
        let row: Vec<_> = self.results.iter().rev().take_while(|(_, _, passed)| !passed).take(IN_A_ROW).collect();
        if let [.., oldest] = row.as_slice()
            && row.len() == IN_A_ROW
            && at.since(oldest.1) <= ROW_WITHIN
        {
            self.opened = Some((at, format!("{IN_A_ROW} failures in a row within {}", spoken(at.since(oldest.1)))));
            return;
        }
        let good = self.results.iter().filter(|(_, _, passed)| *passed).count();
        if self.results.len() == LAST && good * 2 < LAST {
            self.opened = Some((at, format!("only {good} of the last {LAST} helped")));
        }
    }

    /// Why nothing passes, if it is open.
    pub fn open(&self, now: Timestamp) -> Option<String> {
        self.opened.as_ref().map(|(at, why)| format!("the rung is suspended for this pool since {}: {why}", spoken(now.since(*at))))
    }

    pub fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// A person looked at it and lets it go on.
    pub fn close(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn m(n: u128) -> MachineId {
        MachineId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn a_bad_image_is_stopped_after_three_machines_and_stays_so() {
        let mut b = Breaker::default();
        for n in 0..3 {
            assert!(b.open(Timestamp(0)).is_none(), "{n}");
            b.record(m(n), false, Timestamp(i64::try_from(n).unwrap() * 3_600_000_000));
        }
        assert!(b.open(Timestamp(0)).is_some());
        b.record(m(9), true, Timestamp(0));
        assert!(b.is_open(), "a later success does not close it");
        b.close();
        assert!(!b.is_open());
    }

    #[test]
    fn failures_of_one_month_are_no_row_but_half_of_twenty_are_too_many() {
        let mut b = Breaker::default();
        let week = 7 * 86_400 * 1_000_000;
        for n in 0..19 {
            b.record(m(n), n % 5 < 2, Timestamp(i64::try_from(n).unwrap() * week));
            assert!(!b.is_open(), "{n}");
        }
        b.record(m(20), false, Timestamp(20 * week));
        assert!(b.is_open());
    }
}
