//! Network boot: architectures, stages, and the timeline of one boot.

use serde::{Deserialize, Serialize};

use crate::domain::id::{BootId, Mac, MachineId};
use crate::domain::power::{FirmwareKind, text_form};
use crate::domain::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Arch {
    #[serde(rename = "x86_64")]
    X86_64,
    #[serde(rename = "aarch64")]
    Aarch64,
}
text_form!(Arch { X86_64 = "x86_64", Aarch64 = "aarch64" });

/// How a client boots from the network, from DHCP option 93 (RFC 4578; IANA "Processor Architecture Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientArch {
    /// 0: x86 BIOS.
    Bios,
    /// 7 (sent by EDK2) and 9 (sent by some others): x64 UEFI by TFTP.
    UefiX64,
    /// 16: x64 UEFI by HTTP.
    UefiX64Http,
    /// 11: arm64 UEFI by TFTP.
    UefiArm64,
    /// 19: arm64 UEFI by HTTP.
    UefiArm64Http,
}
text_form!(ClientArch { Bios = "bios", UefiX64 = "uefi_x64", UefiX64Http = "uefi_x64_http", UefiArm64 = "uefi_arm64", UefiArm64Http = "uefi_arm64_http" });

impl ClientArch {
    pub fn from_option_93(code: u16) -> Option<Self> {
        match code {
            0 => Some(Self::Bios),
            7 | 9 => Some(Self::UefiX64),
            16 => Some(Self::UefiX64Http),
            11 => Some(Self::UefiArm64),
            19 => Some(Self::UefiArm64Http),
            _ => None,
        }
    }

    pub fn firmware(self) -> FirmwareKind {
        match self {
            Self::Bios => FirmwareKind::Bios,
            Self::UefiX64 | Self::UefiX64Http | Self::UefiArm64 | Self::UefiArm64Http => FirmwareKind::Uefi,
        }
    }

    pub fn arch(self) -> Arch {
        match self {
            Self::Bios | Self::UefiX64 | Self::UefiX64Http => Arch::X86_64,
            Self::UefiArm64 | Self::UefiArm64Http => Arch::Aarch64,
        }
    }

    /// UEFI HTTP boot (vendor class `HTTPClient`) rather than PXE.
    pub fn is_http(self) -> bool {
        matches!(self, Self::UefiX64Http | Self::UefiArm64Http)
    }
}

/// How far a boot came. Later stages are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootStage {
    /// DHCP DISCOVER from the firmware or from iPXE.
    DhcpDiscover,
    /// We offered an address or boot information.
    DhcpOffer,
    /// The client chose another DHCP server (its REQUEST names it).
    DhcpOther,
    /// DHCP REQUEST to us.
    DhcpRequest,
    /// We acknowledged an address or boot information (also on port 4011).
    DhcpAck,
    /// A TFTP or HTTP transfer of the network boot program began.
    LoaderStart,
    /// The network boot program was transferred whole.
    LoaderDone,
    /// A TFTP transfer stopped short.
    LoaderStalled,
    /// iPXE fetched its script.
    Script,
    /// Kernel fetched.
    Kernel,
    /// Ramdisk fetched.
    Ramdisk,
    /// The agent said hello.
    Agent,
    /// The script or the missing offer sent the machine to its own disk.
    LocalDisk,
    /// The deployed system reported in (cloud-init phone_home).
    System,
}
text_form!(BootStage {
    DhcpDiscover = "dhcp_discover", DhcpOffer = "dhcp_offer", DhcpOther = "dhcp_other", DhcpRequest = "dhcp_request",
    DhcpAck = "dhcp_ack", LoaderStart = "loader_start", LoaderDone = "loader_done", LoaderStalled = "loader_stalled",
    Script = "script", Kernel = "kernel", Ramdisk = "ramdisk", Agent = "agent", LocalDisk = "local_disk", System = "system",
});

/// One line of a boot timeline. Repeats of the same stage and note raise `count` instead of adding lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMark {
    pub stage: BootStage,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub count: u32,
    /// What is worth knowing: the file, the other server's address, the block where it stalled. Untrusted text.
    pub note: String,
}

/// One boot of one machine, from its first packet on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    pub id: BootId,
    pub machine: Option<MachineId>,
    pub mac: Mac,
    pub client: Option<ClientArch>,
    pub started_at: Timestamp,
    pub last_at: Timestamp,
    pub marks: Vec<BootMark>,
}
