//! The boot answer: DHCP, TFTP and HTTP ask this one pure function, so they cannot disagree.
//!
//! | machine | firmware asks | iPXE asks by DHCP | iPXE asks for its script |
//! |---|---|---|---|
//! | goes to the ramdisk, x86 | loader | script URL | ramdisk script |
//! | goes to its disk, BIOS | loader (iPXE) | script URL | `sanboot` script |
//! | goes to its disk, UEFI | disk loader (GRUB) | script URL | script that chains the disk loader |
//! | left alone, or arm64 | nothing | nothing | restart script |
//!
//! Why UEFI machines get a loader even for their disk (measured, OVMF 2022.11 with the network first in its boot order;
//! docs/NETBOOT-NOTES.md has the table): with no offer the firmware tries PXEv4, PXEv6, HTTPv4 and HTTPv6 for 65 s each
//! and comes to the disk after 260 s; a script's `exit` never got there; Debian's iPXE has no local drives under UEFI.
//! A GRUB that only looks for `/EFI/BOOT/BOOTX64.EFI` and starts it gets there in 1 s. On BIOS
//! `sanboot --no-describe --drive 0x80` reached the disk in 12.6 s.

use crate::domain::boot::{Arch, ClientArch};
use crate::domain::id::MachineId;
use crate::domain::machine::{BootIntent, Lifecycle};
use crate::domain::power::FirmwareKind;

/// What is known about the machine that asks. `None` machine: never seen, or two machines claim its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct BootFacts {
    pub machine: Option<BootMachine>,
    /// Whether unknown machines are led into the ramdisk (configuration; true by default).
    pub discover: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BootMachine {
    pub id: MachineId,
    pub lifecycle: Lifecycle,
    pub boot_intent: Option<BootIntent>,
    /// Announced by a packing list, never seen before.
    pub expected_only: bool,
}

/// Who asks, in which stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootRequest {
    /// Firmware asks by DHCP (or on port 4011) what to load.
    Firmware(ClientArch),
    /// iPXE asks by DHCP what to run next.
    Ipxe(ClientArch),
    /// iPXE fetches its script.
    Script(ClientArch),
}

impl BootRequest {
    pub fn client(self) -> ClientArch {
        match self {
            Self::Firmware(c) | Self::Ipxe(c) | Self::Script(c) => c,
        }
    }
}

/// What the machine gets, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootAnswer {
    pub give: Give,
    /// Where this boot leads.
    pub to: BootTo,
    /// One sentence for the timeline.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootTo {
    Ramdisk,
    Disk,
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Give {
    /// No boot information: an address in authoritative mode, silence in proxy mode.
    Nothing,
    /// The network boot program, by TFTP name or as a URL for HTTP boot.
    Loader(Loader),
    /// The URL of the script that sends iPXE to its own script.
    ScriptUrl,
    Script(Script),
}

/// Network boot programs: iPXE from Debian's `ipxe` package, and a GRUB that `pxe/build` makes from Debian's modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loader {
    /// BIOS: uses the ROM's own network stack (UNDI).
    Undionly,
    /// UEFI by TFTP: uses the firmware's network driver, so it works on every card the firmware booted from. Reached
    /// the script 0.5 s sooner than `ipxe.efi` and has a fifth of its size.
    Snponly,
    /// UEFI HTTP boot, with iPXE's own drivers: the one measured on that road.
    IpxeEfi,
    /// UEFI: starts the system on the first disk that has `/EFI/BOOT/BOOTX64.EFI`.
    DiskX64,
}

impl Loader {
    pub const IPXE: [Self; 3] = [Self::Undionly, Self::Snponly, Self::IpxeEfi];
    pub const ALL: [Self; 4] = [Self::Undionly, Self::Snponly, Self::IpxeEfi, Self::DiskX64];

    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Undionly => "undionly.kpxe",
            Self::Snponly => "snponly.efi",
            Self::IpxeEfi => "ipxe.efi",
            Self::DiskX64 => "local-x64.efi",
        }
    }
}

/// Scripts, rendered by `wire::ipxe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Kernel and ramdisk with the agent.
    Ramdisk,
    /// BIOS: boot the first disk.
    LocalDisk,
    /// UEFI: start [`Loader::DiskX64`].
    LocalDiskUefi,
    /// Say why, pause, restart: the next DHCP request gets no offer and the firmware goes on by itself.
    Restart,
}

