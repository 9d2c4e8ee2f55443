//! Redfish, JSON first: follows links, never builds paths (only `/redfish/v1/` is known), reads what it needs leniently.
//!
//! `http` carries requests, `walk` follows links within one call, `read` takes fields out of a resource; each of the other
//! modules answers some of [`Bmc`]'s questions. What single vendors do differently is data in `quirks`.
//!
//! The `redfish` crate was tried first; `docs/adr/0004-redfish-client.md` says what it does for us and why the transport
//! is our own.

mod accounts;
mod bios;
mod board;
mod boot;
mod firmware;
mod http;
mod layout;
mod log_cursor;
mod login;
mod logs;
mod media;
mod parts;
mod pin;
mod power;
mod quirks;
mod read;
mod sensors;
mod supports;
mod view;
mod walk;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::bmc::limit::Pace;
use crate::bmc::redfish::http::{Http, Reply};
use crate::bmc::redfish::layout::{Layout, machine_of};
use crate::bmc::redfish::sensors::Route;
use crate::bmc::redfish::walk::{Member, Walk};
use crate::bmc::{Bmc, BmcAccess, BmcError, BootSet, Scope, Timing};
use crate::domain::bmc::{BmcIdentity, BmcProtocol};
use crate::domain::bmc_features::{
    Account, BiosAttribute, BmcNetwork, BootOption, BootProgress, FirmwareItem, FirmwareSource, Found, LedState, MediaSlot, Support,
    TaskSeen, TaskState, UpdateBegun,
};
use crate::domain::hardware_log::{LogCursor, LogNews};
use crate::domain::id::Sha256;
use crate::domain::part::Part;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState, ResetType};
use crate::domain::secret::Secret;
use crate::domain::sensor::Sensor;

/// Systems behind one address that are looked at to find the one machine among them.
const SYSTEMS_LOOKED_AT: usize = 16;

/// One Redfish service, its connections and its session; several machines may be behind it.
pub struct Service {
    http: Http,
    /// What was found about each system, by its path.
    known: Mutex<HashMap<String, Known>>,
}

/// What need not be looked for again on this connection.
#[derive(Clone, Default)]
struct Known {
    layout: Option<Arc<Layout>>,
    route: Option<Arc<Route>>,
}

impl Service {
    pub fn new(access: &BmcAccess, timing: Timing, pace: Arc<Pace>) -> Result<Self, BmcError> {
        Ok(Self { http: Http::new(access, timing, pace)?, known: Mutex::default() })
    }

    /// The key its connections are held to.
    pub fn pin(&self) -> Option<Sha256> {
        self.http.pin()
    }

    /// Whether it accepted our login.
    pub fn is_logged_in(&self) -> bool {
        self.http.is_logged_in()
    }

