//! What a BMC can do beyond power and boot: firmware, BIOS settings, accounts, media, LED, network, and how it says so.

use serde::{Deserialize, Serialize};

use crate::domain::power::text_form;
use crate::domain::sensor::Health;
use crate::domain::time::Timestamp;

/// One thing a BMC may offer. The capability sheet has one line for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    Power,
    PowerCycle,
    SoftOff,
    BootOnce,
    BootOrder,
    BootProgress,
    Sensors,
    Parts,
    Logs,
    ClearLog,
    Events,
    FirmwareInventory,
    FirmwareUpdate,
    BiosSettings,
    Accounts,
    VirtualMedia,
    LocatorLed,
    BmcReset,
    SerialConsole,
    Fru,
    PowerReading,
    BmcNetwork,
}

impl Capability {
    pub const ALL: [Self; 22] = [
        Self::Power,
        Self::PowerCycle,
        Self::SoftOff,
        Self::BootOnce,
        Self::BootOrder,
        Self::BootProgress,
        Self::Sensors,
        Self::Parts,
        Self::Logs,
        Self::ClearLog,
        Self::Events,
        Self::FirmwareInventory,
        Self::FirmwareUpdate,
        Self::BiosSettings,
        Self::Accounts,
        Self::VirtualMedia,
        Self::LocatorLed,
        Self::BmcReset,
        Self::SerialConsole,
        Self::Fru,
        Self::PowerReading,
        Self::BmcNetwork,
    ];
}
text_form!(Capability {
    Power = "power",
    PowerCycle = "power_cycle",
    SoftOff = "soft_off",
    BootOnce = "boot_once",
    BootOrder = "boot_order",
    BootProgress = "boot_progress",
    Sensors = "sensors",
    Parts = "parts",
    Logs = "logs",
    ClearLog = "clear_log",
    Events = "events",
    FirmwareInventory = "firmware_inventory",
    FirmwareUpdate = "firmware_update",
    BiosSettings = "bios_settings",
    Accounts = "accounts",
    VirtualMedia = "virtual_media",
    LocatorLed = "locator_led",
    BmcReset = "bmc_reset",
    SerialConsole = "serial_console",
    Fru = "fru",
    PowerReading = "power_reading",
    BmcNetwork = "bmc_network",
});

/// Whether it is there, and the evidence either way, in a sentence that names the resource or command looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Support {
    pub capability: Capability,
    pub offered: bool,
    pub evidence: String,
}

/// How far the machine's own firmware came (Redfish `BootProgress`, IPMI firmware progress sensor).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootProgress {
    /// The BMC's word: `MemoryInitializationStarted`, `OSBootStarted`, `OSRunning`…
    pub state: String,
    pub at: Option<Timestamp>,
}

/// One entry of the machine's persistent boot order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOption {
    /// Redfish `BootOptionReference`, for example `Boot0003`.
    pub reference: String,
    pub name: Option<String>,
    /// UEFI device path, where told.
    pub path: Option<String>,
    pub enabled: Option<bool>,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirmwareItem {
    /// `UpdateService/FirmwareInventory` member, or `ipmi:device` for the BMC's own.
    pub source: String,
    pub name: String,
    pub version: Option<String>,
    pub updateable: Option<bool>,
    pub software_id: Option<String>,
    /// Links to the parts it runs on.
    #[serde(default)]
    pub related: Vec<String>,
    pub health: Option<Health>,
    /// `Some(false)` for a spare, previous or staged image that the BMC keeps beside the one that runs.
    #[serde(default)]
    pub in_use: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BiosAttribute {
    pub name: String,
    /// As text: strings as they are, numbers and booleans in JSON's spelling.
    pub value: Option<String>,
    /// What takes effect at the next boot, where a settings resource holds another value.
    pub pending: Option<String>,
    /// From the attribute registry, where the BMC has it.
    pub display_name: Option<String>,
    pub kind: Option<String>,
    /// Allowed values of an enumeration; empty when not told.
    #[serde(default)]
    pub allowed: Vec<String>,
    pub read_only: Option<bool>,
    pub source: String,
}

/// One account of the BMC. Never a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Redfish URI or `user:<id>`.
    pub source: String,
    pub name: Option<String>,
    pub role: Option<String>,
    pub enabled: Option<bool>,
    pub locked: Option<bool>,
}

/// One virtual drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaSlot {
    pub source: String,
    pub name: String,
    pub kinds: Vec<String>,
    pub image: Option<String>,
    pub inserted: Option<bool>,
}

/// One network interface of the BMC itself (Redfish Manager EthernetInterface, IPMI LAN parameters).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BmcNetwork {
    pub source: String,
    pub name: String,
    pub mac: Option<crate::domain::id::Mac>,
    pub address: Option<String>,
    pub netmask: Option<String>,
    pub gateway: Option<String>,
    /// `static`, `dhcp`, or the BMC's word.
    pub origin: Option<String>,
    pub vlan: Option<u16>,
}

/// Something the driver saw and has no reading for. Reported, never dropped: it is how new models are learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oddity {
    pub source: String,
    pub what: String,
}

/// What a walk through one area of a BMC gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found<T> {
    pub items: Vec<T>,
    pub not_understood: Vec<Oddity>,
    /// What was linked or listed but could not be read, and why: the items it holds are unknown, not gone and not healthy.
    #[serde(default = "Vec::new")]
    pub unread: Vec<Oddity>,
    /// Links below `Oem` that are not followed: what a vendor keeps outside the standard.
    #[serde(default = "Vec::new")]
    pub oem_links: Vec<Oddity>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { items: Vec::new(), not_understood: Vec::new(), unread: Vec::new(), oem_links: Vec::new() }
    }
}

/// How a firmware update, or any long work of a BMC, stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum TaskState {
    Running {
        percent: Option<u8>,
        note: String,
    },
    Done {
        note: String,
    },
    Failed {
        reason: String,
    },
    /// The BMC does not know the task any more (restarted, forgot): only the new version can tell.
    Lost,
}

/// A task that a BMC keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSeen {
    pub source: String,
    pub state: TaskState,
}

/// How a firmware update was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateBegun {
    /// What to ask for progress: a task or task monitor URI. `None` where the BMC gives none.
    pub task: Option<String>,
    pub note: String,
}

/// Where firmware comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirmwareSource {
    /// Pushed by us, in a multipart body.
    File { path: std::path::PathBuf, name: String },
    /// Fetched by the BMC itself.
    Url(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedState {
    On,
    Off,
    Blinking,
}
text_form!(LedState { On = "on", Off = "off", Blinking = "blinking" });