/// The boot answer. Total: every machine in every state gets exactly one.
pub fn answer(facts: &BootFacts, request: &BootRequest) -> BootAnswer {
    let client = request.client();
    if client.arch() == Arch::Aarch64 {
        let why = "It is an arm64 machine and there is no arm64 ramdisk and loader; it is left to its own boot order.";
        return BootAnswer { give: leave_alone(request), to: BootTo::Nowhere, why: why.to_owned() };
    }
    let (to, why) = destination(facts);
    let give = match (to, request, client.firmware()) {
        (BootTo::Ramdisk, BootRequest::Script(_), _) => Give::Script(Script::Ramdisk),
        (BootTo::Disk, BootRequest::Script(_), FirmwareKind::Bios) => Give::Script(Script::LocalDisk),
        (BootTo::Disk, BootRequest::Script(_), FirmwareKind::Uefi) => Give::Script(Script::LocalDiskUefi),
        (BootTo::Ramdisk | BootTo::Disk, BootRequest::Ipxe(_), _) => Give::ScriptUrl,
        (BootTo::Ramdisk, BootRequest::Firmware(_), _) | (BootTo::Disk, BootRequest::Firmware(_), FirmwareKind::Bios) => {
            Give::Loader(loader(client))
        }
        (BootTo::Disk, BootRequest::Firmware(_), FirmwareKind::Uefi) => Give::Loader(Loader::DiskX64),
        (BootTo::Nowhere, _, _) => leave_alone(request),
    };
    BootAnswer { give, to, why }
}

/// No boot information; a script must be something, so it restarts the machine, which then gets none.
fn leave_alone(request: &BootRequest) -> Give {
    match request {
        BootRequest::Firmware(_) | BootRequest::Ipxe(_) => Give::Nothing,
        BootRequest::Script(_) => Give::Script(Script::Restart),
    }
}

fn loader(client: ClientArch) -> Loader {
    match client {
        ClientArch::Bios => Loader::Undionly,
        ClientArch::UefiX64 | ClientArch::UefiArm64 => Loader::Snponly,
        ClientArch::UefiX64Http | ClientArch::UefiArm64Http => Loader::IpxeEfi,
    }
}

