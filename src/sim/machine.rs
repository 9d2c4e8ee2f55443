//! One simulated machine: power, firmware, network boot, agent, and the system on its disk.
//!
//! Its power switch is the BMC front's; everything after power-on happens by itself and over sockets, as in a rack:
//! nothing here knows Hostler but the packets it gets.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::agent::link::{Ending, Link, LinkError, Pace as LinkPace};
use crate::domain::inventory::Inventory;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::sim::bmc::{BootOverride, BootProgress, Chassis, ChassisIdentity};
use crate::sim::dhcp::{Client, ForeignServer, Lease, Uplink, xid};
use crate::sim::fetch::{self, Http};
use crate::sim::first_boot;
use crate::sim::hands::{Disks, SharedDisks, SimulatedHands, lock};
use crate::sim::hardware::{Hardware, Rom};
use crate::sim::ipxe::{self, Download, Outcome, Platform, Value};
use crate::sim::pace::Pace;
use crate::sim::power::{PowerSwitch, Switch};
use crate::wire::agent::{ARG_NONCE, ARG_SERVER};
use crate::wire::dhcp::{Speaker, VendorClass};

/// iPXE finds its network cards and opens them.
const IPXE_START: Duration = Duration::from_secs(2);
/// EDK2 without a boot file goes through PXEv4, PXEv6, HTTPv4 and HTTPv6 before the disk: measured 280 s with OVMF 2022.11.
const EFI_GIVES_UP_NETWORK: Duration = Duration::from_secs(280);
/// Nothing boots: how long until firmware that retries its boot list begins again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_secs(30);
const RETRY_MOST: Duration = Duration::from_secs(16 * 60);
/// The ramdisk's init restarts the machine when its agent has given up.
const AGENT_GAVE_UP: Duration = Duration::from_secs(30);
const SHUTDOWN: Duration = Duration::from_secs(8);

/// What all machines of a rack share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub uplink: Uplink,
    pub pace: Pace,
    /// For agents, made by [`crate::agent::link::http_client`].
    pub http: reqwest::Client,
}

pub struct Machine {
    pub hardware: Hardware,
    around: Surroundings,
    foreign: Option<ForeignServer>,
    disks: SharedDisks,
    switch: PowerSwitch,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    boot_override: Option<BootOverride>,
    exchanges: u32,
    /// The last line on the console.
    console: String,
    progress: Option<BootProgress>,
    /// Times that it began to boot.
    boots: u64,
    /// The BIOS after an update.
    bios_version: Option<String>,
    /// What is inside after parts were taken out or changed.
    refit: Option<Inventory>,
}

/// How a boot ended by itself.
enum End {
    Restart,
    PowerOff,
}

impl Machine {
    pub fn new(hardware: Hardware, around: Surroundings, foreign: Option<ForeignServer>) -> Self {
        let disks = Disks::of(&hardware.inventory);
        Self { hardware, around, foreign, disks, switch: PowerSwitch::default(), now: Mutex::default() }
    }

    /// The button at its front.
    pub fn switch_on(&self) {
        self.switch.press(PowerAction::On);
    }

    /// The last line on the machine's console.
    pub fn console(&self) -> String {
        self.lock().console.clone()
    }

    /// Lives until it is dropped: waits for power, boots, and boots again.
    pub async fn run(&self) {
        let mut switch = self.switch.watch();
        loop {
            let seen = *switch.borrow_and_update();
            let mut outside = self.switch.watch();
            if !seen.on {
                self.say("off");
                self.reach(BootProgress::None);
                if switch.changed().await.is_err() {
                    return;
                }
                continue;
            }
            tokio::select! {
                end = self.power_on_to_end() => match end {
                    End::Restart => {}
                    End::PowerOff => self.switch.press(PowerAction::Off),
                },
                turned = turned(&mut outside, seen, true) => if !turned { return },
            }
            if switch.borrow().hung {
                self.say("the system hangs");
                if !turned(&mut switch, seen, false).await {
                    return;
                }
            }
        }
    }

