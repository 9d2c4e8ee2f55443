//! One virtual machine: its power switch and boot device for the BMC's front, and QEMU behind it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::sim::bmc::{BootOverride, Chassis, ChassisIdentity};
use crate::sim::power::{PowerSwitch, Switch};
use crate::sim::vm::console::Console;
use crate::sim::vm::frame::Lan;
use crate::sim::vm::monitor::{self, Stopped};
use crate::sim::vm::qemu::{self, Birthplace, DISK, Running, Spec, Tools, VARIABLES};
use crate::sim::vm::router::{Outside, Router};

/// Sparse: only what is written takes place.
const DISK_BYTES: u64 = 4 << 30;
/// For the last words on the console of a QEMU that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What all virtual machines share.
#[derive(Clone)]
pub struct Shared {
    pub tools: Tools,
    pub birthplace: Birthplace,
    pub lan: Lan,
}

pub struct Vm {
    pub spec: Spec,
    shared: Shared,
    dir: PathBuf,
    outside: Outside,
    console: Arc<Console>,
    switch: PowerSwitch,
    boot: Mutex<Option<BootOverride>>,
    /// Held while a QEMU runs.
    running: tokio::sync::Mutex<()>,
}

impl Vm {
    /// A machine with an empty disk, switched off. Its files are in `dir`, which is made.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn build(spec: Spec, shared: Shared, dir: &Path, outside: Outside) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::File::create(dir.join(DISK))?.set_len(DISK_BYTES)?;
        if let (FirmwareKind::Uefi, Some(uefi)) = (spec.firmware, &shared.tools.uefi) {
            // Not fs::copy, which would keep the package's read-only mode.
            std::fs::write(dir.join(VARIABLES), std::fs::read(&uefi.variables)?)?;
        }
        Ok(Self {
            console: Arc::new(Console::new(dir.join("console.log"))),
            dir: dir.to_owned(),
            spec,
            shared,
            outside,
            switch: PowerSwitch::default(),
            boot: Mutex::default(),
            running: tokio::sync::Mutex::default(),
        })
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Lives until it is dropped: waits for power, runs QEMU, and runs it again.
    pub async fn run(&self) {
        let mut switch = self.switch.watch();
        loop {
            let seen = *switch.borrow_and_update();
            if !seen.on {
                if switch.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.power_on_to_end(&mut switch, seen).await {
                Ok(Stopped::Restart) => {}
                Ok(Stopped::PowerOff | Stopped::Unknown) => self.switch.press(PowerAction::Off),
                Err(e) => {
                    tracing::error!(machine = self.spec.name, error = %e, "a virtual machine could not be run");
                    self.console.say(&format!("QEMU could not be run: {e}"));
                    self.switch.press(PowerAction::Off);
                }
            }
        }
    }

    /// One QEMU, from its start to its end. A switch that was turned counts as a restart: how it stands is looked at next.
    async fn power_on_to_end(&self, switch: &mut watch::Receiver<Switch>, seen: Switch) -> io::Result<Stopped> {
        let _running = self.running.lock().await;
        let command = qemu::command(&self.shared.tools, &self.spec, &self.dir, self.take_boot_device());
        let Running { mut child, cable, monitor, console } = self.shared.birthplace.start(command).await?;
        let router = Router::new(self.shared.lan, self.spec.mac, self.outside, cable)?;
        let watched = Arc::clone(&self.console);
        let mut following = tokio::spawn(async move { watched.follow(console).await });
        let (press, mut pressed) = mpsc::channel(1);
        let stopped = tokio::select! {
            stopped = monitor::follow(monitor, &mut pressed) => Some(stopped?),
            () = turned(switch, seen, &press) => None,
            // The cable breaks when QEMU ends, which its monitor tells better.
            never = async { unplugged(router.run().await).await } => match never {},
        };
        if stopped.is_none() {
            child.start_kill()?;
        }
        let status = child.wait().await?;
        if tokio::time::timeout(LAST_WORDS, &mut following).await.is_err() {
            following.abort();
        }
        if stopped == Some(Stopped::Unknown) {
            self.console.say(&format!("{} (QEMU ended with {status})", self.console.last_line()));
        }
        Ok(stopped.unwrap_or(Stopped::Restart))
    }

    /// Where the next boot goes. What was told for once is used up.
    fn take_boot_device(&self) -> BootDevice {
        let mut boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner);
        let told = *boot;
        *boot = told.filter(|o| !o.once);
        // As machines of a rack that is provisioned by network are set up.
        told.map_or(BootDevice::Network, |o| o.device)
    }

    /// Pulls the plug and returns when QEMU has ended.
    pub async fn stop(&self) {
        self.switch.press(PowerAction::Off);
        drop(self.running.lock().await);
    }
}

/// Returns when the switch ends what runs. Presses of the power button are passed on; one at a time, as on a real one.
async fn turned(switch: &mut watch::Receiver<Switch>, seen: Switch, press: &mpsc::Sender<()>) {
    let mut button = seen.button;
    loop {
        if switch.changed().await.is_err() {
            return;
        }
        let now = *switch.borrow_and_update();
        if now.turn != seen.turn {
            return;
        }
        if now.button != button && press.try_send(()).is_ok() {
            button = now.button;
        }
    }
}

async fn unplugged(why: io::Error) -> std::convert::Infallible {
    tracing::debug!(error = %why, "a virtual machine's cable is unplugged");
    std::future::pending().await
}

impl Chassis for Vm {
    fn identity(&self) -> ChassisIdentity {
        ChassisIdentity {
            manufacturer: qemu::MANUFACTURER.to_owned(),
            model: qemu::PRODUCT.to_owned(),
            serial: self.spec.serial.to_string(),
            uuid: self.spec.uuid,
            asset_tag: None,
            bios_version: match self.spec.firmware {
                FirmwareKind::Bios => "SeaBIOS".to_owned(),
                FirmwareKind::Uefi => "OVMF".to_owned(),
            },
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
        *self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_boot_override(&self, boot: Option<BootOverride>) {
        *self.boot.lock().unwrap_or_else(PoisonError::into_inner) = boot;
    }
}
