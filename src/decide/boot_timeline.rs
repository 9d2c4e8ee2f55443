//! Reads a boot's timeline: where it stopped and the likely cause, and how long each part of it took.

use std::time::Duration;

use crate::domain::boot::{Boot, BootMark, BootStage};
use crate::domain::event::Severity;
use crate::domain::time::{Timestamp, spoken};

/// Firmware repeats an unanswered DISCOVER after 4 s (PXE 2.1 section 2.2.3); iPXE after 1 s.
const NO_OFFER_AFTER: Duration = Duration::from_secs(10);
/// EDK2 collects offers for 4 s before its REQUEST, iPXE for 3 s.
const NO_REQUEST_AFTER: Duration = Duration::from_secs(10);
/// From a boot file's name to its first block: measured below 1 s; slow ROMs reset the link in between.
const NO_LOADER_AFTER: Duration = Duration::from_secs(20);
/// From the loader's last block to iPXE's script: 5 s measured, 19 s without router advertisements.
const NO_SCRIPT_AFTER: Duration = Duration::from_secs(45);
/// A link and DHCP take iPXE 5 s; the rest of such a gap is its wait for IPv6 routers, about 16 s.
const ROUTER_WAIT: std::ops::RangeInclusive<Duration> = Duration::from_secs(12)..=Duration::from_secs(30);
/// Kernel and ramdisk are 40 MB at most: 4 s on 100 Mbit/s.
const NO_DOWNLOAD_AFTER: Duration = Duration::from_secs(60);
/// From the ramdisk to the agent: 6 s measured in VMs; big servers probe disks for over a minute.
const NO_AGENT_AFTER: Duration = Duration::from_secs(150);

/// What is wrong with a boot, or odd about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    pub severity: Severity,
    /// What was seen and what that usually means.
    pub text: String,
}

/// One part of a boot and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    pub name: &'static str,
    pub took: Duration,
}

/// Says where a boot stopped, or what made it slow. `None`: it is well, or it is too early to tell.
pub fn diagnose(boot: &Boot, now: Timestamp) -> Option<Diagnosis> {
    let t = Timeline { boot, quiet: now.since(boot.last_at) };
    match t.furthest() {
        BootStage::Agent | BootStage::System => t.slow_ipxe(),
        BootStage::LocalDisk => None,
        BootStage::Ramdisk => t.no_agent(),
        BootStage::Kernel | BootStage::Script => t.no_download().or_else(|| t.slow_ipxe()),
        BootStage::LoaderDone => t.loader_led_nowhere(),
        BootStage::LoaderStalled | BootStage::LoaderStart => t.stalled(),
        BootStage::DhcpAck | BootStage::DhcpRequest | BootStage::DhcpOther => t.no_loader(),
        BootStage::DhcpOffer => t.never_requested(),
        BootStage::DhcpDiscover => t.no_offer(),
    }
}

/// The parts of a boot that are over. `powered_on`: when its BMC was told to start it, if it was.
pub fn phases(boot: &Boot, powered_on: Option<Timestamp>) -> Vec<Phase> {
    let t = Timeline { boot, quiet: Duration::ZERO };
    let first = |stage| t.mark(stage).map(|m| m.first_at);
    let loaded = first(BootStage::LoaderStart);
    let spans = [
        ("firmware start to first packet", powered_on, Some(boot.started_at)),
        ("first packet to loader", first(BootStage::DhcpDiscover), loaded),
        ("loader transfer", loaded, first(BootStage::LoaderDone)),
        ("loader to script", first(BootStage::LoaderDone), first(BootStage::Script)),
        ("first packet to script", first(BootStage::DhcpDiscover).filter(|_| loaded.is_none()), first(BootStage::Script)),
        ("script to kernel and ramdisk", first(BootStage::Script), first(BootStage::Ramdisk)),
        ("ramdisk to agent", first(BootStage::Ramdisk), first(BootStage::Agent)),
        ("disk to system", first(BootStage::LocalDisk), first(BootStage::System)),
    ];
    spans
        .into_iter()
        .filter_map(|(name, from, to)| {
            let (from, to) = (from?, to?);
            (to >= from).then(|| Phase { name, took: to.since(from) })
        })
        .collect()
}

struct Timeline<'a> {
    boot: &'a Boot,
    /// Since the last mark.
    quiet: Duration,
}