    async fn power_on_to_end(&self) -> End {
        let tempo = &self.hardware.tempo;
        self.say("power-on self test");
        self.lock().boots += 1;
        self.reach(BootProgress::MemoryInitializationStarted);
        self.around.pace.pass(tempo.power + tempo.post).await;
        self.reach(BootProgress::SystemHardwareInitializationComplete);
        let told = {
            let mut now = self.lock();
            let told = now.boot_override;
            now.boot_override = told.filter(|o| !o.once);
            told.map(|o| o.device)
        };
        let disk_next = lock(&self.disks).take_boot_disk_next();
        let mut disk_first = told == Some(BootDevice::Disk) || (told.is_none() && disk_next);
        let mut retry = RETRY_FIRST;
        loop {
            if !disk_first && let Some(end) = self.network().await {
                return end;
            }
            if let Some(end) = self.disk().await {
                return end;
            }
            if disk_first && let Some(end) = self.network().await {
                return end;
            }
            disk_first = false;
            self.say("no bootable device; trying again");
            self.around.pace.pass(retry).await;
            retry = (retry * 2).min(RETRY_MOST);
        }
    }

    /// Boots the system on the first disk; `None` if there is none.
    async fn disk(&self) -> Option<End> {
        let system = lock(&self.disks).system().cloned()?;
        self.say("booting from disk");
        self.reach(BootProgress::OsBootStarted);
        self.around.pace.pass(self.hardware.tempo.system).await;
        if !system.initialised {
            match &system.seed {
                Some(seed) => match first_boot::phone_home(&self.around.http, seed, self.around.pace).await {
                    Ok(line) => self.say(&line),
                    Err(why) => self.say(&format!("cloud-init: {why}")),
                },
                None => self.say("cloud-init: no data source"),
            }
            lock(&self.disks).initialised();
        }
        self.say("login:");
        self.reach(BootProgress::OsRunning);
        // The system heeds the power button; anything else ends it from outside.
        let mut switch = self.switch.watch();
        let button = switch.borrow().button;
        if switch.wait_for(|now| now.button != button).await.is_ok() {
            self.say("shutting down");
            self.around.pace.pass(SHUTDOWN).await;
        }
        Some(End::PowerOff)
    }

    /// Boots from the network; `None` to go on with the next boot device.
    async fn network(&self) -> Option<End> {
        let firmware = self.hardware.rom.firmware();
        let lease = match self.lease(Speaker::Firmware).await {
            Ok(lease) => lease,
            Err(why) => return self.give_up_network(&why).await,
        };
        let Some(boot) = &lease.boot else { return self.give_up_network("PXE-E53: No boot filename received").await };
        self.say(&format!("network boot: {} from {}", boot.file, boot.server));
        if self.hardware.rom == Rom::BiosIpxe && boot.file.starts_with("http:") {
            return self.script(&lease).await;
        }
        let program = match self.loader(&lease).await {
            Ok(program) => program,
            Err(why) => return self.give_up_network(&why).await,
        };
        match (program.file_name(), firmware) {
            ("undionly.kpxe", FirmwareKind::Bios) | ("snponly.efi" | "ipxe.efi", FirmwareKind::Uefi) => {
                self.say("iPXE initialising devices...");
                self.around.pace.pass(IPXE_START).await;
                match self.lease(Speaker::Ipxe).await {
                    Ok(lease) => self.script(&lease).await,
                    Err(why) => self.give_up_network(&why).await,
                }
            }
            // GRUB that chains to the boot loader on the disk (EFI).
            ("local-x64.efi", FirmwareKind::Uefi) => self.disk().await,
            (other, _) => self.give_up_network(&format!("{other} is not a program that this simulated firmware can run")).await,
        }
    }

    async fn give_up_network(&self, why: &str) -> Option<End> {
        self.say(why);
        if self.hardware.rom.firmware() == FirmwareKind::Uefi {
            self.around.pace.pass(EFI_GIVES_UP_NETWORK).await;
        }
        None
    }

    async fn lease(&self, speaker: Speaker) -> Result<Lease, String> {
        let count = {
            let mut now = self.lock();
            now.exchanges = now.exchanges.wrapping_add(1);
            now.exchanges
        };
        let Surroundings { uplink, pace, .. } = &self.around;
        let xid = xid(self.hardware.boot_mac, count);
        let client = Client { hardware: &self.hardware, uplink, pace: *pace, speaker, foreign: self.foreign, xid };
        client.exchange().await.map_err(|e| e.to_string())
    }

    /// Fetches the network boot program that the lease names.
    async fn loader(&self, lease: &Lease) -> Result<Download, String> {
        let Some(boot) = &lease.boot else { return Err("PXE-E53: No boot filename received".into()) };
        if lease.vendor_class == VendorClass::Http || boot.file.starts_with("http:") {
            if self.hardware.rom != Rom::EfiHttp {
                return Err(format!("PXE-E23: {} is no file that this ROM can fetch", boot.file));
            }
            let http = Http::from(lease.address, &self.around.uplink, "UefiHttpBoot/1.0")?;
            http.head(&boot.file).await?;
            return http.get(&boot.file).await;
        }
        let server = self.around.uplink.tftp(boot.server);
        fetch::tftp(server, lease.address, &boot.file, self.hardware.rom).await
    }

