//! Redfish, JSON first: follows links, never builds paths (only `/redfish/v1/` is known), reads what it needs leniently.
//!
//! The `redfish` crate was tried first; `docs/adr/0004-redfish-client.md` says what it does for us and why the transport
//! is our own.

mod http;
mod pin;
mod view;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bmc::limit::Pace;
use crate::bmc::redfish::http::{Http, Reply};
use crate::bmc::redfish::view::{BootOverride, ResetPlan};
use crate::bmc::{Bmc, BmcAccess, BmcError, BootSet, Timing};
use crate::domain::bmc::{BmcIdentity, BmcProtocol};
use crate::domain::id::Sha256;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};

/// Pages of one collection that are read; a link seen before ends the reading earlier (the DMTF mockup loops for ever).
const PAGE_CAP: usize = 200;
/// Members of one collection that are read.
const MEMBER_CAP: usize = 10_000;
/// Pauses between two readings of a boot override that does not show yet. Sum: 3.5 s.
const BOOT_READ_PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// One Redfish service, its connections and its session; several machines may be behind it.
pub struct Service(Http);

impl Service {
    pub fn new(access: &BmcAccess, timing: Timing, pace: Arc<Pace>) -> Result<Self, BmcError> {
        Ok(Self(Http::new(access, timing, pace)?))
    }

    /// The key its connections are held to.
    pub fn pin(&self) -> Option<Sha256> {
        self.0.pin()
    }

    /// Whether it accepted our login.
    pub fn is_logged_in(&self) -> bool {
        self.0.is_logged_in()
    }

    /// Ends the session.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

/// One machine behind one Redfish service.
pub struct Redfish {
    service: Arc<Service>,
    /// The system's path as given with the address; else the only member of `Systems` is meant.
    path: Option<String>,
    timing: Timing,
}

impl Redfish {
    pub fn new(service: Arc<Service>, path: Option<String>, timing: Timing) -> Self {
        Self { service, path, timing }
    }

    fn http(&self) -> &Http {
        &self.service.0
    }

    async fn system_path(&self) -> Result<String, BmcError> {
        if let Some(path) = self.path.clone().or_else(|| self.http().only_system()) {
            return Ok(path);
        }
        let root = self.http().root().await?;
        let systems = view::link(&root, &["Systems"]).ok_or_else(|| self.http().unsupported("a list of systems"))?;
        let members = self.members(systems).await?;
        match members.as_slice() {
            [one] => {
                self.http().set_only_system(Some(one.clone()));
                Ok(one.clone())
            }
            [] => Err(self.http().unsupported("any system behind this address")),
            [first, ..] => {
                let shown = members.iter().take(4).map(|m| view::clean(m).unwrap_or_default()).collect::<Vec<_>>().join(", ");
                let more = if members.len() > 4 { ", .." } else { "" };
                Err(self.http().refused(format!(
                    "it serves {} systems ({shown}{more}) and the address does not say which; write the address with the path of one, for example https://HOST{first}",
                    members.len(),
                )))
            }
        }
    }

    /// All members of a collection, page by page (DSP0266, section 7.6: `Members@odata.nextLink`).
    async fn members(&self, path: &str) -> Result<Vec<String>, BmcError> {
        let mut seen = HashSet::new();
        let mut members = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(page) = next.take() {
            if seen.len() >= PAGE_CAP || !seen.insert(page.clone()) {
                break;
            }
            let body = self.http().get(&page).await?.body;
            for link in view::links(&body, "Members") {
                if members.len() < MEMBER_CAP && !members.iter().any(|m| m == link) {
                    members.push(link.to_owned());
                }
            }
            next = body.get("Members@odata.nextLink").and_then(Value::as_str).map(str::to_owned);
        }
        Ok(members)
    }

    async fn system(&self) -> Result<(String, Reply), BmcError> {
        let path = self.system_path().await?;
        // Its id may have changed with a firmware update: look again next time.
        let reply = self.http().get(&path).await.inspect_err(|_| self.http().set_only_system(None))?;
        if !reply.body.is_object() {
            return Err(self.http().nonsense("a system that is not an object"));
        }
        Ok((path, reply))
    }

    async fn read_power(&self) -> Result<PowerState, BmcError> {
        let (_, system) = self.system().await?;
        view::power_state(&system.body).map_err(|what| self.http().nonsense(what))
    }

    /// Reads the power state until `enough` says so or `within` is over; the last state otherwise.
    async fn wait_power(&self, within: Duration, enough: impl Fn(PowerState) -> bool) -> Result<(PowerState, bool), BmcError> {
        let end = Instant::now() + within;
        loop {
            let state = self.read_power().await?;
            if enough(state) {
                return Ok((state, true));
            }
            if Instant::now() >= end {
                return Ok((state, false));
            }
            tokio::time::sleep(self.timing.poll).await;
        }
    }

    /// Sends one `ResetType` and, for on and off, sees it happen.
    async fn reset(&self, target: &str, reset_type: &str, wanted: Option<PowerState>) -> Result<(), BmcError> {
        let reply = self.http().send(Method::POST, target, &json!({"ResetType": reset_type}), None).await?;
        let accepted = reply.status.is_success();
        if !accepted {
            // Some BMCs answer 400 or 409 to "on" when on, or while they are at it: what counts is the machine.
            let already = matches!(reply.status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT)
                && match wanted {
                    Some(wanted) => self.read_power().await? == wanted,
                    None => false,
                };
            return if already { Ok(()) } else { Err(self.http().failed(target, &reply)) };
        }
        let Some(wanted) = wanted else { return Ok(()) };
        let (state, reached) = self.wait_power(self.timing.settle, |s| s == wanted || s == PowerState::Changing).await?;
        if reached {
            return Ok(());
        }
        Err(BmcError::NotEffective {
            address: self.http().address().to_owned(),
            what: format!("ResetType {reset_type}"),
            evidence: format!("{} s later the power is still {state}", self.timing.settle.as_secs()),
        })
    }

