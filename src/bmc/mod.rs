//! BMC drivers behind one narrow trait, a router that prefers Redfish and falls back to IPMI, and a limiter that
//! protects weak controllers.
//!
//! Every call is one bounded exchange. Accepted is not happened: a caller that needs proof reads the power state again
//! or waits for the machine's own signs of life (DHCP, agent).

pub mod ipmi;
mod limit;
pub mod redfish;
mod router;

pub use router::{BmcSettings, Bmcs};

use std::time::Duration;

use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcProtocol};
use crate::domain::id::Sha256;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::domain::secret::Secret;

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

/// The four questions of the first slice. One implementation per protocol.
pub trait Bmc {
    /// Who the BMC says it and its machine are.
    fn identity(&self) -> impl Future<Output = Result<BmcIdentity, BmcError>> + Send;
    /// Chassis power as the BMC sees it.
    fn power(&self) -> impl Future<Output = Result<PowerState, BmcError>> + Send;
    /// Asks for a power change. On, off (and cycle, where it is done as off and on) return when the new state is read back
    /// or under way, `NotEffective` if that does not come; soft, reset and a cycle in one command return when accepted.
    fn set_power(&self, action: PowerAction) -> impl Future<Output = Result<(), BmcError>> + Send;
    /// Sets the device of the next boot only, in the machine's firmware mode, and reads it back.
    fn set_boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> impl Future<Output = Result<BootSet, BmcError>> + Send;
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
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(30),
            settle: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            call: Duration::from_secs(120),
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
