//! IPMI 2.0 over LAN. Used where Redfish is missing or thin.
//!
//! The `ipmi-rs` crate was tried first; `docs/adr/0005-ipmi-client.md` says what it does for us and why the session layer
//! is our own.

mod accounts;
mod chassis;
mod console;
mod inventory;
mod log;
mod network;
mod repository;
mod sensors;
mod session;
mod sheet;

pub use console::Console;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::bmc::ipmi::repository::Repository;
use crate::bmc::ipmi::session::{Login, Repeat, Session, SessionError};
use crate::bmc::limit::Pace;
use crate::bmc::{Bmc, BmcAccess, BmcError, BootSet, Timing};
use crate::domain::bmc::BmcIdentity;
use crate::domain::bmc_features::{Account, BmcNetwork, BootProgress, FirmwareItem, Found, LedState, Support};
use crate::domain::hardware_log::{LogCursor, LogNews};
use crate::domain::part::Part;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState, ResetType};
use crate::domain::secret::Secret;
use crate::domain::sensor::Sensor;
use crate::wire::ipmi::{self, Command, Failure, completion};

/// A session unused for longer may be gone: BMCs drop them after 60 s (6.12.15).
const SESSION_IDLE_CAP: Duration = Duration::from_secs(45);
/// One BMC over IPMI.
pub struct Ipmi {
    address: String,
    host: String,
    port: u16,
    user: String,
    password: Secret<String>,
    timing: Timing,
    pace: Arc<Pace>,
    /// One request in flight; held while the session is out of its slot.
    turn: Semaphore,
    session: Mutex<Option<(Session, Instant)>>,
    logged_in: AtomicBool,
    /// Sensor and FRU records, read again when the BMC says that they changed.
    repository: Mutex<Option<Arc<Repository>>>,
    /// Erase time of the log after we cleared it: nothing was lost then (see `log`).
    cleared_by_us: Mutex<Option<u32>>,
    has_dcmi: Mutex<Option<bool>>,
}

impl Ipmi {
    pub fn new(access: &BmcAccess, port: u16, timing: Timing, pace: Arc<Pace>) -> Self {
        Self {
            address: access.address.to_string(),
            host: access.address.host.clone(),
            port,
            user: access.user.clone(),
            password: access.password.clone(),
            timing,
            pace,
            turn: Semaphore::new(1),
            session: Mutex::default(),
            logged_in: AtomicBool::new(false),
            repository: Mutex::default(),
            cleared_by_us: Mutex::default(),
            has_dcmi: Mutex::default(),
        }
    }

    /// Whether the BMC accepted our login.
    pub fn is_logged_in(&self) -> bool {
        self.logged_in.load(Ordering::Relaxed)
    }

    /// Closes the session, if one is open.
    pub async fn close(&self) {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((session, _)) = session {
            session.close().await;
        }
    }

    fn error(&self, e: SessionError) -> BmcError {
        let address = self.address.clone();
        match e {
            SessionError::Unauthorized => BmcError::Unauthorized { address, user: self.user.clone() },
            SessionError::Timeout(after) => BmcError::Timeout { address, after },
            SessionError::Unreachable(why) => BmcError::Unreachable { address, why },
            SessionError::Unsupported(what) => BmcError::Unsupported { address, what },
            SessionError::Busy(reason) => BmcError::Busy { address, reason },
            SessionError::Nonsense(what) => BmcError::Nonsense { address, what },
            SessionError::Refused(reason) => BmcError::Refused { address, reason },
        }
    }

    fn unsupported(&self, what: String) -> BmcError {
        self.error(SessionError::Unsupported(what))
    }

    fn busy(&self, reason: &str) -> BmcError {
        self.error(SessionError::Busy(reason.to_owned()))
    }

