//! The first process of the ramdisk: from the kernel's hand-over to the link with the server.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use sha2::Digest;

use crate::agent::console::{Console, follow_kernel_log};
use crate::agent::hands::{Neighbours, RealHands, read_machine};
use crate::agent::link::{Ending, Link, Outbox, Pace};
use crate::agent::modules::{self, Modules};
use crate::agent::net::{self, Connected};
use crate::agent::probe::{disk, firmware_kind, lldp};
use crate::agent::task::disk::Devices;
use crate::agent::task::write_image::Site;
use crate::domain::id::Mac;
use crate::domain::power::FirmwareKind;
use crate::wire::agent::{ARG_BOOTIF, ARG_NONCE, ARG_SERVER};

/// How long an error stays on the screen before the machine starts again.
const SHOW_ERROR: Duration = Duration::from_secs(60);
/// Loaded although no device asks: the IPMI device file, and UEFI variables.
const ALWAYS: [&str; 2] = ["ipmi_devintf", "efivarfs"];

/// Runs the agent as process 1. Ends in a restart or with the power off.
pub fn run() -> ! {
    let mounted = mount_kernel_trees();
    let console = Console::open(Path::new("/sys"), Path::new("/dev"));
    show_panics(&console);
    if let Err(e) = mounted {
        stop_with(&console, &format!("cannot mount the kernel's file systems: {e}"));
    }
    // A panic of the kernel itself restarts the machine too.
    if fs::write("/proc/sys/kernel/panic", "60").is_err() {
        console.complain("The kernel will not restart by itself after a panic.");
    }
    match start(&console) {
        Ok(Ending::Reboot) => finish(&console, RebootMode::RB_AUTOBOOT),
        Ok(Ending::PowerOff) => finish(&console, RebootMode::RB_POWER_OFF),
        Err(e) => stop_with(&console, &e),
    }
}

fn start(console: &Console) -> Result<Ending, String> {
    let sys = Path::new("/sys");
    let kernel = disk::short_text(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    console.say(&format!(
        "Hostler agent {} on Linux {kernel}. Nothing is written to disks unless the server orders it.",
        env!("CARGO_PKG_VERSION")
    ));

    let command_line = CommandLine::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    load_drivers(console);
    let firmware = firmware_kind(sys);
    if firmware == FirmwareKind::Uefi {
        let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if let Err(e) = mount(Some("efivarfs"), "/sys/firmware/efi/efivars", Some("efivarfs"), flags, None::<&str>) {
            console.complain(&format!("UEFI variables are not accessible: {e}"));
        }
    }
    let (server, nonce) = command_line.server_and_nonce()?;
    seed_random(sys, nonce, console);
    console.say(&format!("Looking for the server {server}."));
    let Connected { nic, .. } = net::connect(sys, command_line.server_address()?, command_line.bootif, console);
    settle_disks(sys);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("cannot start: {e}"))?;
    runtime.block_on(async {
        let link = Link::new(server, nonce, Pace::default()).map_err(|e| e.to_string())?;
        console.attach(link.outbox());
        follow_kernel_log(Path::new("/dev"), link.outbox());
        let neighbours = Neighbours::default();
        listen_for_switches(sys, &neighbours, link.outbox());
        let site = Site {
            devices: Devices::default(),
            http: link.http(),
            origin: link.origin().to_owned(),
            firmware,
            mount_at: "/run/root".into(),
        };
        let mut hands = RealHands { site, console: console.clone(), outbox: link.outbox(), neighbours };
        console.say(&format!("Saying hello over {}.", nic.name));
        link.run(&mut hands).await.map_err(|e| e.to_string())
    })
}

