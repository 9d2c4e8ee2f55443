//! Chassis: power, boot device, locator LED (IPMI v2.0, section 28).

use std::time::Duration;

use tokio::time::Instant;

use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::{Repeat, SessionError};
use crate::bmc::{BmcError, BootSet};
use crate::domain::bmc_features::LedState;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState, ResetType};
use crate::wire::ipmi::{self, BootFlags, completion};

impl Ipmi {
    pub(super) async fn read_power(&self) -> Result<PowerState, BmcError> {
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

    pub(super) async fn change_power(&self, action: PowerAction) -> Result<(), BmcError> {
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

    pub(super) async fn boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> Result<BootSet, BmcError> {
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

    /// Reads boot flags back: the parameter's data after version and number.
    pub(super) async fn boot_flags(&self) -> Result<Option<BootFlags>, BmcError> {
        let (code, data) = self.raw(ipmi::GET_BOOT_OPTIONS, &[ipmi::PARAMETER_BOOT_FLAGS, 0, 0], Repeat::Yes).await?;
        Ok(if code == completion::OK { data.get(2..).and_then(BootFlags::read) } else { None })
    }

    /// A reset type of the standard, as asked. IPMI knows six of them (28.3); the others are named as missing.
    pub(super) async fn reset_as(&self, reset: ResetType) -> Result<(), BmcError> {
        let (code, repeat) = match reset {
            ResetType::On | ResetType::ForceOn => (1, Repeat::Yes),
            ResetType::ForceOff => (0, Repeat::Yes),
            ResetType::GracefulShutdown => (5, Repeat::Yes),
            ResetType::PowerCycle => (2, Repeat::No),
            ResetType::ForceRestart => (3, Repeat::No),
            ResetType::Nmi => (4, Repeat::No),
            ResetType::GracefulRestart
            | ResetType::PushPowerButton
            | ResetType::FullPowerCycle
            | ResetType::Suspend
            | ResetType::Pause
            | ResetType::Resume => {
                return Err(self.unsupported(format!(
                    "{reset} over IPMI; it has On, ForceOn, ForceOff, GracefulShutdown, PowerCycle, ForceRestart and Nmi"
                )));
            }
        };
        self.write(ipmi::CHASSIS_CONTROL, &[code], repeat).await
    }

    /// Get Chassis Status (28.2), byte 3: bit 6 says that bits 5:4 tell the identify state.
    pub(super) async fn identify_state(&self) -> Result<LedState, BmcError> {
        let status = self.read(ipmi::CHASSIS_STATUS, &[]).await?;
        match status.get(2).filter(|misc| **misc & 0x40 != 0).map(|misc| misc >> 4 & 3) {
            Some(0) => Ok(LedState::Off),
            Some(_) => Ok(LedState::On),
            None => Err(self.unsupported("a locator LED that can be read back (chassis status says nothing of it)".to_owned())),
        }
    }

    /// Chassis Identify (28.5). IPMI has one way of being on; most BMCs blink. Without `off_after` it stays on where the BMC can
    /// force it, else for the longest time there is (255 s).
    pub(super) async fn identify(&self, state: LedState, off_after: Option<Duration>) -> Result<(), BmcError> {
        match (state, off_after) {
            (LedState::Off, _) => self.write(ipmi::CHASSIS_IDENTIFY, &[0], Repeat::Yes).await,
            (LedState::On | LedState::Blinking, Some(after)) => {
                let secs = u8::try_from(after.as_secs().clamp(1, 255)).unwrap_or(u8::MAX);
                self.write(ipmi::CHASSIS_IDENTIFY, &[secs], Repeat::Yes).await
            }
            (LedState::On | LedState::Blinking, None) => match self.write(ipmi::CHASSIS_IDENTIFY, &[0, 1], Repeat::Yes).await {
                // "Force on" came with IPMI 2.0 and is optional.
                Err(BmcError::Refused { .. }) => self.write(ipmi::CHASSIS_IDENTIFY, &[255], Repeat::Yes).await,
                other => other,
            },
        }
    }
}
