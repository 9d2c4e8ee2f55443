//! IPMI 2.0 over LAN: the part both dialects have. Used where Redfish is missing.
//!
//! The `ipmi-rs` crate was tried first; `docs/adr/0005-ipmi-client.md` says what it does for us and why the session layer
//! is our own.

mod session;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::bmc::ipmi::session::{Login, Repeat, Session, SessionError};
use crate::bmc::limit::Pace;
use crate::bmc::{Bmc, BmcAccess, BmcError, BootSet, Timing};
use crate::domain::bmc::{BmcIdentity, BmcProtocol};
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::domain::secret::Secret;
use crate::wire::ipmi::{self, BootFlags, Command, Failure, Fru, completion};

/// A session unused for longer may be gone: BMCs drop them after 60 s (6.12.15).
const SESSION_IDLE_CAP: Duration = Duration::from_secs(45);
/// Bytes of a FRU that are read; the areas we want are within the first few hundred.
const FRU_CAP: usize = 2048;
/// Bytes asked for in one Read FRU Data; smaller ones after a BMC that cannot.
const FRU_CHUNKS: [u8; 3] = [64, 32, 16];

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
        let _turn = self.turn.acquire().await.map_err(|_| self.error(SessionError::Busy("this connection is being closed".into())))?;
        let kept = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.pace.meter.command();
        let (mut session, reused) = match kept {
            Some((session, last)) if last.elapsed() < SESSION_IDLE_CAP => (session, true),
            Some(_) | None => (self.open().await?, false),
        };
        let answer = match (reused, repeat) {
            (true, Repeat::Yes) => match session.call(command, data, Repeat::Briefly).await {
                Err(SessionError::Timeout(_)) => {
                    session = self.open().await?;
                    session.call(command, data, repeat).await
                }
                other => other,
            },
            (false, _) | (_, Repeat::Briefly | Repeat::No) => session.call(command, data, repeat).await,
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

    async fn read_power(&self) -> Result<PowerState, BmcError> {
        let data = self.read(ipmi::CHASSIS_STATUS, &[]).await?;
        ipmi::chassis_power(&data).ok_or_else(|| self.nonsense("an empty chassis status"))
    }

    /// Sends on or off and sees it happen.
    async fn switch(&self, action: PowerAction, wanted: PowerState) -> Result<(), BmcError> {
        // On and off mean the same when they arrive twice.
        match self.write(ipmi::CHASSIS_CONTROL, &[ipmi::chassis_control(action)], Repeat::Yes).await {
            // Seen: 0xd5 for "on" when on.
            Err(BmcError::Refused { .. }) if self.read_power().await? == wanted => return Ok(()),
            other => other?,
        }
        let end = Instant::now() + self.timing.settle;
        loop {
            let state = self.read_power().await?;
            if state == wanted {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(BmcError::NotEffective {
                    address: self.address.clone(),
                    what: format!("chassis control power {action}"),
                    evidence: format!("{} s later the power is still {state}", self.timing.settle.as_secs()),
                });
            }
            tokio::time::sleep(self.timing.poll).await;
        }
    }

    /// FRU 0, as much as is needed. `None` where there is none.
    async fn fru(&self) -> Result<Option<Fru>, BmcError> {
        let (code, info) = self.raw(ipmi::FRU_AREA, &[0], Repeat::Yes).await?;
        // 34.1: size, then bit 0 set for word access, which no BMC we know of uses for FRU 0.
        let [low, high, access, ..] = info.as_slice() else { return Ok(None) };
        if code != completion::OK || access & 1 == 1 {
            return Ok(None);
        }
        let size = usize::from(u16::from_le_bytes([*low, *high])).min(FRU_CAP);
        let mut chunks = FRU_CHUNKS.into_iter();
        let Some(mut chunk) = chunks.next() else { return Ok(None) };
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < size {
            let [low, high] = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
            let count = chunk.min(u8::try_from(size - bytes.len()).unwrap_or(u8::MAX));
            let (code, data) = self.raw(ipmi::READ_FRU, &[0, low, high, count], Repeat::Yes).await?;
            match (code, data.as_slice()) {
                (completion::OK, [returned, data @ ..]) if *returned > 0 => bytes.extend(data.iter().take(usize::from(*returned))),
                (completion::LENGTH_INVALID | completion::OUT_OF_RANGE | completion::CANNOT_RETURN | completion::INVALID_FIELD, _) => {
                    match chunks.next() {
                        Some(smaller) => chunk = smaller,
                        None => break,
                    }
                }
                _ => break,
            }
        }
        Ok(Some(ipmi::fru(&bytes)))
    }

    /// Reads boot flags back: the parameter's data after version and number.
    async fn boot_flags(&self) -> Result<Option<BootFlags>, BmcError> {
        let (code, data) = self.raw(ipmi::GET_BOOT_OPTIONS, &[ipmi::PARAMETER_BOOT_FLAGS, 0, 0], Repeat::Yes).await?;
        Ok(if code == completion::OK { data.get(2..).and_then(BootFlags::read) } else { None })
    }
}