    /// Ends the session.
    pub async fn close(&self) {
        self.http.close().await;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One machine behind one Redfish service.
pub struct Redfish {
    service: Arc<Service>,
    /// The system's path as given with the address; else the only member of `Systems` is meant.
    path: Option<String>,
    timing: Timing,
    scope: Scope,
}

impl Redfish {
    pub fn new(service: Arc<Service>, path: Option<String>, timing: Timing, scope: Scope) -> Self {
        Self { service, path, timing, scope }
    }

    /// Whether all that the service lists is meant.
    fn is_everything(&self) -> bool {
        self.scope == Scope::Everything && self.path.is_none()
    }

    fn http(&self) -> &Http {
        &self.service.http
    }

    fn kept_layout(&self, system: &str) -> Option<Arc<Layout>> {
        self.service.known().get(system)?.layout.clone()
    }

    fn keep_layout(&self, layout: Arc<Layout>) {
        let system = layout.system.clone();
        self.service.known().entry(system).or_default().layout = Some(layout);
    }

    fn sensor_route(&self, system: &str) -> Option<Arc<Route>> {
        self.service.known().get(system)?.route.clone()
    }

    fn keep_sensor_route(&self, system: &str, route: Route) {
        self.service.known().entry(system.to_owned()).or_default().route = Some(Arc::new(route));
    }

    async fn system_path(&self) -> Result<String, BmcError> {
        if let Some(path) = self.path.clone().or_else(|| self.http().only_system()) {
            return Ok(path);
        }
        let mut walk = Walk::new(self.http());
        let root = walk.root().await?;
        let systems = layout::link(&root.body, "Systems").ok_or_else(|| self.http().unsupported("a list of systems"))?;
        let members = self.links_of(&mut walk, &systems).await?;
        let one = match members.as_slice() {
            [one] => one.clone(),
            [] => match walk.unread.first() {
                Some(why) => {
                    return Err(self.http().nonsense(format!("a list of systems that cannot be read: {} ({})", why.what, why.source)));
                }
                None => return Err(self.http().unsupported("any system behind this address")),
            },
            several => self.machine_among(&mut walk, several).await?,
        };
        self.http().set_only_system(Some(one.clone()));
        Ok(one)
    }

    /// The links of all members of a collection.
    async fn links_of(&self, walk: &mut Walk<'_>, collection: &str) -> Result<Vec<String>, BmcError> {
        let (mut out, mut pages, mut next) = (Vec::<String>::new(), Vec::<String>::new(), Some(collection.to_owned()));
        while let Some(at) = next.take() {
            if pages.len() >= walk::PAGE_CAP || pages.contains(&at) {
                break;
            }
            let Some(page) = walk.page(&at).await? else { break };
            for member in page.members {
                let link = match member {
                    Member::Inlined(resource) => resource.path,
                    Member::Link(link) => link,
                };
                if out.len() < walk::MEMBER_CAP && !out.contains(&link) {
                    out.push(link);
                }
            }
            pages.push(at);
            next = page.next;
        }
        Ok(out)
    }

    /// The one system that can be booted and reset, where others (accelerator trays, DPUs, hypervisors) are listed beside it.
    async fn machine_among(&self, walk: &mut Walk<'_>, members: &[String]) -> Result<String, BmcError> {
        if members.len() <= SYSTEMS_LOOKED_AT {
            let systems = walk.get_all(members).await?;
            if let Some(machine) = machine_of(&systems) {
                return Ok(machine.path.clone());
            }
            if self.is_everything()
                && let Some(first) = layout::most_like_a_machine(&systems)
            {
                return Ok(first.path.clone());
            }
        }
        let first = members.first().map(String::as_str).unwrap_or_default();
        let shown = members.iter().take(4).map(|m| view::clean(m).unwrap_or_default()).collect::<Vec<_>>().join(", ");
        let more = if members.len() > 4 { ", .." } else { "" };
        Err(self.http().refused(format!(
            "it serves {} systems ({shown}{more}) and the address does not say which; write the address with the path of one, for example https://HOST{first}",
            members.len(),
        )))
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

    async fn read_identity(&self) -> Result<BmcIdentity, BmcError> {
        let (path, system) = self.system().await?;
        let s = &system.body;
        let manager = match view::link_of_first(s, &["Links", "ManagedBy"]) {
            Some(path) => Some(path.to_owned()),
            None => {
                let mut walk = Walk::new(self.http());
                let root = self.http().root().await?;
                let managers = walk.follow_members(&root, "Managers").await;
                managers.ok().and_then(|m| m.into_iter().next()).map(|m| m.path)
            }
        };
        // Its version is nice to have: a manager that cannot be read does not cost us the machine's identity.
        let bmc_firmware = match manager {
            Some(path) => self.http().get(&path).await.ok().and_then(|m| view::text(&m.body, "FirmwareVersion")),
            None => None,
        };
        Ok(BmcIdentity {
            protocol: Some(BmcProtocol::Redfish),
            source: view::clean_to(&path, 1024),
            manufacturer: view::text(s, "Manufacturer"),
            model: view::text(s, "Model"),
            serial: view::serial(s),
            uuid: view::text(s, "UUID"),
            asset_tag: view::text(s, "AssetTag"),
            bmc_firmware,
            bios_version: view::text(s, "BiosVersion"),
        })
    }
}

impl Bmc for Redfish {
    fn lacks(&self, what: &str) -> BmcError {
        self.http().unsupported(what)
    }

    async fn identity(&self) -> Result<BmcIdentity, BmcError> {
        self.read_identity().await
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        self.read_power().await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        self.change_power(action).await
    }

    async fn set_boot_once(&self, device: BootDevice, firmware: FirmwareKind) -> Result<BootSet, BmcError> {
        self.boot_once(device, firmware).await
    }

    async fn power_reset(&self, reset: ResetType) -> Result<(), BmcError> {
        self.reset_by_type(reset).await
    }

    async fn supports(&self) -> Result<Vec<Support>, BmcError> {
        self.capability_sheet().await
    }

    async fn boot_progress(&self) -> Result<Option<BootProgress>, BmcError> {
        self.read_boot_progress().await
    }

    async fn boot_order(&self) -> Result<Found<BootOption>, BmcError> {
        self.read_boot_order().await
    }

    async fn set_boot_order(&self, order: &[String]) -> Result<(), BmcError> {
        self.write_boot_order(order).await
    }

    async fn sensors(&self) -> Result<Found<Sensor>, BmcError> {
        self.read_sensors().await
    }

    async fn parts(&self) -> Result<Found<Part>, BmcError> {
        self.read_parts().await
    }

    async fn logs(&self) -> Result<Vec<String>, BmcError> {
        self.find_logs().await
    }

    async fn log_news(&self, log: &str, cursor: &LogCursor) -> Result<LogNews, BmcError> {
        self.read_log(log, cursor).await
    }

    async fn clear_log(&self, log: &str, read_to: &LogCursor) -> Result<(), BmcError> {
        self.clear(log, read_to).await
    }

    async fn firmware(&self) -> Result<Found<FirmwareItem>, BmcError> {
        self.read_firmware().await
    }

    async fn start_firmware_update(&self, source: &FirmwareSource, targets: &[String]) -> Result<UpdateBegun, BmcError> {
        self.start_update(source, targets).await
    }

    async fn task(&self, task: &str) -> Result<TaskState, BmcError> {
        self.read_task(task).await
    }

    async fn tasks(&self) -> Result<Found<TaskSeen>, BmcError> {
        self.read_tasks().await
    }

    async fn bios(&self) -> Result<Found<BiosAttribute>, BmcError> {
        self.read_bios().await
    }

    async fn set_bios(&self, settings: &[(String, String)]) -> Result<(), BmcError> {
        self.stage_bios(settings).await
    }

    async fn accounts(&self) -> Result<Found<Account>, BmcError> {
        self.read_accounts().await
    }

    async fn set_account_password(&self, account: &str, password: &Secret<String>) -> Result<(), BmcError> {
        self.set_password(account, password).await
    }

    async fn put_account(&self, name: &str, password: &Secret<String>, enabled: bool) -> Result<Account, BmcError> {
        self.make_account(name, password, enabled).await
    }

    async fn delete_account(&self, account: &str) -> Result<(), BmcError> {
        self.remove_account(account).await
    }

    async fn media(&self) -> Result<Found<MediaSlot>, BmcError> {
        self.read_media().await
    }

    async fn insert_media(&self, slot: &str, url: &str) -> Result<(), BmcError> {
        self.insert(slot, url).await
    }

    async fn eject_media(&self, slot: &str) -> Result<(), BmcError> {
        self.eject(slot).await
    }

    async fn locator_led(&self) -> Result<LedState, BmcError> {
        self.read_led().await
    }

    async fn set_locator_led(&self, state: LedState, _off_after: Option<Duration>) -> Result<(), BmcError> {
        self.write_led(state).await
    }

    async fn reset_bmc(&self) -> Result<(), BmcError> {
        self.restart_bmc().await
    }

    async fn network(&self) -> Result<Found<BmcNetwork>, BmcError> {
        self.read_network().await
    }

    async fn clock_offset(&self) -> Result<Option<i64>, BmcError> {
        self.read_clock().await
    }

    async fn read_raw(&self, what: &str) -> Result<String, BmcError> {
        if !(what.starts_with("/redfish/v1") || what == "/redfish") || what.contains("..") {
            return Err(self.http().refused("only paths below /redfish/v1 are read"));
        }
        let reply = self.http().get(what).await?;
        serde_json::to_string_pretty(&reply.body).map_err(|e| self.http().nonsense(e.to_string()))
    }
}
