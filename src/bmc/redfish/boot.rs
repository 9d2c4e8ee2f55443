//! What the machine boots: the override for the next boot, the lasting order, and how far it came.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::view::{self, BootOverride};
use crate::bmc::redfish::walk::Walk;
use crate::bmc::redfish::{Redfish, quirks};
use crate::bmc::{BmcError, BootSet};
use crate::domain::bmc_features::{BootOption, BootProgress, Found};
use crate::domain::power::{BootDevice, FirmwareKind};

/// Pauses between two readings of a boot override that does not show yet. Sum: 3.5 s.
const BOOT_READ_PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

impl Redfish {
    async fn patch_boot(&self, path: &str, etag: Option<String>, target: &str, mode: Option<&str>) -> Result<(), BmcError> {
        let mut boot = json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target});
        if let (Some(mode), Some(fields)) = (mode, boot.as_object_mut()) {
            fields.insert("BootSourceOverrideMode".into(), mode.into());
        }
        let reply = self.patch(path, &json!({"Boot": boot}), etag).await?;
        if reply.status.is_success() { Ok(()) } else { Err(self.http().failed(path, &reply)) }
    }

    pub(super) async fn boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> Result<BootSet, BmcError> {
        let (path, system) = self.system().await?;
        let boot = view::boot_override(&system.body).ok_or_else(|| self.http().unsupported("a choice of the next boot device"))?;
        let target = view::boot_target(device, firmware, &boot).ok_or_else(|| {
            self.http().unsupported(format!("the boot device {device} (it offers {})", boot.targets.clone().unwrap_or_default().join(", ")))
        })?;
        // Where the mode is already right it is left out: iLO 5 and some iDRACs refuse to have it written.
        let wanted_mode = boot.mode.is_some().then(|| view::boot_mode(firmware));
        let written_mode = wanted_mode.filter(|w| boot.mode.as_deref() != Some(*w));
        self.patch_boot(&path, system.etag(), target, written_mode).await?;
        let mut last = BootOverride::default();
        let mut rewritten = false;
        for pause in BOOT_READ_PAUSES.into_iter().map(Some).chain([None]) {
            let system = self.http().get(&path).await?;
            last = view::boot_override(&system.body).unwrap_or_default();
            if let Some(set) = judge_boot(&last, target, wanted_mode) {
                return Ok(set);
            }
            // Without a mode in the request some Supermicro boards fall back to Legacy: say it once.
            if !rewritten && last.target.as_deref() == Some(target) && wanted_mode.is_some() && last.mode.as_deref() != wanted_mode {
                rewritten = true;
                self.patch_boot(&path, system.etag(), target, wanted_mode).await?;
                continue;
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        let shown = |v: &Option<String>| v.clone().unwrap_or_else(|| "nothing".into());
        Err(BmcError::NotEffective {
            address: self.http().address().to_owned(),
            what: format!("boot once from {target}"),
            evidence: format!("it reads back target {}, {}, mode {}", shown(&last.target), shown(&last.enabled), shown(&last.mode)),
        })
    }

    pub(super) async fn read_boot_progress(&self) -> Result<Option<BootProgress>, BmcError> {
        let (path, system) = self.system().await?;
        let mut odd = Vec::new();
        let mut r = Reader::new(&system.body, &path, &mut odd);
        if let Some(mut progress) = r.inside("BootProgress") {
            let at = progress.time("LastStateTime");
            let state = progress.text("LastState").filter(|s| s != "OEM").or_else(|| progress.text("OemLastState"));
            return Ok(state.filter(|s| s != "None").map(|state| BootProgress { state, at }));
        }
        match quirks::boot_progress(&system.body) {
            Some(state) => Ok(Some(BootProgress { state, at: None })),
            None if system.body.get("BootProgress").is_some() => Ok(None),
            None => Err(self.http().unsupported("boot progress (its system has no BootProgress)")),
        }
    }

    pub(super) async fn read_boot_order(&self) -> Result<Found<BootOption>, BmcError> {
        let mut walk = Walk::new(self.http());
        let (path, system) = self.system().await?;
        let Some(boot) = system.body.get("Boot").filter(|b| b.get("BootOrder").is_some() || b.get("BootOptions").is_some()) else {
            return Err(self.http().unsupported("a boot order (no BootOrder or BootOptions)"));
        };
        let order = Reader::new(boot, &path, &mut walk.odd).words("BootOrder");
        let mut options: Vec<BootOption> = Vec::new();
        for member in walk.follow_members(boot, "BootOptions").await? {
            options.push(option(&mut walk.reader(&member)));
        }
        let mut items: Vec<BootOption> = Vec::new();
        for reference in order {
            let known = options.iter().position(|o| o.reference == reference || o.source.ends_with(&format!("/{reference}")));
            items.push(match known {
                Some(i) => BootOption { reference, ..options.remove(i) },
                None => BootOption { source: format!("{path}#/Boot/BootOrder"), name: None, path: None, enabled: None, reference },
            });
        }
        // Options that the order leaves out come last.
        items.extend(options);
        Ok(walk.found(items))
    }

    pub(super) async fn write_boot_order(&self, order: &[String]) -> Result<(), BmcError> {
        let (path, system) = self.system().await?;
        let now = current_order(&system.body).ok_or_else(|| self.http().unsupported("a boot order (no BootOrder)"))?;
        if now == order {
            return Ok(());
        }
        if let Some(unknown) = order.iter().find(|o| !now.contains(o)) {
            return Err(self.http().refused(format!("there is no boot option {unknown:?} (it has {})", now.join(", "))));
        }
        // The order is staged where the system says that settings are (iLO 5, iDRAC 9), else written at once.
        let settings = crate::bmc::redfish::bios::settings_link(&system.body);
        let target = settings.unwrap_or_else(|| path.clone());
        let etag = if target == path { system.etag() } else { self.http().get(&target).await?.etag() };
        let reply = self.patch(&target, &json!({"Boot": {"BootOrder": order}}), etag).await?;
        if !reply.status.is_success() {
            return Err(self.http().failed(&target, &reply));
        }
        for at in [&target, &path] {
            if current_order(&self.http().get(at).await?.body).is_some_and(|shown| shown == order) {
                return Ok(());
            }
        }
        Err(BmcError::NotEffective {
            address: self.http().address().to_owned(),
            what: "the boot order".into(),
            evidence: format!("{path} still shows {}", now.join(", ")),
        })
    }
}

fn current_order(system: &Value) -> Option<Vec<String>> {
    let order = system.get("Boot")?.get("BootOrder")?.as_array()?;
    Some(order.iter().filter_map(|o| o.as_str().map(str::to_owned)).collect())
}

fn option(r: &mut Reader) -> BootOption {
    BootOption {
        reference: r.first_text(&["BootOptionReference", "Id"]).unwrap_or_default(),
        name: r.first_text(&["DisplayName", "Name"]),
        path: r.long_text("UefiDevicePath", 512),
        enabled: r.flag("BootOptionEnabled"),
        source: r.source.to_owned(),
    }
}

/// How a boot override that was read back compares with what was asked. `None`: not (yet) there.
fn judge_boot(read: &BootOverride, target: &str, mode: Option<&str>) -> Option<BootSet> {
    if read.target.as_deref() != Some(target) || (mode.is_some() && read.mode.as_deref() != mode) {
        return None;
    }
    match read.enabled.as_deref() {
        Some("Once") => Some(BootSet::Once),
        // sushy-tools 2.2 accepts Once and reads back Continuous.
        Some("Continuous") => Some(BootSet::Continuous),
        Some(_) | None => None,
    }
}