fn destination(facts: &BootFacts) -> (BootTo, String) {
    let Some(machine) = &facts.machine else {
        return if facts.discover {
            (BootTo::Ramdisk, "An unknown machine: it is shown the discovery ramdisk, which touches no disk.".to_owned())
        } else {
            (BootTo::Nowhere, "An unknown machine, and discovery of unknown machines is switched off.".to_owned())
        };
    };
    // A machine nobody accepted has nothing of ours on its disk to boot, and an intent on it would be a mistake.
    if !machine.lifecycle.is_accepted() {
        let what = if machine.expected_only { "Announced by a packing list and seen for the first time" } else { "Not accepted yet" };
        return (BootTo::Ramdisk, format!("{what}: it is shown the discovery ramdisk, which touches no disk."));
    }
    match machine.boot_intent {
        Some(BootIntent::Ramdisk) => (BootTo::Ramdisk, format!("A step of its run wants it in the ramdisk ({}).", machine.lifecycle)),
        Some(BootIntent::LocalDisk) => (BootTo::Disk, format!("A step of its run wants it to boot its disk ({}).", machine.lifecycle)),
        None => (BootTo::Disk, format!("It is {} and nothing wants it in the ramdisk: it boots its disk.", machine.lifecycle)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: [ClientArch; 5] =
        [ClientArch::Bios, ClientArch::UefiX64, ClientArch::UefiX64Http, ClientArch::UefiArm64, ClientArch::UefiArm64Http];
    const X86: [ClientArch; 3] = [ClientArch::Bios, ClientArch::UefiX64, ClientArch::UefiX64Http];

    fn machine(lifecycle: Lifecycle, boot_intent: Option<BootIntent>) -> BootFacts {
        let id = MachineId(uuid::Uuid::from_u128(1));
        BootFacts { machine: Some(BootMachine { id, lifecycle, boot_intent, expected_only: false }), discover: true }
    }

    fn unknown(discover: bool) -> BootFacts {
        BootFacts { machine: None, discover }
    }

    fn all_facts() -> Vec<BootFacts> {
        let mut all = vec![unknown(true), unknown(false)];
        for lifecycle in Lifecycle::ALL {
            for intent in [None, Some(BootIntent::Ramdisk), Some(BootIntent::LocalDisk)] {
                all.push(machine(lifecycle, intent));
                let mut off = machine(lifecycle, intent);
                off.discover = false;
                all.push(off);
            }
        }
        all
    }

    fn three(facts: &BootFacts, client: ClientArch) -> [Give; 3] {
        [BootRequest::Firmware(client), BootRequest::Ipxe(client), BootRequest::Script(client)].map(|r| answer(facts, &r).give)
    }

    const TO_RAMDISK_BIOS: [Give; 3] = [Give::Loader(Loader::Undionly), Give::ScriptUrl, Give::Script(Script::Ramdisk)];
    const TO_RAMDISK_UEFI: [Give; 3] = [Give::Loader(Loader::Snponly), Give::ScriptUrl, Give::Script(Script::Ramdisk)];
    const TO_RAMDISK_HTTP: [Give; 3] = [Give::Loader(Loader::IpxeEfi), Give::ScriptUrl, Give::Script(Script::Ramdisk)];
    const TO_DISK_BIOS: [Give; 3] = [Give::Loader(Loader::Undionly), Give::ScriptUrl, Give::Script(Script::LocalDisk)];
    const TO_DISK_UEFI: [Give; 3] = [Give::Loader(Loader::DiskX64), Give::ScriptUrl, Give::Script(Script::LocalDiskUefi)];
    const LEFT_ALONE: [Give; 3] = [Give::Nothing, Give::Nothing, Give::Script(Script::Restart)];

    #[test]
    fn an_unknown_machine_is_shown_the_ramdisk() {
        assert_eq!(three(&unknown(true), ClientArch::Bios), TO_RAMDISK_BIOS);
        assert_eq!(three(&unknown(true), ClientArch::UefiX64), TO_RAMDISK_UEFI);
        assert_eq!(three(&unknown(true), ClientArch::UefiX64Http), TO_RAMDISK_HTTP);
    }

    #[test]
    fn an_unknown_machine_is_left_alone_when_discovery_is_off() {
        for client in CLIENTS {
            assert_eq!(three(&unknown(false), client), LEFT_ALONE);
        }
    }

    #[test]
    fn a_machine_never_accepted_always_gets_the_ramdisk() {
        for intent in [None, Some(BootIntent::Ramdisk), Some(BootIntent::LocalDisk)] {
            for discover in [true, false] {
                let mut facts = machine(Lifecycle::Discovered, intent);
                facts.discover = discover;
                assert_eq!(three(&facts, ClientArch::Bios), TO_RAMDISK_BIOS);
                assert_eq!(three(&facts, ClientArch::UefiX64), TO_RAMDISK_UEFI);
            }
        }
    }

    #[test]
    fn the_intent_of_a_step_decides_for_an_accepted_machine() {
        for lifecycle in Lifecycle::ALL.into_iter().filter(|l| l.is_accepted()) {
            let ramdisk = machine(lifecycle, Some(BootIntent::Ramdisk));
            assert_eq!(three(&ramdisk, ClientArch::Bios), TO_RAMDISK_BIOS);
            assert_eq!(three(&ramdisk, ClientArch::UefiX64), TO_RAMDISK_UEFI);
            assert_eq!(three(&ramdisk, ClientArch::UefiX64Http), TO_RAMDISK_HTTP);
        }
    }

    #[test]
    fn an_accepted_machine_without_a_boot_intent_boots_its_disk() {
        for lifecycle in Lifecycle::ALL.into_iter().filter(|l| l.is_accepted()) {
            for intent in [None, Some(BootIntent::LocalDisk)] {
                let facts = machine(lifecycle, intent);
                assert_eq!(three(&facts, ClientArch::Bios), TO_DISK_BIOS);
                assert_eq!(three(&facts, ClientArch::UefiX64), TO_DISK_UEFI);
                assert_eq!(three(&facts, ClientArch::UefiX64Http), TO_DISK_UEFI);
            }
        }
    }

    #[test]
    fn ipxe_is_never_given_the_loader_again() {
        for facts in all_facts() {
            for client in CLIENTS {
                let give = answer(&facts, &BootRequest::Ipxe(client)).give;
                assert!(matches!(give, Give::ScriptUrl | Give::Nothing), "{facts:?} {client} {give:?}");
            }
        }
    }

    #[test]
    fn dhcp_promises_a_script_only_where_one_follows() {
        for facts in all_facts() {
            for client in X86 {
                let [firmware, ipxe, script] = three(&facts, client);
                assert_eq!(firmware == Give::Nothing, ipxe == Give::Nothing);
                assert_eq!(ipxe == Give::Nothing, script == Give::Script(Script::Restart));
            }
        }
    }

    #[test]
    fn arm64_is_recognised_and_left_alone() {
        for client in [ClientArch::UefiArm64, ClientArch::UefiArm64Http] {
            assert_eq!(three(&unknown(true), client), LEFT_ALONE);
            assert!(answer(&unknown(true), &BootRequest::Firmware(client)).why.contains("arm64"));
        }
    }

    #[test]
    fn every_answer_says_why_in_a_sentence() {
        for facts in all_facts() {
            for client in CLIENTS {
                for request in [BootRequest::Firmware(client), BootRequest::Ipxe(client), BootRequest::Script(client)] {
                    let why = answer(&facts, &request).why;
                    assert!(why.len() > 20 && why.ends_with('.'), "{why}");
                }
            }
        }
    }
}
