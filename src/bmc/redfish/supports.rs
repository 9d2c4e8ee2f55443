//! The capability sheet: for each thing a BMC may offer, whether this one does, and what was looked at.

use serde_json::Value;

use crate::bmc::BmcError;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::bmc::redfish::{Redfish, board, quirks, view};
use crate::domain::bmc_features::{Capability, Support};

/// The resources that tell.
struct Seen {
    root: Resource,
    system: Resource,
    chassis: Vec<Resource>,
    managers: Vec<Resource>,
    update: Option<Resource>,
    events: Option<Resource>,
    logs: Vec<Resource>,
    power: Option<Resource>,
    allowed: Option<Vec<String>>,
}

impl Redfish {
    pub(super) async fn capability_sheet(&self) -> Result<Vec<Support>, BmcError> {
        let mut walk = Walk::new(self.http());
        let layout = self.layout(&mut walk).await?;
        let (path, system) = self.system().await?;
        let system = Resource { path, body: std::sync::Arc::new(system.body) };
        let root = walk.root().await?;
        let chassis = walk.get_all(&layout.chassis).await?;
        let managers = walk.get_all(&layout.managers).await?;
        let mut logs = Vec::new();
        for holder in std::iter::once(&system).chain(&managers).chain(&chassis) {
            logs.extend(walk.follow_members(&holder.body, "LogServices").await?);
        }
        let mut power = None;
        for holder in &chassis {
            if power.is_none() {
                power =
                    walk.follow(&holder.body, "Power").await?.filter(|p| p.body.pointer("/PowerControl/0/PowerConsumedWatts").is_some());
            }
        }
        let reset = view::reset_action(&system.body);
        let allowed = match reset.map(|r| (r.allowed, r.action_info)) {
            Some((None, Some(info))) => walk.get(&info).await?.and_then(|i| view::action_info_allowed(&i.body)),
            Some((allowed, _)) => allowed,
            None => None,
        };
        let update = walk.follow(&root.body, "UpdateService").await?;
        let events = walk.follow(&root.body, "EventService").await?;
        let seen = Seen { root, system, chassis, managers, update, events, logs, power, allowed };
        Ok(Capability::ALL.into_iter().map(|c| seen.judge(c)).collect())
    }
}

impl Seen {
    fn judge(&self, capability: Capability) -> Support {
        let (offered, evidence) = match capability {
            Capability::Power => self.reset(),
            Capability::PowerCycle => self.reset_type(&["PowerCycle", "ForceOff"], "cycling"),
            Capability::SoftOff => self.reset_type(&["GracefulShutdown", "PushPowerButton"], "a soft power-off"),
            Capability::BootOnce => match view::boot_override(&self.system.body).filter(|b| b.target.is_some() || b.targets.is_some()) {
                Some(boot) => yes(&self.system.path, format!("Boot.BootSourceOverrideTarget ({})", listed(boot.targets.as_deref()))),
                None => no(&self.system.path, "Boot.BootSourceOverrideTarget"),
            },
            Capability::BootOrder => self.has(&self.system, &["/Boot/BootOrder"]),
            Capability::BootProgress => match quirks::boot_progress(&self.system.body) {
                Some(word) if self.system.body.get("BootProgress").is_none() => {
                    yes(&self.system.path, format!("the vendor's own word ({word})"))
                }
                Some(_) | None => self.has(&self.system, &["/BootProgress"]),
            },
            Capability::Sensors => {
                self.any(&self.chassis, &["/Sensors", "/Thermal", "/Power", "/ThermalSubsystem", "/PowerSubsystem"], "chassis")
            }
            Capability::Parts => {
                self.any(std::slice::from_ref(&self.system), &["/Memory", "/Processors", "/Storage", "/SimpleStorage"], "system")
            }
            Capability::Logs => match self.logs.as_slice() {
                [] => (false, "no LogServices below its systems, managers or chassis".to_owned()),
                logs => (true, format!("{} log services, the first {}", logs.len(), logs[0].path)),
            },
            Capability::ClearLog => self.any(&self.logs, &["/Actions/#LogService.ClearLog/target"], "log service"),
            Capability::Events => self.optional(self.events.as_ref(), "EventService", &["/ServerSentEventUri", "/Subscriptions"]),
            Capability::FirmwareInventory => self.optional(self.update.as_ref(), "UpdateService", &["/FirmwareInventory"]),
            Capability::FirmwareUpdate => self.optional(
                self.update.as_ref(),
                "UpdateService",
                &["/MultipartHttpPushUri", "/Actions/#UpdateService.SimpleUpdate/target", "/HttpPushUri"],
            ),
            Capability::BiosSettings => self.has(&self.system, &["/Bios"]),
            Capability::Accounts => self.has(&self.root, &["/AccountService"]),
            Capability::VirtualMedia => {
                let holders: Vec<Resource> = std::iter::once(&self.system).chain(&self.managers).cloned().collect();
                self.any(&holders, &["/VirtualMedia"], "system and manager")
            }
            Capability::LocatorLed => {
                let holder = std::iter::once(&self.system).chain(&self.chassis).find(|h| board::led(&h.body).is_some());
                match holder {
                    Some(holder) => yes(&holder.path, "LocationIndicatorActive or IndicatorLED".to_owned()),
                    None => (false, "neither its system nor a chassis has LocationIndicatorActive or IndicatorLED".to_owned()),
                }
            }
            Capability::BmcReset => self.any(&self.managers, &["/Actions/#Manager.Reset/target"], "manager"),
            Capability::SerialConsole => self.serial_console(),
            Capability::Fru => match self.chassis.iter().find(|c| view::text(&c.body, "SerialNumber").is_some()) {
                Some(chassis) => yes(&chassis.path, "SerialNumber".to_owned()),
                None => self.any(&self.chassis, &["/Assembly", "/PartNumber"], "chassis"),
            },
            Capability::PowerReading => match &self.power {
                Some(power) => yes(&power.path, "PowerControl.PowerConsumedWatts".to_owned()),
                None => self.any(&self.chassis, &["/EnvironmentMetrics", "/Sensors"], "chassis"),
            },
            Capability::BmcNetwork => self.any(&self.managers, &["/EthernetInterfaces"], "manager"),
        };
        Support { capability, offered, evidence }
    }