    /// PATCH with the ETag rules BMCs really have: If-Match when an ETag was offered; after 412 once more with a fresh
    /// one (or a weak one written strong), then without; after 428 with `*`.
    async fn patch(&self, path: &str, body: &Value, etag: Option<String>) -> Result<Reply, BmcError> {
        let first = self.http().send(Method::PATCH, path, body, etag.as_deref()).await?;
        match first.status {
            StatusCode::PRECONDITION_FAILED => {
                let fresh = self.http().get(path).await?.etag();
                let strong = fresh.map(|e| e.strip_prefix("W/").map(str::to_owned).unwrap_or(e));
                let second = self.http().send(Method::PATCH, path, body, strong.as_deref()).await?;
                if second.status != StatusCode::PRECONDITION_FAILED {
                    return Ok(second);
                }
                self.http().send(Method::PATCH, path, body, None).await
            }
            StatusCode::PRECONDITION_REQUIRED => self.http().send(Method::PATCH, path, body, Some("*")).await,
            _ => Ok(first),
        }
    }

    async fn patch_boot(&self, path: &str, etag: Option<String>, target: &str, mode: Option<&str>) -> Result<(), BmcError> {
        let mut boot = json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target});
        if let (Some(mode), Some(fields)) = (mode, boot.as_object_mut()) {
            fields.insert("BootSourceOverrideMode".into(), mode.into());
        }
        let reply = self.patch(path, &json!({"Boot": boot}), etag).await?;
        if reply.status.is_success() { Ok(()) } else { Err(self.http().failed(path, &reply)) }
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

impl Bmc for Redfish {
    fn lacks(&self, what: &str) -> BmcError {
        self.http().unsupported(what)
    }

    async fn identity(&self) -> Result<BmcIdentity, BmcError> {
        let (_, system) = self.system().await?;
        let s = &system.body;
        let manager = match view::link_of_first(s, &["Links", "ManagedBy"]) {
            Some(path) => Some(path.to_owned()),
            None => match view::link(&*self.http().root().await?, &["Managers"]) {
                Some(managers) => self.members(managers).await.ok().and_then(|m| m.into_iter().next()),
                None => None,
            },
        };
        // Its version is nice to have: a manager that cannot be read does not cost us the machine's identity.
        let bmc_firmware = match manager {
            Some(path) => self.http().get(&path).await.ok().and_then(|m| view::text(&m.body, "FirmwareVersion")),
            None => None,
        };
        Ok(BmcIdentity {
            protocol: Some(BmcProtocol::Redfish),
            manufacturer: view::text(s, "Manufacturer"),
            model: view::text(s, "Model"),
            serial: view::serial(s),
            uuid: view::text(s, "UUID"),
            asset_tag: view::text(s, "AssetTag"),
            bmc_firmware,
            bios_version: view::text(s, "BiosVersion"),
        })
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        self.read_power().await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let (_, system) = self.system().await?;
        let mut state = view::power_state(&system.body).map_err(|what| self.http().nonsense(what))?;
        if state == PowerState::Changing {
            let (settled, reached) = self.wait_power(self.timing.settle, |s| s != PowerState::Changing).await?;
            if !reached {
                return Err(self.http().busy("its power state is changing for longer than expected"));
            }
            state = settled;
        }
        let action = match (action, state) {
            (PowerAction::On, PowerState::On) | (PowerAction::Off | PowerAction::Soft, PowerState::Off) => return Ok(()),
            // A cycle of a machine that is off ends with it on.
            (PowerAction::Cycle, PowerState::Off) => PowerAction::On,
            (PowerAction::Reset, PowerState::Off) => {
                return Err(self.http().refused("the machine is off and cannot be reset; power it on instead"));
            }
            (other, _) => other,
        };
        let reset = view::reset_action(&system.body).ok_or_else(|| self.http().unsupported("power control (no ComputerSystem.Reset)"))?;
        let allowed = match (reset.allowed, reset.action_info) {
            (None, Some(info)) => view::action_info_allowed(&self.http().get(&info).await?.body),
            (allowed, _) => allowed,
        };
        let plan = view::plan(action, allowed.as_deref()).ok_or_else(|| {
            self.http().unsupported(format!("a way to do power {action} (it allows {})", allowed.unwrap_or_default().join(", ")))
        })?;
        let target = reset.target;
        match (plan, action) {
            (ResetPlan::One(kind), PowerAction::On) => self.reset(&target, kind, Some(PowerState::On)).await,
            (ResetPlan::One(kind), PowerAction::Off) => self.reset(&target, kind, Some(PowerState::Off)).await,
            // These end in the state they began in, or in the system's own time: the machine's signs of life are the evidence.
            (ResetPlan::One(kind), PowerAction::Soft | PowerAction::Cycle | PowerAction::Reset) => self.reset(&target, kind, None).await,
            (ResetPlan::OffThenOn(off, on), _) => {
                self.reset(&target, off, Some(PowerState::Off)).await?;
                let (state, is_off) = self.wait_power(self.timing.settle, |s| s == PowerState::Off).await?;
                if !is_off {
                    return Err(BmcError::NotEffective {
                        address: self.http().address().to_owned(),
                        what: format!("ResetType {off}"),
                        evidence: format!("{} s later the power is still {state}", self.timing.settle.as_secs()),
                    });
                }
                self.reset(&target, on, Some(PowerState::On)).await
            }
        }
    }

    async fn set_boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> Result<BootSet, BmcError> {
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
}