impl<'a> Timeline<'a> {
    fn mark(&self, stage: BootStage) -> Option<&'a BootMark> {
        self.boot.marks.iter().find(|m| m.stage == stage)
    }

    fn last(&self, stage: BootStage) -> Option<&'a BootMark> {
        self.boot.marks.iter().filter(|m| m.stage == stage).max_by_key(|m| m.last_at)
    }

    fn count(&self, stage: BootStage) -> u32 {
        self.boot.marks.iter().filter(|m| m.stage == stage).map(|m| m.count).sum()
    }

    /// The latest stage, but a stall that was overcome by a second try does not count.
    fn furthest(&self) -> BootStage {
        self.boot
            .marks
            .iter()
            .map(|m| m.stage)
            .filter(|s| *s != BootStage::LoaderStalled || self.stall_is_last())
            .max()
            .unwrap_or(BootStage::DhcpDiscover)
    }

    fn stall_is_last(&self) -> bool {
        let at = |stage| self.last(stage).map(|m| m.last_at);
        at(BootStage::LoaderStalled) >= at(BootStage::LoaderDone)
    }

    fn say(&self, severity: Severity, text: String) -> Option<Diagnosis> {
        Some(Diagnosis { severity, text })
    }

    fn no_offer(&self) -> Option<Diagnosis> {
        let discover = self.last(BootStage::DhcpDiscover)?;
        // A note that is a whole reason (pool full, no subnet) rather than a description of the client.
        if discover.note.starts_with("the DHCP pool") || discover.note.starts_with("no DHCP subnet") {
            return self.say(Severity::Error, format!("It asks for an address and gets none: {}.", discover.note.trim_end_matches('.')));
        }
        let n = self.count(BootStage::DhcpDiscover);
        if discover.note.contains("unknown architecture") {
            return self
                .say(Severity::Error, format!("It asked {} for a boot file, as {}; there is none for it.", times(n), discover.note));
        }
        (self.quiet >= NO_OFFER_AFTER || n >= 3).then(|| Diagnosis {
            severity: Severity::Warning,
            text: format!("It asked {} for a boot file and was offered none; the service's log says why.", times(n)),
        })
    }

    fn never_requested(&self) -> Option<Diagnosis> {
        let n = self.count(BootStage::DhcpOffer);
        if n < 3 && self.quiet < NO_REQUEST_AFTER {
            return None;
        }
        self.say(
            Severity::Error,
            format!(
                "The offer was sent {} and never requested: it does not reach the machine (VLAN, port security, a switch port that is not \
                 forwarding yet), or another DHCP server answers it and is not heard here.",
                times(n)
            ),
        )
    }

    fn no_loader(&self) -> Option<Diagnosis> {
        if let Some(other) = self.last(BootStage::DhcpOther).filter(|_| self.mark(BootStage::DhcpAck).is_none()) {
            let n = self.count(BootStage::DhcpOffer);
            return self.say(
                Severity::Error,
                format!(
                    "The offer was sent {}, never requested: another DHCP server answers, {}. Switch it off on this network, or run \
                     Hostler's DHCP in proxy mode beside it.",
                    times(n),
                    other.note
                ),
            );
        }
        if self.quiet < NO_LOADER_AFTER {
            return None;
        }
        let offered =
            self.last(BootStage::DhcpAck).or_else(|| self.last(BootStage::DhcpOffer)).map(|m| m.note.as_str()).unwrap_or_default();
        let since = spoken(self.quiet);
        if offered.contains("http://") {
            self.say(
                Severity::Error,
                format!("It got an address and a URL {since} ago and fetched nothing since: the HTTP port is not reachable from its network, or its clock or card failed. Offered: {offered}"),
            )
        } else if offered.is_empty() {
            self.say(
                Severity::Warning,
                format!("It asked for an address {since} ago and was not seen since; nothing was offered to it by us."),
            )
        } else {
            self.say(
                Severity::Error,
                format!("It got an address and a boot file {since} ago and never asked for the file: TFTP (UDP port 69) is blocked on the way, or the offer reached it too late. Offered: {offered}"),
            )
        }
    }

    fn stalled(&self) -> Option<Diagnosis> {
        let Some(stall) = self.last(BootStage::LoaderStalled) else {
            let start = self.last(BootStage::LoaderStart)?;
            return (self.quiet >= NO_LOADER_AFTER).then(|| Diagnosis {
                severity: Severity::Warning,
                text: format!("The transfer of {} began {} ago and is not done.", start.note, spoken(self.quiet)),
            });
        };
        let cause = if stall.note.contains("the machine stopped it") {
            "the firmware gave up by itself (not enough memory, or it does not take this file)"
        } else if stall.note.starts_with("block 1 of") {
            "no data packet arrived or no acknowledgement came back: a firewall that lets only port 69 through, or a link with an MTU below 1500"
        } else {
            "the connection was lost on the way: cable, switch port, or the machine was reset"
        };
        self.say(Severity::Error, format!("TFTP stalled at {}, {}: {cause}.", stall.note, times(self.count(BootStage::LoaderStalled))))
    }

    fn loader_led_nowhere(&self) -> Option<Diagnosis> {
        if self.quiet < NO_SCRIPT_AFTER {
            return None;
        }
        let done = self.last(BootStage::LoaderDone)?;
        let since = spoken(self.quiet);
        let ipxe_asked =
            self.boot.marks.iter().any(|m| m.stage == BootStage::DhcpDiscover && m.note.starts_with("iPXE") && m.last_at >= done.first_at);
        let text = if ipxe_asked {
            format!(
                "iPXE runs and got its address, and did not fetch its script for {since}: the HTTP port is not reachable from its network."
            )
        } else {
            format!(
                "The loader was transferred ({}), and nothing was heard for {since}: it does not run on this machine. With Secure Boot on, \
                 the firmware refuses iPXE, which is not signed; else try the machine's other network boot mode (BIOS or UEFI).",
                done.note
            )
        };
        self.say(Severity::Error, text)
    }

    fn no_download(&self) -> Option<Diagnosis> {
        if self.quiet < NO_DOWNLOAD_AFTER {
            return None;
        }
        let since = spoken(self.quiet);
        let text = match self.mark(BootStage::Kernel) {
            None => format!("It fetched its script {since} ago and no kernel since: look at its console, where iPXE says why."),
            Some(_) => format!(
                "It fetched the kernel {since} ago and no ramdisk since: the download broke off; iPXE tries 12 times and says so on the console."
            ),
        };
        self.say(Severity::Error, text)
    }

    fn no_agent(&self) -> Option<Diagnosis> {
        if self.quiet < NO_AGENT_AFTER {
            return self.slow_ipxe();
        }
        self.say(
            Severity::Error,
            format!(
                "Kernel and ramdisk were fetched {} ago and no agent said hello since: the kernel did not start (look at the console), its \
                 network card has no driver in the ramdisk, or the machine has too little memory.",
                spoken(self.quiet)
            ),
        )
    }

    /// Nobody sends router advertisements: a few seconds lost in every boot, worth a word.
    fn slow_ipxe(&self) -> Option<Diagnosis> {
        let script = self.mark(BootStage::Script)?.first_at;
        let before = [BootStage::LoaderDone, BootStage::DhcpAck, BootStage::DhcpOffer];
        let from = before
            .into_iter()
            .find_map(|s| self.boot.marks.iter().filter(|m| m.stage == s && m.first_at <= script).map(|m| m.first_at).min())?;
        let gap = script.since(from);
        ROUTER_WAIT.contains(&gap).then(|| Diagnosis {
            severity: Severity::Info,
            text: format!(
                "iPXE took {} to its script: nobody sends IPv6 router advertisements on this network, and it waits about 16 s for them. A \
                 router or radvd that sends them removes the wait.",
                spoken(gap)
            ),
        })
    }
}