    /// Without a word to the BMC, which forgot it.
    fn drop_session(&self) {
        drop(self.session.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn nonsense(&self, what: &str) -> BmcError {
        self.error(SessionError::Nonsense(what.into()))
    }

    async fn open(&self) -> Result<Session, BmcError> {
        let login = Login { user: &self.user, password: &self.password };
        let session = Session::open(&self.host, self.port, &login).await.map_err(|e| self.error(e))?;
        self.logged_in.store(true, Ordering::Relaxed);
        Ok(session)
    }

    /// One command; returns its completion code and data. A session the BMC forgot is replaced once, for requests that
    /// may be repeated.
    async fn raw(&self, command: Command, data: &[u8], repeat: Repeat) -> Result<(u8, Vec<u8>), BmcError> {
        self.raw_at(0, command, data, repeat).await
    }

    /// The same at a logical unit of the BMC (7.2).
    async fn raw_at(&self, lun: u8, command: Command, data: &[u8], repeat: Repeat) -> Result<(u8, Vec<u8>), BmcError> {
        let _turn = self.turn.acquire().await.map_err(|_| self.error(SessionError::Busy("this connection is being closed".into())))?;
        let kept = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.pace.meter.command();
        let (mut session, reused) = match kept {
            Some((session, last)) if last.elapsed() < SESSION_IDLE_CAP => (session, true),
            Some(_) | None => (self.open().await?, false),
        };
        let answer = match (reused, repeat) {
            (true, Repeat::Yes) => match session.call(lun, command, data, Repeat::Briefly).await {
                Err(SessionError::Timeout(_)) => {
                    session = self.open().await?;
                    session.call(lun, command, data, repeat).await
                }
                other => other,
            },
            (false, _) | (_, Repeat::Briefly | Repeat::No) => session.call(lun, command, data, repeat).await,
        };
        // After an error the session is left to the BMC's timeout: it may be half-dead.
        let answer = answer.map_err(|e| self.error(e))?;
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some((session, Instant::now()));
        Ok((answer.completion, answer.data))
    }

    fn judge(&self, command: Command, code: u8) -> Result<(), BmcError> {
        if code == completion::OK {
            return Ok(());
        }
        Err(self.error(match ipmi::failure(code) {
            Failure::Missing => SessionError::Unsupported(format!("the IPMI command {}", command.name)),
            Failure::Busy(why) => SessionError::Busy(format!("{}: {why}", command.name)),
            Failure::Refused(why) => SessionError::Refused(format!("{}: {why}", command.name)),
        }))
    }

    async fn read(&self, command: Command, data: &[u8]) -> Result<Vec<u8>, BmcError> {
        let (code, data) = self.raw(command, data, Repeat::Yes).await?;
        self.judge(command, code)?;
        Ok(data)
    }

    async fn write(&self, command: Command, data: &[u8], repeat: Repeat) -> Result<(), BmcError> {
        self.pace.before_write().await;
        let (code, _) = self.raw(command, data, repeat).await?;
        self.judge(command, code)
    }
}

impl Bmc for Ipmi {
    fn lacks(&self, what: &str) -> BmcError {
        self.unsupported(format!("{what} over IPMI"))
    }

    async fn identity(&self) -> Result<BmcIdentity, BmcError> {
        self.read_identity().await
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        self.read_power().await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        self.change_power(action).await
    }

    async fn set_boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> Result<BootSet, BmcError> {
        self.boot_once(device, firmware).await
    }

    async fn power_reset(&self, reset: ResetType) -> Result<(), BmcError> {
        self.reset_as(reset).await
    }

    async fn supports(&self) -> Result<Vec<Support>, BmcError> {
        self.sheet().await
    }

    async fn boot_progress(&self) -> Result<Option<BootProgress>, BmcError> {
        self.firmware_progress().await
    }

    async fn sensors(&self) -> Result<Found<Sensor>, BmcError> {
        self.read_sensors().await
    }

    async fn parts(&self) -> Result<Found<Part>, BmcError> {
        self.read_parts().await
    }

    async fn logs(&self) -> Result<Vec<String>, BmcError> {
        self.sel_info().await.map(|_| vec![log::SEL.to_owned()])
    }

    async fn log_news(&self, log: &str, cursor: &LogCursor) -> Result<LogNews, BmcError> {
        self.require_sel(log)?;
        self.sel_news(cursor).await
    }

    async fn clear_log(&self, log: &str, read_to: &LogCursor) -> Result<(), BmcError> {
        self.require_sel(log)?;
        self.clear_sel(read_to).await
    }

    async fn firmware(&self) -> Result<Found<FirmwareItem>, BmcError> {
        self.own_firmware().await
    }

    async fn accounts(&self) -> Result<Found<Account>, BmcError> {
        self.list_accounts().await
    }

    async fn set_account_password(&self, account: &str, password: &Secret<String>) -> Result<(), BmcError> {
        self.change_password(account, password).await
    }

    async fn put_account(&self, name: &str, password: &Secret<String>, enabled: bool) -> Result<Account, BmcError> {
        self.make_account(name, password, enabled).await
    }

    async fn delete_account(&self, account: &str) -> Result<(), BmcError> {
        self.remove_account(account).await
    }

    async fn locator_led(&self) -> Result<LedState, BmcError> {
        self.identify_state().await
    }

    async fn set_locator_led(&self, state: LedState, off_after: Option<Duration>) -> Result<(), BmcError> {
        self.identify(state, off_after).await
    }

    async fn reset_bmc(&self) -> Result<(), BmcError> {
        self.restart().await
    }

    async fn network(&self) -> Result<Found<BmcNetwork>, BmcError> {
        self.lan_settings().await
    }

    async fn clock_offset(&self) -> Result<Option<i64>, BmcError> {
        self.clock_ahead().await
    }

    async fn read_raw(&self, what: &str) -> Result<String, BmcError> {
        self.run_raw(what).await
    }
}
