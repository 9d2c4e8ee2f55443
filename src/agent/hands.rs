//! The real hands: what carries orders out on this machine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::console::Console;
use crate::agent::link::{Hands, Outbox, Progress};
use crate::agent::probe;
use crate::agent::task::TaskError;
use crate::agent::task::efi;
use crate::agent::task::grow;
use crate::agent::task::wipe::wipe_disks;
use crate::agent::task::write_image::{Site, write_image};
use crate::domain::inventory::{DiskRef, Inventory, LldpNeighbour};
use crate::domain::power::FirmwareKind;
use crate::wire::agent::{Order, TaskResult};

/// Switches heard so far, by interface.
pub type Neighbours = Arc<Mutex<HashMap<String, LldpNeighbour>>>;

pub struct RealHands {
    pub site: Site,
    pub console: Console,
    pub outbox: Outbox,
    pub neighbours: Neighbours,
}

/// Everything about this machine, with the switches heard so far.
pub fn read_machine(neighbours: &Neighbours) -> Inventory {
    let mut inventory = probe::inventory(Path::new("/sys"), Path::new("/proc"), Path::new("/dev"));
    let heard = neighbours.lock().unwrap_or_else(PoisonError::into_inner);
    for nic in &mut inventory.nics {
        nic.lldp = heard.get(&nic.name).cloned();
    }
    inventory
}

impl Hands for RealHands {
    async fn inventory(&mut self) -> Inventory {
        let neighbours = Arc::clone(&self.neighbours);
        tokio::task::spawn_blocking(move || read_machine(&neighbours)).await.unwrap_or_default()
    }

    async fn execute(&mut self, order: &Order, progress: Progress) -> TaskResult {
        let console = self.console.clone();
        let shown = show_progress(&console, &progress);
        let done = tokio::select! {
            done = self.carry_out(order, progress.clone()) => done,
            never = shown => match never {},
        };
        match done {
            Ok(evidence) => TaskResult::Ok { evidence },
            Err(e) => e.into(),
        }
    }

    fn say(&mut self, text: &str) {
        self.console.say(text);
    }
}

impl RealHands {
    async fn carry_out(&mut self, order: &Order, progress: Progress) -> Result<Value, TaskError> {
        match order {
            Order::Inventory => {
                let inventory = self.inventory().await;
                let evidence = json!({ "disks": inventory.disks.len(), "nics": inventory.nics.len() });
                self.outbox.inventory(inventory);
                Ok(evidence)
            }
            Order::WriteImage(order) => write_image(self.site.clone(), (**order).clone(), progress).await,
            Order::WipeDisks(order) => {
                let (devices, order) = (self.site.devices.clone(), order.clone());
                let wiped = tokio::task::spawn_blocking(move || wipe_disks(&devices, &order, &progress)).await;
                wiped.unwrap_or_else(|e| Err(TaskError::for_now("internal", format!("the wiping thread died: {e}"))))
            }
            Order::RebootToDisk { disk } => self.point_firmware_at(disk.as_ref()),
            Order::Reboot | Order::PowerOff => Ok(json!({})),
        }
    }

    /// On UEFI sets BootNext to the disk's loader. A BIOS has nothing to set: the boot answer sends it to its disk.
    fn point_firmware_at(&self, disk: Option<&DiskRef>) -> Result<Value, TaskError> {
        match self.site.firmware {
            FirmwareKind::Bios => Ok(json!({ "firmware": "bios", "boot_entry": null })),
            FirmwareKind::Uefi => {
                let (name, esp) = self.system_partition(disk)?;
                let number = efi::boot_next_from(Path::new("/sys/firmware/efi/efivars"), &esp)?;
                Ok(json!({ "firmware": "uefi", "boot_entry": format!("Boot{number:04X}"), "disk": name, "partition": esp.number }))
            }
        }
    }

    fn system_partition(&self, meant: Option<&DiskRef>) -> Result<(String, grow::Partition), TaskError> {
        let disks = match meant {
            Some(meant) => vec![self.site.devices.find(meant)?],
            None => probe::disk::read_disks(&self.site.devices.sys).into_iter().filter(|disk| !disk.removable).collect(),
        };
        for disk in &disks {
            let table = grow::partitions(&self.site.devices.path(disk), u64::from(disk.logical_block_bytes))?;
            if let Some(esp) = table.as_deref().and_then(efi::esp) {
                return Ok((disk.name.clone(), esp.clone()));
            }
        }
        let what = meant.map_or_else(|| "no disk of this machine".to_owned(), ToString::to_string);
        Err(TaskError::for_good("boot_entry", format!("{what} has no EFI system partition: UEFI firmware cannot start it")))
    }
}

/// A line on the console every 10 s while an order moves many bytes.
async fn show_progress(console: &Console, progress: &Progress) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let now = progress.latest();
        if now.total > 1 {
            let percent = now.done.saturating_mul(100) / now.total;
            console.show(&format!("{}: {} of {} MiB ({percent} %)", now.phase, now.done >> 20, now.total >> 20));
        }
    }
}