fn times(n: u32) -> String {
    match n {
        0 | 1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{BootId, Mac};

    /// A boot from marks `(second, stage, count, note)`.
    fn boot(marks: &[(u64, BootStage, u32, &str)]) -> Boot {
        let at = |s| Timestamp(0).plus(Duration::from_secs(s));
        Boot {
            id: BootId(uuid::Uuid::nil()),
            machine: None,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            client: None,
            started_at: at(marks[0].0),
            last_at: at(marks.iter().map(|m| m.0).max().unwrap_or(0)),
            marks: marks
                .iter()
                .map(|(s, stage, count, note)| BootMark {
                    stage: *stage,
                    first_at: at(*s),
                    last_at: at(*s),
                    count: *count,
                    note: (*note).to_owned(),
                })
                .collect(),
        }
    }

    fn said(marks: &[(u64, BootStage, u32, &str)], now: u64) -> Option<(Severity, String)> {
        diagnose(&boot(marks), Timestamp(0).plus(Duration::from_secs(now))).map(|d| (d.severity, d.text))
    }

    fn has(marks: &[(u64, BootStage, u32, &str)], now: u64, want: &[&str]) {
        let (_, text) = said(marks, now).unwrap_or_else(|| panic!("nothing said about {marks:?}"));
        for w in want {
            assert!(text.contains(w), "{w:?} not in {text:?}");
        }
        assert!(text.ends_with('.') || text.contains("Offered: "), "{text}");
    }

    use BootStage::{
        Agent, DhcpAck, DhcpDiscover, DhcpOffer, DhcpOther, DhcpRequest, Kernel, LoaderDone, LoaderStalled, LoaderStart, LocalDisk,
        Ramdisk, Script, System,
    };

    const EDK2: &str = "firmware, uefi_x64";
    const OFFER: &str = "10.0.0.100, 02-00-00-00-00-01/snponly.efi. An unknown machine.";

    #[test]
    fn another_dhcp_server_is_named() {
        let marks = [(0, DhcpDiscover, 4, EDK2), (1, DhcpOffer, 4, OFFER), (30, DhcpOther, 4, "10.0.0.1")];
        has(&marks, 31, &["offer was sent 4 times, never requested: another DHCP server answers, 10.0.0.1", "proxy mode"]);
    }

    #[test]
    fn an_offer_nobody_takes_is_said_after_some_tries_or_some_time() {
        assert_eq!(said(&[(0, DhcpDiscover, 1, EDK2), (0, DhcpOffer, 1, OFFER)], 4), None);
        has(&[(0, DhcpDiscover, 4, EDK2), (0, DhcpOffer, 4, OFFER)], 1, &["sent 4 times and never requested", "VLAN"]);
        has(&[(0, DhcpDiscover, 1, EDK2), (0, DhcpOffer, 1, OFFER)], 60, &["sent once and never requested"]);
    }

    #[test]
    fn a_full_pool_a_missing_subnet_and_an_unknown_architecture_are_repeated_to_the_reader() {
        has(
            &[(0, DhcpDiscover, 1, EDK2), (0, DhcpDiscover, 1, "the DHCP pool 10.0.0.10-10.0.0.10 is full: 1 addresses are leased")],
            1,
            &["gets none: the DHCP pool"],
        );
        has(&[(0, DhcpDiscover, 1, EDK2), (0, DhcpDiscover, 1, "no DHCP subnet is configured for 10.44.0.0")], 1, &["10.44.0.0"]);
        has(&[(0, DhcpDiscover, 2, "firmware, unknown architecture [6]")], 1, &["asked twice", "unknown architecture [6]"]);
    }

    #[test]
    fn a_boot_file_never_asked_for_points_at_tftp() {
        let marks = [(0, DhcpDiscover, 1, EDK2), (0, DhcpOffer, 1, OFFER), (4, DhcpRequest, 1, ""), (4, DhcpAck, 1, OFFER)];
        assert_eq!(said(&marks, 10), None);
        has(&marks, 40, &["36 s ago", "never asked for the file", "UDP port 69", "snponly.efi"]);
    }

    #[test]
    fn a_url_never_fetched_points_at_the_http_port() {
        let url = "10.0.0.100, http://10.0.0.1:8081/boot/file/autoexec.ipxe. An unknown machine.";
        has(
            &[(0, DhcpDiscover, 1, "iPXE, bios"), (0, DhcpOffer, 1, url), (4, DhcpRequest, 1, ""), (4, DhcpAck, 1, url)],
            60,
            &["HTTP port is not reachable"],
        );
    }

    #[test]
    fn a_stall_at_block_1_points_at_firewall_and_mtu() {
        let marks = [
            (0, DhcpDiscover, 1, EDK2),
            (4, DhcpAck, 1, OFFER),
            (30, LoaderStalled, 2, "block 1 of 119 of snponly.efi, 1468 bytes a block"),
        ];
        has(&marks, 30, &["TFTP stalled at block 1 of 119 of snponly.efi, 1468 bytes a block, twice", "firewall", "MTU"]);
        let later = [
            (0, DhcpDiscover, 1, EDK2),
            (4, LoaderStart, 1, "f"),
            (30, LoaderStalled, 1, "block 77 of 119 of snponly.efi, 1468 bytes a block"),
        ];
        has(&later, 30, &["block 77", "cable"]);
    }

    #[test]
    fn a_stall_that_a_second_try_overcame_is_forgotten() {
        let marks =
            [(0, DhcpDiscover, 1, EDK2), (4, LoaderStalled, 1, "block 1 of 2"), (20, LoaderStart, 1, "f"), (21, LoaderDone, 1, "f")];
        assert_eq!(said(&marks, 25), None);
    }

    #[test]
    fn a_loader_that_does_not_run_points_at_secure_boot() {
        let marks = [(0, DhcpDiscover, 1, EDK2), (4, LoaderStart, 1, "f"), (5, LoaderDone, 1, "snponly.efi by TFTP in 0.4 s")];
        assert_eq!(said(&marks, 20), None);
        has(&marks, 60, &["Secure Boot", "snponly.efi by TFTP in 0.4 s"]);
        let ipxe = [marks.as_slice(), &[(9, DhcpDiscover, 1, "iPXE, uefi_x64")]].concat();
        has(&ipxe, 60, &["iPXE runs", "HTTP port"]);
    }

    #[test]
    fn missing_router_advertisements_are_told_as_a_hint() {
        let marks = [
            (0, DhcpDiscover, 1, EDK2),
            (4, LoaderStart, 1, "f"),
            (5, LoaderDone, 1, "f"),
            (24, Script, 1, ""),
            (25, Kernel, 1, ""),
            (26, Ramdisk, 1, ""),
            (33, Agent, 1, ""),
        ];
        let (severity, text) = said(&marks, 34).expect("a hint");
        assert_eq!(severity, Severity::Info);
        assert!(text.contains("router advertisements") && text.contains("about 16 s"), "{text}");
        let quick = [(0, DhcpDiscover, 1, EDK2), (5, LoaderDone, 1, "f"), (10, Script, 1, ""), (20, Agent, 1, "")];
        assert_eq!(said(&quick, 21), None);
    }

    #[test]
    fn a_kernel_without_an_agent_is_said_with_its_age() {
        let marks = [(0, DhcpDiscover, 1, EDK2), (10, Script, 1, ""), (11, Kernel, 1, ""), (12, Ramdisk, 1, "")];
        assert_eq!(said(&marks, 60), None);
        has(&marks, 192, &["fetched 3 min 0 s ago and no agent", "driver"]);
    }

    #[test]
    fn a_script_without_a_kernel_is_said() {
        has(&[(0, DhcpDiscover, 1, EDK2), (3, Script, 1, "")], 90, &["script", "no kernel since"]);
        has(&[(0, DhcpDiscover, 1, EDK2), (3, Script, 1, ""), (4, Kernel, 1, "")], 90, &["kernel", "no ramdisk since"]);
    }

    #[test]
    fn a_boot_that_reached_its_end_is_well_however_long_ago() {
        for end in [Agent, System, LocalDisk] {
            assert_eq!(said(&[(0, DhcpDiscover, 1, EDK2), (5, Script, 1, ""), (20, end, 1, "")], 100_000), None, "{end}");
        }
    }

    #[test]
    fn the_phases_of_a_boot_are_measured() {
        let b = boot(&[
            (10, DhcpDiscover, 1, EDK2),
            (14, LoaderStart, 1, "f"),
            (15, LoaderDone, 1, "f"),
            (20, Script, 1, ""),
            (21, Kernel, 1, ""),
            (23, Ramdisk, 1, ""),
            (30, Agent, 1, ""),
        ]);
        let all: Vec<_> = phases(&b, Some(Timestamp(0))).into_iter().map(|p| (p.name, p.took.as_secs())).collect();
        assert_eq!(
            all,
            [
                ("firmware start to first packet", 10),
                ("first packet to loader", 4),
                ("loader transfer", 1),
                ("loader to script", 5),
                ("script to kernel and ramdisk", 3),
                ("ramdisk to agent", 7)
            ]
        );
        let rom = boot(&[(0, DhcpDiscover, 1, "iPXE, bios"), (3, Script, 1, ""), (3, LocalDisk, 1, ""), (15, System, 1, "")]);
        let all: Vec<_> = phases(&rom, None).into_iter().map(|p| (p.name, p.took.as_secs())).collect();
        assert_eq!(all, [("first packet to script", 3), ("disk to system", 12)]);
    }
}
