//! What protects a weak BMC from us: pace of writes, and an end to login attempts before its account locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// Failed logins after which we stop: lock-outs begin at 3 (iLO delays, some policies lock).
pub const LOGIN_FAILURE_CAP: u32 = 2;

/// Counts what goes out to one BMC.
#[derive(Debug, Default)]
pub struct Meter {
    requests: AtomicU64,
    commands: AtomicU64,
}

tokio::task_local! {
    /// What the call under way in this task sends.
    static TALLY: Arc<Meter>;
}

/// Runs one exchange and counts the HTTP requests and IPMI commands that it sent, whatever else is sent to the same BMC meanwhile.
pub async fn tallied<T>(exchange: impl Future<Output = T>) -> (T, u64, u64) {
    let tally = Arc::new(Meter::default());
    let out = TALLY.scope(Arc::clone(&tally), exchange).await;
    let (requests, commands) = tally.take();
    (out, requests, commands)
}

impl Meter {
    /// An HTTP request goes out.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // Outside of a tally nobody counts this task's share.
        TALLY.try_with(|t| _ = t.requests.fetch_add(1, Ordering::Relaxed)).unwrap_or_default();
    }

    /// An IPMI command goes out.
    pub fn command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
        TALLY.try_with(|t| _ = t.commands.fetch_add(1, Ordering::Relaxed)).unwrap_or_default();
    }

    /// Requests and commands since the last call.
    pub fn take(&self) -> (u64, u64) {
        (self.requests.swap(0, Ordering::Relaxed), self.commands.swap(0, Ordering::Relaxed))
    }
}

/// At least `gap` between two writes to one BMC (iDRAC and X10 boards were seen to crash when asked too fast).
#[derive(Debug)]
pub struct Pace {
    /// Everything that is sent, reads too.
    pub meter: Meter,
    gap: Duration,
    turn: Semaphore,
    last: Mutex<Option<Instant>>,
}

impl Pace {
    pub fn new(gap: Duration) -> Self {
        Self { meter: Meter::default(), gap, turn: Semaphore::new(1), last: Mutex::default() }
    }

    /// Returns when the next write may be sent. Bounded by the gap times the requests in flight.
    pub async fn before_write(&self) {
        // The semaphore is never closed; without a turn the write would merely come early.
        let _turn = self.turn.acquire().await.ok();
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last {
            tokio::time::sleep_until(last + self.gap).await;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    user: String,
    password: Secret<String>,
}

/// Counts refused logins of one BMC and says when to stop.
#[derive(Default)]
pub struct LoginGuard {
    failures: u32,
    failed: Option<Credentials>,
    proven: Option<Credentials>,
    paused_until: Option<Timestamp>,
}

/// Not now.
#[derive(Debug, PartialEq, Eq)]
pub struct Paused {
    pub failures: u32,
    pub wait: Duration,
}

impl LoginGuard {
    /// Whether these credentials may be sent now. Others than the failed ones may at once, and start a new count; after a
    /// pause the same may once more.
    pub fn may_try(&mut self, user: &str, password: &Secret<String>, now: Timestamp) -> Result<(), Paused> {
        if self.failed.as_ref().is_some_and(|f| f.user != user || f.password != *password) {
            self.failures = 0;
            self.failed = None;
            self.paused_until = None;
        }
        match self.paused_until {
            Some(until) if self.failures >= LOGIN_FAILURE_CAP && now < until => {
                Err(Paused { failures: self.failures, wait: until.since(now) })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub fn is_proven(&self, user: &str, password: &Secret<String>) -> bool {
        self.proven.as_ref().is_some_and(|p| p.user == user && p.password == *password)
    }

    pub fn accepted(&mut self, user: &str, password: &Secret<String>) {
        *self = Self { proven: Some(Credentials { user: user.to_owned(), password: password.clone() }), ..Self::default() };
    }

    pub fn refused(&mut self, user: &str, password: &Secret<String>, now: Timestamp, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.failed = Some(Credentials { user: user.to_owned(), password: password.clone() });
        self.proven = None;
        self.paused_until = (self.failures >= LOGIN_FAILURE_CAP).then(|| now.plus(pause));
    }

    /// Takes up a count kept by the caller over a restart, for the credentials it was counted with; a count we have is newer.
    pub fn restore(&mut self, user: &str, password: &Secret<String>, failures: u32, paused_until: Option<Timestamp>) {
        if failures > 0 && self.failures == 0 && self.proven.is_none() {
            self.failures = failures;
            self.failed = Some(Credentials { user: user.to_owned(), password: password.clone() });
            self.paused_until = paused_until;
        }
    }

    pub fn count(&self) -> (u32, Option<Timestamp>) {
        (self.failures, self.paused_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(900);

    fn at(secs: i64) -> Timestamp {
        Timestamp(secs * 1_000_000)
    }

    #[test]
    fn after_two_refused_logins_we_stop_for_the_pause_and_then_try_once() {
        let (wrong, mut guard) = (Secret::new("wrong".to_owned()), LoginGuard::default());
        for t in 0..2 {
            guard.may_try("u", &wrong, at(t)).unwrap();
            guard.refused("u", &wrong, at(t), PAUSE);
        }
        assert_eq!(guard.may_try("u", &wrong, at(2)), Err(Paused { failures: 2, wait: Duration::from_secs(899) }));
        assert!(guard.may_try("u", &wrong, at(901)).is_ok());
        guard.refused("u", &wrong, at(901), PAUSE);
        assert!(guard.may_try("u", &wrong, at(902)).is_err());
    }

    #[test]
    fn changed_credentials_may_be_tried_at_once() {
        let (wrong, right, mut guard) = (Secret::new("wrong".to_owned()), Secret::new("right".to_owned()), LoginGuard::default());
        guard.refused("u", &wrong, at(0), PAUSE);
        guard.refused("u", &wrong, at(1), PAUSE);
        assert!(guard.may_try("u", &right, at(2)).is_ok());
        guard.accepted("u", &right);
        assert!(guard.is_proven("u", &right) && !guard.is_proven("u", &wrong));
        assert_eq!(guard.count(), (0, None));
    }

    #[test]
    fn a_pause_survives_a_restart_of_the_service() {
        let (wrong, mut guard) = (Secret::new("wrong".to_owned()), LoginGuard::default());
        guard.restore("u", &wrong, 2, Some(at(900)));
        assert!(guard.may_try("u", &wrong, at(10)).is_err());
        assert!(guard.may_try("u", &wrong, at(900)).is_ok());
        assert!(guard.may_try("u", &Secret::new("right".to_owned()), at(10)).is_ok(), "it was counted with other credentials");
    }

    #[tokio::test]
    async fn writes_keep_their_distance() {
        let (pace, begin) = (Pace::new(Duration::from_millis(20)), Instant::now());
        for _ in 0..3 {
            pace.before_write().await;
        }
        assert!(begin.elapsed() >= Duration::from_millis(40));
    }
}
