//! Power and boot-device words shared by every BMC dialect.

use serde::{Deserialize, Serialize};

/// What the BMC says about chassis power. It may lie: see `PowerEvidence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    On,
    Off,
    /// Redfish `PoweringOn` / `PoweringOff`: on its way.
    Changing,
}

/// What we ask of chassis power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    On,
    /// Immediate power off (Redfish `ForceOff`, IPMI chassis control 0).
    Off,
    /// ACPI shutdown request (Redfish `GracefulShutdown`, IPMI chassis control 5). The system may ignore it.
    Soft,
    /// Off, a pause, on (Redfish `PowerCycle`, IPMI chassis control 2).
    Cycle,
    /// Hard reset without removing power (Redfish `ForceRestart`, IPMI chassis control 3).
    Reset,
}

/// Every reset type of the standard (Redfish `Resource.ResetType`), for those who know which one they want. [`PowerAction`] is
/// what Hostler itself asks for; one table in the Redfish driver maps it to what the BMC allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResetType {
    On,
    ForceOff,
    GracefulShutdown,
    GracefulRestart,
    ForceRestart,
    Nmi,
    ForceOn,
    PushPowerButton,
    PowerCycle,
    FullPowerCycle,
    Suspend,
    Pause,
    Resume,
}

/// Where the next boot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootDevice {
    Network,
    Disk,
}

/// How the firmware starts things; decides the boot mode we ask for and the files we serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirmwareKind {
    Bios,
    Uefi,
}

macro_rules! text_form {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> std::result::Result<Self, Self::Err> {
                match s {
                    $($text => Ok(Self::$variant),)+
                    other => Err(format!("{other:?} is not one of: {}", [$($text),+].join(", "))),
                }
            }
        }
    };
}
pub(crate) use text_form;

text_form!(PowerState { On = "on", Off = "off", Changing = "changing" });
text_form!(PowerAction { On = "on", Off = "off", Soft = "soft", Cycle = "cycle", Reset = "reset" });
text_form!(ResetType {
    On = "On",
    ForceOff = "ForceOff",
    GracefulShutdown = "GracefulShutdown",
    GracefulRestart = "GracefulRestart",
    ForceRestart = "ForceRestart",
    Nmi = "Nmi",
    ForceOn = "ForceOn",
    PushPowerButton = "PushPowerButton",
    PowerCycle = "PowerCycle",
    FullPowerCycle = "FullPowerCycle",
    Suspend = "Suspend",
    Pause = "Pause",
    Resume = "Resume",
});
text_form!(BootDevice { Network = "network", Disk = "disk" });
text_form!(FirmwareKind { Bios = "bios", Uefi = "uefi" });
