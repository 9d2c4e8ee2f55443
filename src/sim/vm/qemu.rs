//! QEMU as a child process: its command line, and a birthplace from which it does not outlive us.
//!
//! The three standard files of a QEMU are its network cable, its monitor, and its serial console. No path, no port, no
//! name that another program could take.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::net::{UnixDatagram, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use crate::domain::id::{Mac, Serial, SystemUuid};
use crate::domain::power::{BootDevice, FirmwareKind};

/// Enough for a kernel that unpacks its ramdisk and for Debian with cloud-init.
const MEMORY_MIB: u32 = 1024;
const CPUS: u32 = 2;
pub const DISK: &str = "disk.raw";
pub const VARIABLES: &str = "efivars.fd";

/// Programs and firmware that were found on this computer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    pub qemu: PathBuf,
    /// Ends a child when its parent ends (util-linux).
    pub setpriv: PathBuf,
    pub uefi: Option<Uefi>,
    /// Whether the BIOS machine's parts are there: SeaBIOS, and iPXE as the card's option ROM.
    pub bios: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uefi {
    pub code: PathBuf,
    /// Empty variables, copied for each machine.
    pub variables: PathBuf,
}

/// What identifies a machine, and what it is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub serial: Serial,
    pub mac: Mac,
    pub uuid: SystemUuid,
    pub firmware: FirmwareKind,
}

pub const MANUFACTURER: &str = "QEMU";
pub const PRODUCT: &str = "Virtual machine of hostler demo";

/// The command for a machine whose files are in `dir`.
pub fn command(tools: &Tools, spec: &Spec, dir: &Path, first: BootDevice) -> Command {
    let (network, disk) = match first {
        BootDevice::Network => (1, 2),
        BootDevice::Disk => (2, 1),
    };
    let mut command = Command::new(&tools.setpriv);
    command.args(["--pdeathsig", "KILL", "--no-new-privs", "--"]).arg(&tools.qemu);
    // Relative names: a comma in a path would end an option.
    command.current_dir(dir);
    command.args(["-name", &spec.name, "-uuid", &spec.uuid.to_string()]);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-vga", "none"]);
    // KVM may be there and useless (nested, or without SMM): TCG runs everywhere, and needs no group.
    command.args(["-accel", "tcg,thread=multi", "-m", &MEMORY_MIB.to_string(), "-smp", &CPUS.to_string()]);
    // A restart ends QEMU and the next one begins as the BMC was told: boot once holds for it, too.
    command.arg("-no-reboot");
    // The guest is a system from the network: QEMU may not start programs or gain rights for it.
    command.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    command.args(["-smbios", &format!("type=1,manufacturer={MANUFACTURER},product={PRODUCT},serial={}", spec.serial)]);
    command.args(["-chardev", "socket,id=monitor,fd=1", "-mon", "chardev=monitor,mode=control"]);
    command.args(["-chardev", "file,id=console,path=/dev/stderr", "-serial", "chardev:console", "-device", "virtio-rng-pci"]);
    command.args(["-netdev", "dgram,id=cable,local.type=fd,local.str=0"]);
    let card = format!("virtio-net-pci,netdev=cable,mac={},bootindex={network}", spec.mac);
    match (&tools.uefi, spec.firmware) {
        // Without the card's option ROM, so that the client is the firmware's own network stack, as in servers.
        (Some(uefi), FirmwareKind::Uefi) => {
            command.args(["-machine", "q35", "-device", &format!("{card},romfile=")]);
            command.args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", uefi.code.display())]);
            command.args(["-drive", &format!("if=pflash,unit=1,format=raw,file={VARIABLES}")]);
        }
        // graphics=off: SeaBIOS copies its screen to the serial port.
        (None, _) | (Some(_), FirmwareKind::Bios) => {
            command.args(["-machine", "q35,graphics=off", "-device", &card]);
        }
    }
    command.args(["-drive", &format!("if=none,id=disk,format=raw,file={DISK},cache=unsafe,discard=unmap,detect-zeroes=unmap")]);
    command.args(["-device", &format!("virtio-blk-pci,drive=disk,serial={},bootindex={disk}", spec.serial)]);
    command
}