fn mount_kernel_trees() -> nix::Result<()> {
    let none = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
    for (source, at, kind, flags) in [
        ("proc", "/proc", "proc", none | MsFlags::MS_NODEV),
        ("sysfs", "/sys", "sysfs", none | MsFlags::MS_NODEV),
        ("devtmpfs", "/dev", "devtmpfs", none),
        ("tmpfs", "/run", "tmpfs", none | MsFlags::MS_NODEV),
    ] {
        match mount(Some(source), at, Some(kind), flags, None::<&str>) {
            // Some kernels mount devtmpfs themselves.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn load_drivers(console: &Console) {
    let mut modules = Modules::read(&modules::root());
    let (loaded, mut troubles) = modules.coldplug(Path::new("/sys/devices"));
    for name in ALWAYS {
        troubles.extend(modules.load(name).err().filter(|(_, e)| *e != nix::errno::Errno::ENODEV));
    }
    for (name, e) in troubles {
        console.complain(&format!("The driver {name} did not load: {}.", e.desc()));
    }
    console.say(&format!("{loaded} drivers loaded."));
}

/// Machines without RDRAND and virtio-rng (seen: QEMU's default CPU) may never fill the kernel's random generator, and every
/// reader waits. The agent makes no secrets, only ids that must differ: the boot's nonce and the machine's own serials do.
fn seed_random(sys: &Path, nonce: &str, console: &Console) {
    let mut one = [0; 1];
    let ready =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open("/dev/random").and_then(|mut file| file.read(&mut one));
    if ready.is_ok() {
        return;
    }
    let mut seed = sha2::Sha256::new();
    seed.update(nonce);
    seed.update(fs::read(sys.join("firmware/dmi/tables/DMI")).unwrap_or_default());
    for nic in crate::agent::probe::nic::read_nics(sys) {
        seed.update(nic.mac.0);
    }
    let began = Instant::now();
    for _ in 0..1000 {
        seed.update(began.elapsed().as_nanos().to_le_bytes());
    }
    let seeded =
        OpenOptions::new().write(true).open("/dev/random").and_then(|file| crate::agent::sys::seed_random(&file, seed.finalize().into()));
    match seeded {
        Ok(()) => console.say("This machine has no hardware random numbers; seeded from the boot nonce."),
        Err(e) => console.complain(&format!("The random generator cannot be seeded ({e}); waiting until the kernel fills it.")),
    }
}

/// Loading a driver waits for its devices, except where a driver scans later on its own (NVMe, SAS expanders): wait until
/// no disk has appeared for 0.7 s and every NVMe controller is live, 20 s at most.
fn settle_disks(sys: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    let mut seen = disk::entries(&sys.join("block"));
    let mut quiet_since = Instant::now();
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        let now = disk::entries(&sys.join("block"));
        let controllers = disk::entries(&sys.join("class/nvme"));
        let busy = controllers.iter().any(|name| {
            let state = disk::short_text(&sys.join("class/nvme").join(name).join("state"));
            matches!(state.as_deref(), Some("new" | "connecting" | "resetting"))
        });
        if now != seen || busy {
            quiet_since = Instant::now();
            seen = now;
        } else if quiet_since.elapsed() >= Duration::from_millis(700) {
            return;
        }
    }
}

/// Listens beside everything else; a switch speaks within half a minute, so what it says comes as a second inventory.
fn listen_for_switches(sys: &'static Path, neighbours: &Neighbours, outbox: Outbox) {
    let neighbours = Arc::clone(neighbours);
    std::thread::spawn(move || {
        let live: Vec<_> = crate::agent::probe::nic::read_nics(sys).into_iter().filter(|nic| nic.carrier).collect();
        let heard: HashMap<String, _> = std::thread::scope(|scope| {
            let listeners: Vec<_> =
                live.iter().map(|nic| scope.spawn(|| (nic.name.clone(), lldp::hear(sys, &nic.name, lldp::LISTEN_FOR)))).collect();
            let heard = listeners.into_iter().filter_map(|listener| listener.join().ok());
            heard.filter_map(|(name, neighbour)| Some((name, neighbour?))).collect()
        });
        if !heard.is_empty() {
            neighbours.lock().unwrap_or_else(PoisonError::into_inner).extend(heard);
            outbox.inventory(read_machine(&neighbours));
        }
    });
}

/// A panic of any thread is shown, then the machine starts again: it is better off asking the server anew.
fn show_panics(console: &Console) {
    let console = console.clone();
    std::panic::set_hook(Box::new(move |panic| stop_with(&console, &format!("a fault in the agent: {panic}"))));
}

fn stop_with(console: &Console, why: &str) -> ! {
    console.complain(&format!("Stopped: {why}"));
    console.say(&format!("This machine starts again in {} s.", SHOW_ERROR.as_secs()));
    std::thread::sleep(SHOW_ERROR);
    finish(console, RebootMode::RB_AUTOBOOT)
}

fn finish(console: &Console, how: RebootMode) -> ! {
    nix::unistd::sync();
    loop {
        let Err(e) = reboot(how);
        console.complain(&format!("The kernel does not obey: {}.", e.desc()));
        std::thread::sleep(SHOW_ERROR);
    }
}

/// The words of the kernel command line that are for the agent.
#[derive(Debug, Default, PartialEq, Eq)]
struct CommandLine {
    server: Option<String>,
    nonce: Option<String>,
    bootif: Option<Mac>,
}

impl CommandLine {
    fn parse(text: &str) -> Self {
        let word = |name: &str| text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
        // PXELINUX puts the hardware type (01 for Ethernet) before the address.
        let bootif = word(ARG_BOOTIF).and_then(|mac| mac.strip_prefix("01-").unwrap_or(&mac).parse().ok());
        Self { server: word(ARG_SERVER), nonce: word(ARG_NONCE), bootif }
    }

    fn server_and_nonce(&self) -> Result<(&str, &str), String> {
        match (&self.server, &self.nonce) {
            (Some(server), Some(nonce)) => Ok((server, nonce)),
            _ => Err(format!("the kernel command line has no {ARG_SERVER} or no {ARG_NONCE}: this ramdisk is booted by a Hostler server")),
        }
    }

    /// The address behind `hostler.server`. A name is not resolved: the agent speaks to nobody else, not even DNS.
    fn server_address(&self) -> Result<SocketAddr, String> {
        let text = self.server.as_deref().unwrap_or_default();
        let bad = || format!("{ARG_SERVER}={text} is not http://ADDRESS:PORT with an IP address");
        let url = reqwest::Url::parse(text).map_err(|_| bad())?;
        let host = url.host_str().ok_or_else(bad)?.trim_matches(['[', ']']);
        let address: IpAddr = host.parse().map_err(|_| bad())?;
        Ok(SocketAddr::new(address, url.port_or_known_default().ok_or_else(bad)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_server_nonce_and_boot_interface() {
        let line =
            CommandLine::parse("quiet hostler.server=http://10.0.0.1:8081 hostler.nonce=abc BOOTIF=01-52-54-00-77-00-01 console=ttyS0\n");
        assert_eq!(line.server_and_nonce(), Ok(("http://10.0.0.1:8081", "abc")));
        assert_eq!(line.bootif, Some(Mac([0x52, 0x54, 0, 0x77, 0, 1])));
        assert_eq!(line.server_address(), Ok("10.0.0.1:8081".parse().unwrap()));
    }

    #[test]
    fn a_server_that_is_a_name_or_missing_is_refused() {
        assert!(CommandLine::parse("hostler.server=http://boot.example:80 hostler.nonce=a").server_address().is_err());
        assert!(CommandLine::parse("hostler.server=http://10.0.0.1").server_and_nonce().is_err());
        assert!(CommandLine::parse("").server_address().is_err());
    }
}