    /// iPXE's part: the script that the lease names, and what it leads to.
    async fn script(&self, lease: &Lease) -> Option<End> {
        let file = match &lease.boot {
            Some(boot) if boot.file.starts_with("http:") => boot.file.as_str(),
            // Nothing to do: iPXE goes back to the firmware.
            Some(_) | None => return self.give_up_network("No more network devices").await,
        };
        let http = match Http::from(lease.address, &self.around.uplink, "iPXE/1.0.0+git-20190125.36a4c85-5.1") {
            Ok(http) => http,
            Err(why) => return self.give_up_network(&why).await,
        };
        let mut environment = Environment { machine: self, http, address: lease.address };
        let script = match environment.fetch(file).await {
            Ok(script) => String::from_utf8_lossy(&script.head).into_owned(),
            Err(why) => return self.give_up_network(&format!("{file}... {why}")).await,
        };
        match ipxe::run(&mut environment, &script).await {
            Ok(Outcome::Kernel { kernel, arguments, ramdisks }) => self.kernel(&kernel, &arguments, &ramdisks).await,
            Ok(Outcome::Drive(0x80)) => self.disk().await,
            Ok(Outcome::Program(program)) if program.file_name() == "local-x64.efi" && self.is_efi() => self.disk().await,
            Ok(Outcome::Program(program)) => {
                self.give_up_network(&format!("{} is not a program that this simulated machine can run", program.file_name())).await
            }
            Ok(Outcome::Reboot) => Some(End::Restart),
            Ok(Outcome::PowerOff) => Some(End::PowerOff),
            // On EFI neither `exit` nor `exit 1` reached the disk within 280 s; what came after was not seen.
            Ok(Outcome::Exit(_) | Outcome::Drive(_)) => self.give_up_network("iPXE gave the machine back").await,
            Err(broken) => self.give_up_network(&broken.to_string()).await,
        }
    }

    /// The kernel with the agent in its ramdisk.
    async fn kernel(&self, kernel: &Download, arguments: &str, ramdisks: &[(String, Download)]) -> Option<End> {
        self.say(&format!("{} ({} bytes) starts: {arguments}", kernel.file_name(), kernel.size_bytes));
        let words: Vec<(&str, &str)> = arguments.split_ascii_whitespace().filter_map(|w| w.split_once('=')).collect();
        let word = |name: &str| words.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        // The kernel's EFI stub takes the ramdisk that `initrd=` names; BIOS loaders hand it over themselves.
        let has_ramdisk = ramdisks.iter().any(|(name, file)| file.size_bytes > 0 && (!self.is_efi() || word("initrd") == Some(name)));
        if !has_ramdisk {
            return self.halt("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)").await;
        }
        self.reach(BootProgress::OsBootStarted);
        self.around.pace.pass(self.hardware.tempo.kernel).await;
        let (Some(server), Some(nonce)) = (word(ARG_SERVER), word(ARG_NONCE)) else {
            return self.halt(&format!("the command line has no {ARG_SERVER} or no {ARG_NONCE}")).await;
        };
        match self.agent(server, nonce).await {
            Ok(Ending::Reboot) => Some(End::Restart),
            Ok(Ending::PowerOff) => Some(End::PowerOff),
            Err(why) => {
                self.say(&format!("agent: {why}; restarting"));
                self.around.pace.pass(AGENT_GAVE_UP).await;
                Some(End::Restart)
            }
        }
    }

    async fn agent(&self, server: &str, nonce: &str) -> Result<Ending, LinkError> {
        let pace = LinkPace { progress_every: Duration::from_millis(500), log_every: Duration::from_secs(5), ..LinkPace::default() };
        let link = Link::with_client(self.around.http.clone(), server, nonce, pace)?;
        let outbox = link.outbox();
        let (serial, started) = (self.hardware.serial.clone(), tokio::time::Instant::now());
        let mut hands = SimulatedHands {
            inventory: self.inside(),
            disks: self.disks.clone(),
            firmware: self.hardware.rom.firmware(),
            tempo: self.hardware.tempo.clone(),
            pace: self.around.pace,
            http: self.around.http.clone(),
            origin: link.origin().to_owned(),
            say: Box::new(move |line| {
                tracing::debug!(machine = %serial, "{line}");
                outbox.log(started.elapsed().as_secs_f64(), "info", line);
            }),
        };
        self.say("agent started");
        self.reach(BootProgress::OsRunning);
        link.run(&mut hands).await
    }

