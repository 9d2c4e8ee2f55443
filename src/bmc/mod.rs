//! BMC drivers behind one narrow trait, a router that prefers Redfish and falls back to IPMI, and a limiter that
//! protects weak controllers.
//!
//! Every call is one bounded exchange. Accepted is not happened: a caller that needs proof reads the power state again
//! or waits for the machine's own signs of life (DHCP, agent).

mod driver;
pub mod ipmi;
mod limit;
pub mod redfish;
mod router;

pub use limit::tallied;
pub use router::{BmcSettings, Bmcs};

use std::time::Duration;

use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcProtocol};
use crate::domain::bmc_features::{
    Account, BiosAttribute, BmcNetwork, BootOption, BootProgress, FirmwareItem, FirmwareSource, Found, LedState, MediaSlot, Support,
    TaskSeen, TaskState, UpdateBegun,
};
use crate::domain::hardware_log::{LogCursor, LogNews};
use crate::domain::id::Sha256;
use crate::domain::part::Part;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState, ResetType};
use crate::domain::secret::Secret;
use crate::domain::sensor::Sensor;

/// What is needed to talk to one BMC.
#[derive(Clone, Debug)]
pub struct BmcAccess {
    pub address: BmcAddress,
    pub user: String,
    pub password: Secret<String>,
    /// SHA-256 of the public key (SPKI, DER) seen at first contact; `None` pins whatever answers now.
    pub tls_pin: Option<Sha256>,
    /// The protocol that worked last, asked first when the address does not say.
    pub prefer: Option<BmcProtocol>,
}

/// An answer and how it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    pub value: T,
    pub protocol: BmcProtocol,
    /// The pin of the connection that answered; store it when none was stored. `None` without TLS.
    pub tls_pin: Option<Sha256>,
}

