//! One dialect of one BMC: what the router asks without caring which of the two it is.

use std::sync::Arc;
use std::time::Duration;

use crate::bmc::ipmi::Ipmi;
use crate::bmc::redfish::Redfish;
use crate::bmc::{Bmc, BmcError, BootSet};
use crate::domain::bmc::BmcIdentity;
use crate::domain::bmc_features::{
    Account, BiosAttribute, BmcNetwork, BootOption, BootProgress, FirmwareItem, FirmwareSource, Found, LedState, MediaSlot, Support,
    TaskSeen, TaskState, UpdateBegun,
};
use crate::domain::hardware_log::{LogCursor, LogNews};
use crate::domain::part::Part;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState, ResetType};
use crate::domain::secret::Secret;
use crate::domain::sensor::Sensor;

/// The same question to whichever driver it is.
macro_rules! ask {
    ($driver:expr, $method:ident $(, $argument:expr)*) => {
        match $driver {
            Self::Redfish(d) => d.$method($($argument),*).await,
            Self::Ipmi(d) => d.$method($($argument),*).await,
        }
    };
}

/// One dialect of one BMC.
pub enum Driver {
    Redfish(Redfish),
    Ipmi(Arc<Ipmi>),
}

impl Bmc for Driver {
    fn lacks(&self, what: &str) -> BmcError {
        match self {
            Self::Redfish(d) => d.lacks(what),
            Self::Ipmi(d) => d.lacks(what),
        }
    }

    async fn identity(&self) -> Result<BmcIdentity, BmcError> {
        ask!(self, identity)
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        ask!(self, power)
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        ask!(self, set_power, action)
    }

    async fn set_boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> Result<BootSet, BmcError> {
        ask!(self, set_boot_once, device, firmware)
    }

    async fn power_reset(&self, reset: ResetType) -> Result<(), BmcError> {
        ask!(self, power_reset, reset)
    }

    async fn supports(&self) -> Result<Vec<Support>, BmcError> {
        ask!(self, supports)
    }

    async fn boot_progress(&self) -> Result<Option<BootProgress>, BmcError> {
        ask!(self, boot_progress)
    }

    async fn boot_order(&self) -> Result<Found<BootOption>, BmcError> {
        ask!(self, boot_order)
    }

    async fn set_boot_order(&self, order: &[String]) -> Result<(), BmcError> {
        ask!(self, set_boot_order, order)
    }

    async fn sensors(&self) -> Result<Found<Sensor>, BmcError> {
        ask!(self, sensors)
    }

    async fn parts(&self) -> Result<Found<Part>, BmcError> {
        ask!(self, parts)
    }

    async fn logs(&self) -> Result<Vec<String>, BmcError> {
        ask!(self, logs)
    }

    async fn log_news(&self, log: &str, cursor: &LogCursor) -> Result<LogNews, BmcError> {
        ask!(self, log_news, log, cursor)
    }

    async fn clear_log(&self, log: &str, read_to: &LogCursor) -> Result<(), BmcError> {
        ask!(self, clear_log, log, read_to)
    }

    async fn firmware(&self) -> Result<Found<FirmwareItem>, BmcError> {
        ask!(self, firmware)
    }

    async fn start_firmware_update(&self, source: &FirmwareSource, targets: &[String]) -> Result<UpdateBegun, BmcError> {
        ask!(self, start_firmware_update, source, targets)
    }

    async fn task(&self, task: &str) -> Result<TaskState, BmcError> {
        ask!(self, task, task)
    }

    async fn tasks(&self) -> Result<Found<TaskSeen>, BmcError> {
        ask!(self, tasks)
    }

    async fn bios(&self) -> Result<Found<BiosAttribute>, BmcError> {
        ask!(self, bios)
    }

    async fn set_bios(&self, settings: &[(String, String)]) -> Result<(), BmcError> {
        ask!(self, set_bios, settings)
    }

    async fn accounts(&self) -> Result<Found<Account>, BmcError> {
        ask!(self, accounts)
    }

    async fn set_account_password(&self, account: &str, password: &Secret<String>) -> Result<(), BmcError> {
        ask!(self, set_account_password, account, password)
    }

    async fn put_account(&self, name: &str, password: &Secret<String>, enabled: bool) -> Result<Account, BmcError> {
        ask!(self, put_account, name, password, enabled)
    }

    async fn delete_account(&self, account: &str) -> Result<(), BmcError> {
        ask!(self, delete_account, account)
    }

    async fn media(&self) -> Result<Found<MediaSlot>, BmcError> {
        ask!(self, media)
    }

    async fn insert_media(&self, slot: &str, url: &str) -> Result<(), BmcError> {
        ask!(self, insert_media, slot, url)
    }

    async fn eject_media(&self, slot: &str) -> Result<(), BmcError> {
        ask!(self, eject_media, slot)
    }

    async fn locator_led(&self) -> Result<LedState, BmcError> {
        ask!(self, locator_led)
    }

    async fn set_locator_led(&self, state: LedState, off_after: Option<Duration>) -> Result<(), BmcError> {
        ask!(self, set_locator_led, state, off_after)
    }

    async fn reset_bmc(&self) -> Result<(), BmcError> {
        ask!(self, reset_bmc)
    }

    async fn network(&self) -> Result<Found<BmcNetwork>, BmcError> {
        ask!(self, network)
    }

    async fn clock_offset(&self) -> Result<Option<i64>, BmcError> {
        ask!(self, clock_offset)
    }

    async fn read_raw(&self, what: &str) -> Result<String, BmcError> {
        ask!(self, read_raw, what)
    }
}