    async fn halt(&self, line: &str) -> Option<End> {
        self.say(line);
        std::future::pending().await
    }

    fn is_efi(&self) -> bool {
        self.hardware.rom.firmware() == FirmwareKind::Uefi
    }

    fn reach(&self, progress: BootProgress) {
        self.lock().progress = Some(progress);
    }

    /// What is inside now.
    fn inside(&self) -> Inventory {
        let now = self.lock();
        let mut inventory = now.refit.clone().unwrap_or_else(|| self.hardware.inventory.clone());
        if let Some(version) = &now.bios_version {
            inventory.firmware.version = Some(version.clone());
        }
        inventory
    }

    fn say(&self, line: &str) {
        tracing::debug!(machine = %self.hardware.serial, "{line}");
        line.clone_into(&mut self.lock().console);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chassis for Machine {
    fn identity(&self) -> ChassisIdentity {
        let system = &self.hardware.inventory.system;
        ChassisIdentity {
            manufacturer: self.hardware.manufacturer().to_owned(),
            model: self.hardware.product().to_owned(),
            serial: self.hardware.serial.to_string(),
            uuid: self.hardware.uuid,
            asset_tag: system.asset_tag.clone(),
            bios_version: self.inside().firmware.version.unwrap_or_default(),
            bmc_firmware: "2.85 (simulated)".to_owned(),
        }
    }

    fn power(&self) -> PowerState {
        self.switch.state()
    }

    fn set_power(&self, action: PowerAction) -> Result<(), String> {
        self.switch.press(action);
        Ok(())
    }

    fn boot_override(&self) -> Option<BootOverride> {
        self.lock().boot_override
    }

    fn set_boot_override(&self, boot: Option<BootOverride>) {
        self.lock().boot_override = boot;
    }

    /// As it was built: the BMC knows what was changed since.
    fn inventory(&self) -> Option<Inventory> {
        Some(self.hardware.inventory.clone())
    }

    fn boot_progress(&self) -> Option<BootProgress> {
        self.lock().progress
    }

    fn boots(&self) -> Option<u64> {
        Some(self.lock().boots)
    }

    fn hang(&self) {
        self.switch.hang();
    }

    fn set_bios_version(&self, version: &str) {
        self.lock().bios_version = Some(version.to_owned());
    }

    fn refit(&self, inventory: &Inventory) {
        self.lock().refit = Some(inventory.clone());
    }
}

/// Waits until what runs ends from outside, or hangs if that counts; false when the machine is gone.
async fn turned(switch: &mut tokio::sync::watch::Receiver<Switch>, seen: Switch, heeds_hang: bool) -> bool {
    switch.wait_for(|now| now.turn != seen.turn || (heeds_hang && now.hung)).await.is_ok()
}

/// What iPXE finds on this machine.
struct Environment<'a> {
    machine: &'a Machine,
    http: Http,
    address: Ipv4Addr,
}

impl Platform for Environment<'_> {
    fn setting(&self, name: &str) -> Option<Value> {
        let hardware = &self.machine.hardware;
        let text = |s: &str| Some(Value::Text(s.to_owned()));
        match name {
            "mac" | "netX/mac" | "net0/mac" => Some(Value::Mac(hardware.boot_mac)),
            "net1/mac" => hardware.inventory.nics.get(1).map(|n| Value::Mac(n.mac)),
            "ip" | "netX/ip" | "net0/ip" => Some(Value::Address(self.address)),
            "uuid" => Some(Value::Uuid(hardware.uuid)),
            "serial" => text(hardware.serial.as_str()),
            "manufacturer" => text(hardware.manufacturer()),
            "product" => text(hardware.product()),
            "asset" => hardware.inventory.system.asset_tag.as_deref().and_then(text),
            "platform" => text(if self.machine.is_efi() { "efi" } else { "pcbios" }),
            // Debian's undionly.kpxe is built for i386, the EFI builds for x86_64.
            "buildarch" => text(if self.machine.is_efi() { "x86_64" } else { "i386" }),
            "version" => text("1.0.0+git-20190125.36a4c85-5.1"),
            _ => None,
        }
    }

    async fn fetch(&mut self, uri: &str) -> Result<Download, String> {
        self.http.get(uri).await
    }

    async fn sleep(&mut self, secs: u64) {
        self.machine.around.pace.pass(Duration::from_secs(secs)).await;
    }

    fn say(&mut self, line: &str) {
        self.machine.say(line);
    }
}