/// A running QEMU and our ends of its files.
pub struct Running {
    pub child: Child,
    pub cable: UnixDatagram,
    pub monitor: UnixStream,
    pub console: tokio::process::ChildStderr,
}

/// A thread that starts children and lives as long as they do. The kernel sends a child its death signal when the thread
/// that started it ends (prctl(2), PR_SET_PDEATHSIG), so a thread of a pool, which may end early, is no place to be born.
#[derive(Clone)]
pub struct Birthplace {
    orders: mpsc::Sender<Order>,
}

struct Order {
    command: Command,
    born: oneshot::Sender<io::Result<Child>>,
}

impl Birthplace {
    /// # Errors
    /// When there can be no thread.
    pub fn open() -> io::Result<Self> {
        let (orders, mut queue) = mpsc::channel::<Order>(16);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("vm-birthplace".to_owned()).spawn(move || {
            while let Some(mut order) = queue.blocking_recv() {
                let _entered = runtime.enter();
                // Who no longer waits gets no child: kill_on_drop ends it.
                drop(order.born.send(order.command.spawn()));
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts QEMU by `command`.
    ///
    /// # Errors
    /// When it cannot be started. What QEMU itself refuses is on its console.
    pub async fn start(&self, mut command: Command) -> io::Result<Running> {
        let (cable, their_cable) = UnixDatagram::pair()?;
        let (monitor, their_monitor) = UnixStream::pair()?;
        command.stdin(Stdio::from(OwnedFd::from(their_cable.into_std()?)));
        let their_monitor = their_monitor.into_std()?;
        their_monitor.set_nonblocking(false)?;
        command.stdout(Stdio::from(OwnedFd::from(their_monitor)));
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let gone = || io::Error::other("the thread that starts virtual machines has ended");
        let (born, child) = oneshot::channel();
        self.orders.send(Order { command, born }).await.map_err(|_| gone())?;
        let mut child = child.await.map_err(|_| gone())??;
        let console = child.stderr.take().ok_or_else(|| io::Error::other("QEMU has no console"))?;
        Ok(Running { child, cable, monitor, console })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(firmware: FirmwareKind, first: BootDevice) -> Vec<String> {
        let tools = Tools {
            qemu: "qemu-system-x86_64".into(),
            setpriv: "setpriv".into(),
            uefi: Some(Uefi { code: "/f/code.fd".into(), variables: "/f/vars.fd".into() }),
            bios: true,
        };
        let spec = Spec {
            name: "vm-1".to_owned(),
            serial: "VM0001".parse().unwrap(),
            mac: Mac([0x52, 0x54, 0, 0xd0, 0, 1]),
            uuid: SystemUuid(uuid::Uuid::from_u128(7)),
            firmware,
        };
        let command = command(&tools, &spec, Path::new("/tmp"), first);
        command.as_std().get_args().map(|a| a.to_string_lossy().into_owned()).collect()
    }

    fn index(words: &[String], device: &str) -> u32 {
        let word = words.iter().find(|w| w.starts_with(device)).unwrap();
        word.split(',').find_map(|part| part.strip_prefix("bootindex=")?.parse().ok()).unwrap()
    }

    #[test]
    fn the_boot_device_comes_first_and_the_other_second() {
        for firmware in [FirmwareKind::Bios, FirmwareKind::Uefi] {
            let network = words(firmware, BootDevice::Network);
            assert_eq!((index(&network, "virtio-net-pci"), index(&network, "virtio-blk-pci")), (1, 2));
            let disk = words(firmware, BootDevice::Disk);
            assert_eq!((index(&disk, "virtio-net-pci"), index(&disk, "virtio-blk-pci")), (2, 1));
        }
    }

    #[test]
    fn only_uefi_machines_have_flash_and_no_option_rom() {
        let has = |words: &[String], text: &str| words.iter().any(|w| w.contains(text));
        let (bios, uefi) = (words(FirmwareKind::Bios, BootDevice::Network), words(FirmwareKind::Uefi, BootDevice::Network));
        assert!(has(&uefi, "pflash") && has(&uefi, "romfile=") && !has(&bios, "pflash") && !has(&bios, "romfile="));
    }
}