impl Bmc for Ipmi {
    fn lacks(&self, what: &str) -> BmcError {
        BmcError::Unsupported { address: self.address.clone(), what: what.to_owned() }
    }

    async fn identity(&self) -> Result<BmcIdentity, BmcError> {
        let device = self.read(ipmi::GET_DEVICE_ID, &[]).await?;
        let (code, guid) = self.raw(ipmi::GET_SYSTEM_GUID, &[], Repeat::Yes).await?;
        let uuid = if code == completion::OK { ipmi::guid_text(&guid) } else { None };
        let fru = self.fru().await?.unwrap_or_default();
        Ok(BmcIdentity {
            protocol: Some(BmcProtocol::Ipmi),
            manufacturer: fru.manufacturer,
            model: fru.model,
            serial: fru.serial,
            uuid,
            asset_tag: fru.asset_tag,
            bmc_firmware: ipmi::firmware_version(&device),
            bios_version: None,
        })
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        self.read_power().await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let state = self.read_power().await?;
        match (action, state) {
            (PowerAction::On, PowerState::On) | (PowerAction::Off | PowerAction::Soft, PowerState::Off) => Ok(()),
            // 28.3: power cycle does nothing, or is refused, when the power is off; a cycle ends with it on.
            (PowerAction::On, _) | (PowerAction::Cycle, PowerState::Off) => self.switch(PowerAction::On, PowerState::On).await,
            (PowerAction::Off, _) => self.switch(PowerAction::Off, PowerState::Off).await,
            (PowerAction::Reset, PowerState::Off) => {
                Err(self.error(SessionError::Refused("the machine is off and cannot be reset; power it on instead".into())))
            }
            (PowerAction::Soft, _) => self.write(ipmi::CHASSIS_CONTROL, &[ipmi::chassis_control(PowerAction::Soft)], Repeat::Yes).await,
            (PowerAction::Reset, _) => self.write(ipmi::CHASSIS_CONTROL, &[ipmi::chassis_control(PowerAction::Reset)], Repeat::No).await,
            (PowerAction::Cycle, _) => {
                match self.write(ipmi::CHASSIS_CONTROL, &[ipmi::chassis_control(PowerAction::Cycle)], Repeat::No).await {
                    // 28.3 makes it optional.
                    Err(BmcError::Refused { .. } | BmcError::Unsupported { .. }) => {
                        self.switch(PowerAction::Off, PowerState::Off).await?;
                        self.switch(PowerAction::On, PowerState::On).await
                    }
                    other => other,
                }
            }
        }
    }

    async fn set_boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> Result<BootSet, BmcError> {
        // Without this the BMC forgets the flags 60 s later if no power command came (28.13, parameter 3). Optional, so
        // its answer does not matter; nor that of the acknowledge, which tells the BIOS that the flags are new.
        for parameter in [[ipmi::PARAMETER_VALID_CLEARING, 0x08].as_slice(), &[ipmi::PARAMETER_ACKNOWLEDGE, 0x01, 0x01]] {
            self.pace.before_write().await;
            self.raw(ipmi::SET_BOOT_OPTIONS, parameter, Repeat::Yes).await?;
        }
        let wanted = BootFlags::once(device, firmware);
        let data = [&[ipmi::PARAMETER_BOOT_FLAGS], wanted.write().as_slice()].concat();
        self.write(ipmi::SET_BOOT_OPTIONS, &data, Repeat::Yes).await?;
        match self.boot_flags().await? {
            Some(flags) if flags == wanted => Ok(BootSet::Once),
            Some(flags) if flags.device == wanted.device && flags.persistent && flags.valid => Ok(BootSet::Continuous),
            // OpenIPMI 2.0.33 keeps the device only.
            Some(flags) if flags.device == wanted.device => Ok(BootSet::Unconfirmed),
            Some(flags) => Err(BmcError::NotEffective {
                address: self.address.clone(),
                what: format!("boot once from {device}"),
                evidence: format!("it reads back device selector {} (wanted {}), valid {}", flags.device, wanted.device, flags.valid),
            }),
            None => Ok(BootSet::Unconfirmed),
        }
    }
}