/// What a BMC is asked. One implementation per protocol; a question it cannot answer in its protocol is `Unsupported`, and
/// the router then asks the other one. Each call is one bounded exchange.
pub trait Bmc: Sync {
    /// `Unsupported` with this BMC named.
    fn lacks(&self, what: &str) -> BmcError;
    /// Who the BMC says it and its machine are.
    fn identity(&self) -> impl Future<Output = Result<BmcIdentity, BmcError>> + Send;
    /// Chassis power as the BMC sees it.
    fn power(&self) -> impl Future<Output = Result<PowerState, BmcError>> + Send;
    /// Asks for a power change. On, off (and cycle, where it is done as off and on) return when the new state is read back
    /// or under way, `NotEffective` if that does not come; soft, reset and a cycle in one command return when accepted.
    fn set_power(&self, action: PowerAction) -> impl Future<Output = Result<(), BmcError>> + Send;
    /// Sets the device of the next boot only, in the machine's firmware mode, and reads it back.
    fn set_boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> impl Future<Output = Result<BootSet, BmcError>> + Send;
    /// Any reset type of the standard, as asked; `Unsupported` names the ones the BMC allows.
    fn power_reset(&self, reset: ResetType) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (reset,);
        async { Err(self.lacks("this reset type")) }
    }
    /// One line for each [`Capability`](crate::domain::bmc_features::Capability), with the evidence for or against it.
    fn supports(&self) -> impl Future<Output = Result<Vec<Support>, BmcError>> + Send {
        async { Err(self.lacks("a description of what it can do")) }
    }
    /// How far the machine's firmware came; `None` where the BMC keeps the property but no value.
    fn boot_progress(&self) -> impl Future<Output = Result<Option<BootProgress>, BmcError>> + Send {
        async { Err(self.lacks("boot progress")) }
    }
    /// The persistent boot order, first first.
    fn boot_order(&self) -> impl Future<Output = Result<Found<BootOption>, BmcError>> + Send {
        async { Err(self.lacks("a boot order")) }
    }
    /// Writes the boot order (references as [`Bmc::boot_order`] gives them) and reads it back.
    fn set_boot_order(&self, order: &[String]) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (order,);
        async { Err(self.lacks("setting a boot order")) }
    }
    /// Every sensor with its present reading, by the cheapest route the BMC offers.
    fn sensors(&self) -> impl Future<Output = Result<Found<Sensor>, BmcError>> + Send {
        async { Err(self.lacks("sensors")) }
    }
    /// Every part the BMC lists.
    fn parts(&self) -> impl Future<Output = Result<Found<Part>, BmcError>> + Send {
        async { Err(self.lacks("a list of parts")) }
    }
    /// The logs it keeps: LogService URIs, or `sel`.
    fn logs(&self) -> impl Future<Output = Result<Vec<String>, BmcError>> + Send {
        async { Err(self.lacks("logs")) }
    }
    /// What is new in one log; a default cursor reads all that is kept, bounded by the driver.
    fn log_news(&self, log: &str, cursor: &LogCursor) -> impl Future<Output = Result<LogNews, BmcError>> + Send {
        _ = (log, cursor);
        async { Err(self.lacks("logs")) }
    }
    /// Clears one log if nothing came after `read_to` (SEL reservation, entries compared); else `Busy`, and nothing is cleared (defect C7).
    fn clear_log(&self, log: &str, read_to: &LogCursor) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (log, read_to);
        async { Err(self.lacks("clearing logs")) }
    }
    /// Firmware by component.
    fn firmware(&self) -> impl Future<Output = Result<Found<FirmwareItem>, BmcError>> + Send {
        async { Err(self.lacks("a firmware inventory")) }
    }
    /// Starts an update and returns at once. A `Timeout` leaves it unknown whether it began.
    fn start_firmware_update(
        &self,
        source: &FirmwareSource,
        targets: &[String],
    ) -> impl Future<Output = Result<UpdateBegun, BmcError>> + Send {
        _ = (source, targets);
        async { Err(self.lacks("firmware updates")) }
    }
    /// How a task stands, by what [`Bmc::start_firmware_update`] returned.
    fn task(&self, task: &str) -> impl Future<Output = Result<TaskState, BmcError>> + Send {
        _ = (task,);
        async { Err(self.lacks("tasks")) }
    }
    /// The tasks that it keeps: what runs, and what has ended and is not forgotten.
    fn tasks(&self) -> impl Future<Output = Result<Found<TaskSeen>, BmcError>> + Send {
        async { Err(self.lacks("a list of tasks")) }
    }
    /// BIOS settings with what is pending.
    fn bios(&self) -> impl Future<Output = Result<Found<BiosAttribute>, BmcError>> + Send {
        async { Err(self.lacks("BIOS settings")) }
    }
    /// Stages settings for the next boot, typed as the BMC types them now, and reads them back as pending or set.
    fn set_bios(&self, settings: &[(String, String)]) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (settings,);
        async { Err(self.lacks("changing BIOS settings")) }
    }
    /// The BMC's accounts.
    fn accounts(&self) -> impl Future<Output = Result<Found<Account>, BmcError>> + Send {
        async { Err(self.lacks("a list of accounts")) }
    }
    /// Sets the password of one account, named by its `source`.
    fn set_account_password(&self, account: &str, password: &Secret<String>) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (account, password);
        async { Err(self.lacks("changing passwords")) }
    }
    /// Makes an administrator account of that name, or brings the one there to this password and state.
    fn put_account(&self, name: &str, password: &Secret<String>, enabled: bool) -> impl Future<Output = Result<Account, BmcError>> + Send {
        _ = (name, password, enabled);
        async { Err(self.lacks("making accounts")) }
    }
    /// Removes one account, named by its `source`; one already gone is success.
    fn delete_account(&self, account: &str) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (account,);
        async { Err(self.lacks("removing accounts")) }
    }
    /// Virtual drives.
    fn media(&self) -> impl Future<Output = Result<Found<MediaSlot>, BmcError>> + Send {
        async { Err(self.lacks("virtual media")) }
    }
    /// Ejects what is in, inserts `url`, and reads it back.
    fn insert_media(&self, slot: &str, url: &str) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (slot, url);
        async { Err(self.lacks("virtual media")) }
    }
    /// Empties a virtual drive; an empty one is success.
    fn eject_media(&self, slot: &str) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (slot,);
        async { Err(self.lacks("virtual media")) }
    }
    /// The locator LED.
    fn locator_led(&self) -> impl Future<Output = Result<LedState, BmcError>> + Send {
        async { Err(self.lacks("a locator LED")) }
    }
    /// Sets it. `off_after` is the BMC's own timer where it has one (IPMI, at most 255 s); others ignore it and the caller turns it off.
    fn set_locator_led(&self, state: LedState, off_after: Option<Duration>) -> impl Future<Output = Result<(), BmcError>> + Send {
        _ = (state, off_after);
        async { Err(self.lacks("a locator LED")) }
    }
    /// Restarts the BMC itself, gracefully where it offers that. Its sessions end; the machine runs on.
    fn reset_bmc(&self) -> impl Future<Output = Result<(), BmcError>> + Send {
        async { Err(self.lacks("resetting itself")) }
    }
    /// The BMC's own network interfaces.
    fn network(&self) -> impl Future<Output = Result<Found<BmcNetwork>, BmcError>> + Send {
        async { Err(self.lacks("its network settings")) }
    }
    /// Seconds by which its clock is ahead of `clock::now()` (BMC-4); `None` where it keeps none.
    fn clock_offset(&self) -> impl Future<Output = Result<Option<i64>, BmcError>> + Send {
        async { Err(self.lacks("a clock")) }
    }
    /// For experts and the raw browser. Redfish: a path below /redfish/v1, its JSON. IPMI: `netfn cmd data…` in hex, the answer in hex.
    fn read_raw(&self, what: &str) -> impl Future<Output = Result<String, BmcError>> + Send {
        _ = (what,);
        async { Err(self.lacks("raw reads")) }
    }
}

/// What a BMC shows after it was told a boot device for the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootSet {
    /// The next boot only, as asked.
    Once,
    /// Every boot from now on, although once was asked (sushy-tools): set the disk again before the machine must boot it.
    Continuous,
    /// The device reads back, but not whether or how long it holds (OpenIPMI's `ipmi_sim` never shows the valid bit).
    Unconfirmed,
}

