//! What both fronts of a simulated BMC share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};

use crate::clock;
use crate::domain::power::{PowerAction, PowerState};
use crate::sim::bmc::accounts::{Account, Accounts};
use crate::sim::bmc::board::{Board, Effect, Happening, Host};
use crate::sim::bmc::{BootOverride, BootProgress, Chassis, Counts, Faults, Reach, Setup};
use crate::sim::hardware::Hardware;

/// Events that a slow subscriber may be behind.
const EVENTS_CAP: usize = 64;

pub struct Shared {
    pub chassis: Arc<dyn Chassis>,
    pub setup: Setup,
    faults: Mutex<Faults>,
    accounts: Mutex<Accounts>,
    /// Made when somebody first looks.
    board: OnceLock<Mutex<Board>>,
    pub events: broadcast::Sender<Arc<Happening>>,
    /// The keeper should look.
    pub wake: Notify,
    /// A restart began.
    pub restarts: Notify,
    /// Restarting until then.
    away_until: Mutex<Option<Instant>>,
    /// Counts restarts; connections of an earlier one are dead.
    generation: AtomicU64,
    /// The keeper must end all sessions.
    forget: AtomicBool,
    /// The machine had power when the mains went.
    power_returns: AtomicBool,
    boots: AtomicU64,
    requests: AtomicU64,
    writes: AtomicU64,
    logins: AtomicU64,
    refused_logins: AtomicU64,
    in_flight: AtomicU32,
    most_at_once: AtomicU32,
}

