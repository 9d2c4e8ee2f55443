//! Check 12: how much may be done to a machine, a rack, a feed, a pool and the fleet.
//!
//! The numbers are counted in the transaction that records the intent; here they are only compared.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::permit::Tier;
use crate::domain::policy::{PoolPolicy, Rung};
use crate::domain::time::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Machines of one scope and how many of them are being interrupted right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub members: u32,
    pub in_flight: u32,
}

/// What was done before, as far as limits count it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Past actions of this machine by tier, at least of the last 90 days.
    pub machine: Vec<(Tier, Timestamp)>,
    pub rack: Scope,
    /// Of the feed with the most in flight.
    pub feed: Scope,
    pub pool: Scope,
    /// Members of the pool that are in service.
    pub pool_available: u32,
    pub fleet: Scope,
    pub fleet_t2_last_hour: u32,
    pub fleet_t3_last_hour: u32,
    pub fleet_t3_last_day: u32,
    pub pool_t3_last_day: u32,
    pub rack_last_cycle: Option<Timestamp>,
    pub canary: Canary,
    /// A count could not be read: closed, not open.
    pub unreadable: bool,
}

/// Reimages in a pool since its policy, image or firmware last changed: first one, then three, then the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub started: u32,
    pub passed: u32,
}

impl Canary {
    /// How many may have been started in all.
    fn allowed(self) -> Option<u32> {
        match self.passed {
            0 => Some(1),
            // The canary itself and the three after it.
            1..4 => Some(4),
            _ => None,
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32 between 0 and 1 is a u32")]
fn share(of: u32, percent: f64) -> u32 {
    ((f64::from(of) * percent / 100.0).floor() as u32).max(1)
}

type Refused = (String, Option<Timestamp>);

impl Usage {
    fn count(&self, least: Tier, within: Duration, now: Timestamp) -> usize {
        self.machine.iter().filter(|(t, at)| *t >= least && now.since(*at) < within).count()
    }

    /// Whether one more action fits.
    ///
    /// # Errors
    /// The first limit that would be passed, and when asking again may help.
    pub fn check(&self, rung: Rung, pool: &PoolPolicy, now: Timestamp) -> Result<String, Refused> {
        let tier = rung.tier();
        if self.unreadable {
            return Err(("the budgets cannot be read, which counts as used up".to_owned(), None));
        }
        if tier <= Tier::T1 {
            return self.resets(rung, now);
        }
        self.machine_limits(tier, now)?;
        if self.rack.in_flight >= 1 {
            return Err(("another machine of its rack is being interrupted".to_owned(), None));
        }
        if let Some(at) = self.rack_last_cycle.filter(|at| rung == Rung::PowerCycle && now.since(*at) < Duration::from_secs(30)) {
            return Err(("power cycles in a rack start 30 s apart".to_owned(), Some(at.plus(Duration::from_secs(30)))));
        }
        let feed = share(self.feed.members, 2.0);
        if self.feed.members > 0 && self.feed.in_flight >= feed {
            return Err((
                format!("{} of {} machines on its power feed are being interrupted", self.feed.in_flight, self.feed.members),
                None,
            ));
        }
        self.pool_limits(tier, pool)?;
        self.fleet_limits(tier, now)?;
        Ok(format!("pool {}/{}, fleet {}/{}", self.pool.in_flight, self.pool.members, self.fleet.in_flight, self.fleet.members))
    }

    fn resets(&self, rung: Rung, now: Timestamp) -> Result<String, Refused> {
        let done = self.count(Tier::T1, DAY, now);
        // The history holds BMC resets among T1; tickets are not counted in it.
        if rung == Rung::BmcReset && done >= 4 {
            return Err(("its BMC was reset often enough today".to_owned(), Some(now.plus(HOUR))));
        }
        Ok("does not interrupt".to_owned())
    }

    fn machine_limits(&self, tier: Tier, now: Timestamp) -> Result<(), Refused> {
        let week = self.count(Tier::T2, 7 * DAY, now);
        if week >= 6 {
            return Err((format!("it was interrupted {week} times within 7 days: a person decides"), None));
        }
        if tier == Tier::T3 {
            if self.count(Tier::T3, 7 * DAY, now) >= 1 {
                return Err(("it was reimaged within the last 7 days".to_owned(), None));
            }
            if self.count(Tier::T3, 90 * DAY, now) >= 2 {
                return Err(("it was reimaged twice within 90 days".to_owned(), None));
            }
        } else {
            let t2 = self.machine.iter().filter(|(t, at)| *t == Tier::T2 && now.since(*at) < DAY).count();
            if tier == Tier::T2 && t2 >= 3 {
                return Err(("it was interrupted 3 times within 24 hours".to_owned(), Some(now.plus(HOUR))));
            }
        }
        let spacing = Duration::from_secs(30 * 60);
        if let Some(last) = self.machine.iter().filter(|(t, _)| *t >= Tier::T2).map(|(_, at)| *at).max()
            && now.since(last) < spacing
        {
            return Err(("it was interrupted less than 30 minutes ago".to_owned(), Some(last.plus(spacing))));
        }
        Ok(())
    }

    fn pool_limits(&self, tier: Tier, pool: &PoolPolicy) -> Result<(), Refused> {
        // A policy may only tighten the site's 5 %.
        let percent = pool.limits.disruptive_in_flight_percent.unwrap_or(5.0).min(5.0);
        let most = share(self.pool.members, percent);
        if self.pool.in_flight >= most {
            return Err((format!("{} of its pool are being interrupted, {most} may be", self.pool.in_flight), None));
        }
        if let Some(least) = pool.limits.min_available_percent
            && f64::from(self.pool_available) - 1.0 < f64::from(self.pool.members) * least / 100.0
        {
            return Err((format!("{} of {} of its pool are in service, {least} % must be", self.pool_available, self.pool.members), None));
        }
        if tier == Tier::T3 {
            if let Some(most) = pool.limits.reimages_per_day.filter(|n| self.pool_t3_last_day >= *n) {
                return Err((format!("{most} of its pool were reimaged today"), None));
            }
            if let Some(most) = self.canary.allowed().filter(|n| self.canary.started >= *n) {
                return Err((
                    format!(
                        "since the last change of policy, image or firmware {} were reimaged and {} came through probation; {most} may be \
                         under way",
                        self.canary.started, self.canary.passed
                    ),
                    None,
                ));
            }
        }
        Ok(())
    }

    fn fleet_limits(&self, tier: Tier, now: Timestamp) -> Result<(), Refused> {
        let n = self.fleet.members;
        if self.fleet.in_flight >= share(n, 1.0) {
            return Err((format!("{} of the fleet are being interrupted, 1 % may be", self.fleet.in_flight), None));
        }
        if self.fleet_t2_last_hour >= share(n, 2.0) {
            return Err(("2 % of the fleet were interrupted within the hour".to_owned(), Some(now.plus(Duration::from_secs(600)))));
        }
        if tier >= Tier::T3 {
            if self.fleet_t3_last_hour >= share(n, 0.2) {
                return Err(("0.2 % of the fleet were reimaged within the hour".to_owned(), Some(now.plus(Duration::from_secs(600)))));
            }
            if self.fleet_t3_last_day >= share(n, 1.0) {
                return Err(("1 % of the fleet were reimaged today".to_owned(), Some(now.plus(HOUR))));
            }
        }
        Ok(())
    }
}