/// What is meant by an address behind which several machines are and that names none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// An error: a command must not reach another machine than the one meant.
    #[default]
    OneMachine,
    /// All of them, told as the first that is like a machine: for looking, never for commands.
    Everything,
}

/// How long exchanges may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// TCP and TLS connection.
    pub connect: Duration,
    /// One request with its answer. BMCs have been seen to hold a read for tens of seconds.
    pub request: Duration,
    /// From an accepted power command to the state it asks for (sushy's fake driver takes up to 11 s).
    pub settle: Duration,
    /// Between two readings while waiting.
    pub poll: Duration,
    /// One call, all its requests and waits together.
    pub call: Duration,
    /// A call that reads a whole area of the BMC: parts, sensors, a log, BIOS settings. An R750 read link by link takes 250
    /// requests, at 2 s each.
    pub walk: Duration,
    /// A call that uploads firmware: 500 MB at the 1 MB/s that slow BMCs take.
    pub upload: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(30),
            settle: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            call: Duration::from_secs(120),
            walk: Duration::from_secs(600),
            upload: Duration::from_secs(1800),
        }
    }
}

/// Why a BMC exchange failed. `Display` is a clear sentence; whether to try again is decided here, where it is known.
#[derive(Debug, thiserror::Error)]
pub enum BmcError {
    #[error("the BMC at {address} refused user {user:?}: wrong user or password")]
    Unauthorized { address: String, user: String },
    #[error("not asking the BMC at {address} for {}: it refused our login {failures} times and another try may lock the account", crate::domain::time::spoken(*wait))]
    Paused { address: String, failures: u32, wait: Duration },
    #[error("the BMC at {address} cannot be reached: {why}")]
    Unreachable { address: String, why: String },
    #[error("the BMC at {address} did not answer within {} s", after.as_secs())]
    Timeout { address: String, after: Duration },
    #[error("the BMC at {address} answered nonsense: {what}")]
    Nonsense { address: String, what: String },
    #[error("the BMC at {address} refused: {reason}")]
    Refused { address: String, reason: String },
    #[error("the BMC at {address} is busy: {reason}")]
    Busy { address: String, reason: String },
    #[error("the BMC at {address} does not offer {what}")]
    Unsupported { address: String, what: String },
    #[error("the BMC at {address} shows another certificate key ({seen}) than the one pinned at first contact ({pinned})")]
    CertificateChanged { address: String, pinned: Sha256, seen: Sha256 },
    #[error("the BMC at {address} accepted {what} but did nothing: {evidence}")]
    NotEffective { address: String, what: String, evidence: String },
}

/// What a caller may do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Passing trouble: try again, within the step's bound.
    Retry,
    /// Trying again cannot help until a person changed something.
    Stop,
}

impl BmcError {
    pub fn advice(&self) -> Advice {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Nonsense { .. } | Self::Busy { .. } | Self::NotEffective { .. } => {
                Advice::Retry
            }
            Self::Unauthorized { .. }
            | Self::Paused { .. }
            | Self::Refused { .. }
            | Self::Unsupported { .. }
            | Self::CertificateChanged { .. } => Advice::Stop,
        }
    }

    /// Whether the command may have been carried out all the same: its answer was lost, or came too late.
    pub fn may_have_acted(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Nonsense { .. } | Self::NotEffective { .. } => true,
            Self::Unauthorized { .. }
            | Self::Paused { .. }
            | Self::Refused { .. }
            | Self::Busy { .. }
            | Self::Unsupported { .. }
            | Self::CertificateChanged { .. } => false,
        }
    }

    /// Stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized { .. } => "bmc_unauthorized",
            Self::Paused { .. } => "bmc_paused",
            Self::Unreachable { .. } => "bmc_unreachable",
            Self::Timeout { .. } => "bmc_timeout",
            Self::Nonsense { .. } => "bmc_nonsense",
            Self::Refused { .. } => "bmc_refused",
            Self::Busy { .. } => "bmc_busy",
            Self::Unsupported { .. } => "bmc_unsupported",
            Self::CertificateChanged { .. } => "bmc_certificate_changed",
            Self::NotEffective { .. } => "bmc_not_effective",
        }
    }

    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unauthorized { .. } | Self::Paused { .. } => {
                "correct the BMC's user and password (hostler machine bmc NAME --user U --password-file F), then retry"
            }
            Self::Unreachable { .. } | Self::Timeout { .. } => "check the BMC's address, its cable and the management network, then retry",
            Self::Nonsense { .. } => "look at the BMC's web page; reset or update the BMC if it is confused, then retry",
            Self::Refused { .. } => "read the BMC's reason; change the account's role or the machine's settings, then retry",
            Self::Busy { .. } => "wait until the BMC finished what it does, then retry",
            Self::Unsupported { .. } => "do this act by hand at the machine, then retry",
            Self::CertificateChanged { .. } => {
                "if the BMC was replaced or got a new certificate, drop the pin (hostler machine bmc NAME --repin), then retry; if not, someone may be in between"
            }
            Self::NotEffective { .. } => "look at the machine's console; power it by hand or reset its BMC, then retry",
        }
    }
}