    fn reset(&self) -> (bool, String) {
        match view::reset_action(&self.system.body) {
            Some(_) => yes(&self.system.path, format!("ComputerSystem.Reset ({})", listed(self.allowed.as_deref()))),
            None => no(&self.system.path, "the action ComputerSystem.Reset"),
        }
    }

    fn reset_type(&self, wanted: &[&str], what: &str) -> (bool, String) {
        let (offered, evidence) = self.reset();
        match &self.allowed {
            _ if !offered => (false, evidence),
            None => (true, format!("{} lists no reset types; {} is in every version of the schema", self.system.path, wanted[0])),
            Some(allowed) => match wanted.iter().find(|w| allowed.iter().any(|a| a == *w)) {
                Some(word) => yes(&self.system.path, format!("the reset type {word}")),
                None => (false, format!("{} allows {} and nothing for {what}", self.system.path, allowed.join(", "))),
            },
        }
    }

    fn serial_console(&self) -> (bool, String) {
        let on = |r: &Resource, pointer: &str| r.body.pointer(pointer) == Some(&Value::Bool(true));
        let system =
            ["IPMI", "SSH", "Telnet", "WebSocket"].iter().find(|p| on(&self.system, &format!("/SerialConsole/{p}/ServiceEnabled")));
        if let Some(protocol) = system {
            return yes(&self.system.path, format!("SerialConsole over {protocol}"));
        }
        match self.managers.iter().find(|m| on(m, "/SerialConsole/ServiceEnabled")) {
            Some(manager) => {
                let types = manager.body.pointer("/SerialConsole/ConnectTypesSupported").and_then(Value::as_array);
                let words: Vec<String> = types.into_iter().flatten().filter_map(|t| t.as_str().map(str::to_owned)).collect();
                yes(&manager.path, format!("SerialConsole ({})", words.join(", ")))
            }
            None => (false, "no SerialConsole of system or manager is enabled".to_owned()),
        }
    }

    fn has(&self, resource: &Resource, pointers: &[&str]) -> (bool, String) {
        match pointers.iter().find(|p| is_there(&resource.body, p)) {
            Some(pointer) => yes(&resource.path, name_of(pointer)),
            None => no(&resource.path, &pointers.iter().map(|p| name_of(p)).collect::<Vec<_>>().join(" or ")),
        }
    }

    fn any(&self, resources: &[Resource], pointers: &[&str], what: &str) -> (bool, String) {
        let found = resources.iter().find_map(|r| pointers.iter().find(|p| is_there(&r.body, p)).map(|p| (r, p)));
        match found {
            Some((resource, pointer)) => yes(&resource.path, name_of(pointer)),
            None => {
                let names = pointers.iter().map(|p| name_of(p)).collect::<Vec<_>>().join(", ");
                (false, format!("no {what} has {names}"))
            }
        }
    }

    fn optional(&self, service: Option<&Resource>, name: &str, pointers: &[&str]) -> (bool, String) {
        match service {
            Some(service) if service.body.get("ServiceEnabled") == Some(&Value::Bool(false)) => {
                (false, format!("{} is switched off (ServiceEnabled false)", service.path))
            }
            Some(service) => self.has(service, pointers),
            None if self.root.body.get(name).is_some() => (false, format!("{} links {name}, which cannot be read", self.root.path)),
            None => no(&self.root.path, name),
        }
    }
}

fn is_there(body: &Value, pointer: &str) -> bool {
    body.pointer(pointer).is_some_and(|v| !v.is_null())
}

fn name_of(pointer: &str) -> String {
    pointer.trim_start_matches('/').trim_end_matches("/target").trim_start_matches("Actions/#").replace('/', ".")
}

fn listed(words: Option<&[String]>) -> String {
    words.map_or_else(|| "no values listed".to_owned(), |w| w.iter().filter_map(|w| view::clean(w)).collect::<Vec<_>>().join(", "))
}

fn yes(path: &str, what: String) -> (bool, String) {
    (true, format!("{path} has {what}"))
}

fn no(path: &str, what: &str) -> (bool, String) {
    (false, format!("{path} has no {what}"))
}