/// One request being answered.
pub struct InFlight<'a>(&'a Shared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(chassis: Arc<dyn Chassis>, setup: Setup) -> Self {
        Self {
            chassis,
            accounts: Mutex::new(Accounts::new(&setup.user, &setup.password, setup.lock_after)),
            setup,
            faults: Mutex::default(),
            board: OnceLock::new(),
            events: broadcast::Sender::new(EVENTS_CAP),
            wake: Notify::new(),
            restarts: Notify::new(),
            away_until: Mutex::new(None),
            generation: AtomicU64::new(0),
            forget: AtomicBool::new(false),
            power_returns: AtomicBool::new(false),
            boots: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            logins: AtomicU64::new(0),
            refused_logins: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            most_at_once: AtomicU32::new(0),
        }
    }

    /// Faults as they act now: a BMC that restarts is not there.
    pub fn faults(&self) -> Faults {
        let faults = lock(&self.faults).clone();
        if self.is_away() { Faults { reach: Reach::Dropped, ..faults } } else { faults }
    }

    pub fn reach(&self) -> Reach {
        if self.is_away() { Reach::Dropped } else { lock(&self.faults).reach }
    }

    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.faults));
    }

    /// Spends one of a fault's counted answers.
    pub fn spend(&self, which: impl Fn(&mut Faults) -> &mut u32) -> bool {
        let mut faults = lock(&self.faults);
        let left = which(&mut faults);
        let spend = *left > 0;
        *left = left.saturating_sub(1);
        spend
    }

    pub fn begin(&self) -> InFlight<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(now, Ordering::Relaxed);
        InFlight(self)
    }

    pub fn counts(&self, open_sessions: usize) -> Counts {
        Counts {
            requests: self.requests.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            logins: self.logins.load(Ordering::Relaxed),
            refused_logins: self.refused_logins.load(Ordering::Relaxed),
            open_sessions,
            most_at_once: self.most_at_once.load(Ordering::Relaxed),
            locked: self.is_locked(),
        }
    }

    pub fn accounts(&self) -> MutexGuard<'_, Accounts> {
        lock(&self.accounts)
    }

    /// Whether the account that was there from the start is locked.
    pub fn is_locked(&self) -> bool {
        self.accounts().named(&self.setup.user).is_some_and(|a| a.locked)
    }

    /// A login with name and password.
    pub fn log_in(&self, user: &str, password: &str) -> Option<Account> {
        let account = self.accounts().log_in(user, password);
        let counter = if account.is_some() { &self.logins } else { &self.refused_logins };
        counter.fetch_add(1, Ordering::Relaxed);
        account
    }

    /// A login over IPMI was accepted.
    pub fn login_accepted(&self, user: &str) {
        self.logins.fetch_add(1, Ordering::Relaxed);
        self.accounts().accept(user);
    }

    /// A login over IPMI was refused.
    pub fn login_refused(&self, user: &str) {
        self.refused_logins.fetch_add(1, Ordering::Relaxed);
        self.accounts().refuse(user);
    }

    pub fn set_power(&self, action: PowerAction) -> Result<(), String> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.faults().accepts_and_does_nothing {
            return Ok(());
        }
        let was_off = self.chassis.power() == PowerState::Off;
        self.chassis.set_power(action)?;
        match action {
            PowerAction::On if !was_off => {}
            PowerAction::On | PowerAction::Cycle | PowerAction::Reset => {
                self.boots.fetch_add(1, Ordering::Relaxed);
            }
            PowerAction::Off | PowerAction::Soft => {}
        }
        Ok(())
    }

    pub fn set_boot(&self, boot: Option<BootOverride>) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults();
        if !faults.accepts_and_does_nothing {
            self.chassis.set_boot_override(boot.map(|b| BootOverride { once: b.once && !faults.boot_stays, ..b }));
        }
    }

    pub fn host(&self) -> Host {
        let power = self.chassis.power();
        let progress = self.chassis.boot_progress().unwrap_or(match power {
            PowerState::On => BootProgress::OsRunning,
            PowerState::Changing => BootProgress::MemoryInitializationStarted,
            PowerState::Off => BootProgress::None,
        });
        let boots = self.chassis.boots().unwrap_or_else(|| self.boots.load(Ordering::Relaxed));
        Host { power, progress: progress.word(), boots }
    }

    /// The board as it is now.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        let (now, host) = (clock::now(), self.host());
        let make = || {
            let identity = self.chassis.identity();
            let seed = identity.uuid.0.as_u64_pair().1;
            let inventory = self.chassis.inventory().unwrap_or_else(|| Hardware::draw(seed, 1).inventory);
            Mutex::new(Board::new(&identity, &inventory, seed, self.setup.pace, now))
        };
        let mut board = lock(self.board.get_or_init(make));
        board.settle(now, host);
        for happening in board.take_happenings() {
            // An error only says that nobody listens.
            drop(self.events.send(Arc::new(happening)));
        }
        for effect in board.take_effects() {
            match effect {
                Effect::Restart(away) => self.go_away(away),
                Effect::BiosVersion(version) => self.chassis.set_bios_version(&version),
            }
        }
        if board.is_restless(now) {
            self.wake.notify_one();
        }
        board
    }

    /// Whether anybody looked at the board yet.
    pub fn has_board(&self) -> bool {
        self.board.get().is_some()
    }

    /// The BMC restarts and is back after `away`.
    pub fn go_away(&self, away: Duration) {
        *lock(&self.away_until) = Some(Instant::now() + away);
        self.forget.store(true, Ordering::Relaxed);
        self.raise_generation();
        self.restarts.notify_one();
    }

    pub fn is_away(&self) -> bool {
        lock(&self.away_until).is_some_and(|until| Instant::now() < until)
    }

    /// True once, when a restart is over.
    pub fn is_back(&self) -> bool {
        let mut until = lock(&self.away_until);
        let back = until.is_some_and(|until| Instant::now() >= until);
        if back {
            *until = None;
        }
        back
    }

    /// True once after a restart began.
    pub fn must_forget(&self) -> bool {
        self.forget.swap(false, Ordering::Relaxed)
    }

    /// The mains are gone for so long: machine and BMC stop where they are.
    pub fn lose_power(&self, away: Duration) {
        let was_on = self.chassis.power() != PowerState::Off;
        self.board().lose_power(clock::now());
        self.power_returns.store(was_on, Ordering::Relaxed);
        if let Err(why) = self.chassis.set_power(PowerAction::Off) {
            tracing::debug!(why, "A simulated machine kept its power although the mains are gone");
        }
        self.go_away(away);
    }

    /// The mains are back: the machine does what its BIOS setting `AcPwrRcvry` says.
    pub fn power_is_back(&self) {
        let was_on = self.power_returns.swap(false, Ordering::Relaxed);
        let setting = self.board().settings.now.get("AcPwrRcvry").and_then(|v| v.as_str().map(str::to_owned));
        let on = match setting.as_deref() {
            Some("On") => true,
            Some("Off") => false,
            Some(_) | None => was_on,
        };
        if was_on && on {
            self.boots.fetch_add(1, Ordering::Relaxed);
            if let Err(why) = self.chassis.set_power(PowerAction::On) {
                tracing::debug!(why, "A simulated machine stayed off although the mains are back");
            }
        }
    }

    /// While it restarts: until when.
    pub fn away_until(&self) -> Option<Instant> {
        *lock(&self.away_until)
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub fn raise_generation(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}
