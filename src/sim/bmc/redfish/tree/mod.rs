//! What a simulated BMC shows over Redfish: every resource made from the board when it is asked for, never kept.
//!
//! The forms are those of DMTF's schemas; `tests/it/bmc/validators.rs` runs DMTF's service validator over every model.

mod chassis;
mod legacy;
mod logs;
mod manager;
mod network;
mod root;
mod services;
mod storage;
mod system;
mod versions;

use serde_json::{Map, Value, json};

pub use self::logs::severity_word;
pub use self::root::{METADATA, metadata, odata};
pub use self::services::{MULTIPART, SIMPLE_UPDATE, monitor_path};
use crate::domain::power::{BootDevice, FirmwareKind, PowerState};
use crate::domain::time::Timestamp;
use crate::sim::bmc::board::dialect::Dialect;
use crate::sim::bmc::board::parts::BoardPart;
use crate::sim::bmc::board::{Board, Host};
use crate::sim::bmc::{BootOverride, ChassisIdentity};

pub const ROOT: &str = "/redfish/v1";

/// The `Allow` header of a resource that is only read.
pub const READ: &str = "GET, HEAD";
pub const READ_PATCH: &str = "GET, HEAD, PATCH";
pub const READ_POST: &str = "GET, HEAD, POST";
pub const READ_DELETE: &str = "GET, HEAD, DELETE";
pub const READ_PATCH_DELETE: &str = "GET, HEAD, PATCH, DELETE";

/// A resource and the methods it takes.
#[derive(Clone, Debug)]
pub struct Resource {
    pub body: Value,
    pub allow: &'static str,
}

impl Resource {
    pub fn read_only(body: Value) -> Self {
        Self { body, allow: READ }
    }
}

/// The board at a moment, and what the front has beside it.
pub struct View<'a> {
    pub board: &'a Board,
    pub identity: &'a ChassisIdentity,
    pub host: Host,
    pub now: Timestamp,
    pub boot: Option<BootOverride>,
    /// Whether there is a session service.
    pub sessions: bool,
    /// Where the front listens.
    pub port: u16,
    pub tls: bool,
}

impl View<'_> {
    fn dialect(&self) -> &Dialect {
        &self.board.dialect
    }

    fn is_modern(&self) -> bool {
        self.board.dialect.is_modern()
    }

    /// The resource at a path without a trailing slash. Accounts, sessions and subscriptions are not here: the front has them.
    pub fn find(&self, path: &str) -> Option<Resource> {
        let rest = path.strip_prefix(ROOT)?;
        let segments: Vec<&str> = rest.split('/').skip(1).collect();
        let dialect = self.dialect();
        match segments.as_slice() {
            [] => Some(Resource::read_only(self.root())),
            ["Systems"] => Some(self.collection(path, "ComputerSystem", vec![dialect.system_path()])),
            ["Systems", id, rest @ ..] if *id == dialect.system => self.system_part(path, rest),
            ["Chassis"] => Some(self.collection(path, "Chassis", vec![dialect.chassis_path()])),
            ["Chassis", id, rest @ ..] if *id == dialect.chassis => self.chassis_part(path, rest),
            ["Managers"] => Some(self.collection(path, "Manager", vec![dialect.manager_path()])),
            ["Managers", id, rest @ ..] if *id == dialect.manager => self.manager_part(path, rest),
            ["UpdateService", rest @ ..] => self.update_part(path, rest),
            ["TaskService", rest @ ..] => self.task_part(path, rest),
            ["TelemetryService", rest @ ..] if self.is_modern() => self.telemetry_part(path, rest),
            ["Registries", rest @ ..] => self.registry_part(path, rest),
            _ => None,
        }
    }

    /// A resource of a versioned schema.
    pub fn resource(&self, path: &str, schema: &str, id: &str, name: &str, fields: Value) -> Value {
        let version = versions::of(schema, self.dialect().generation);
        let mut body = json!({"@odata.id": path, "@odata.type": format!("#{schema}.{version}.{schema}"), "Id": id, "Name": name});
        put(&mut body, fields);
        body
    }

    fn collection(&self, path: &str, of: &str, members: Vec<String>) -> Resource {
        Resource::read_only(collection(path, of, members))
    }

    /// The BMC's clock.
    fn stamp(&self, at: Timestamp) -> String {
        stamp(self.board.clock(at))
    }
}

/// A time as Redfish writes it: whole seconds with a zone.
pub fn stamp(at: Timestamp) -> String {
    Timestamp(at.0 - at.0.rem_euclid(1_000_000)).to_string()
}

/// A resource collection.
pub fn collection(path: &str, of: &str, members: Vec<String>) -> Value {
    let count = members.len();
    let members: Vec<Value> = members.iter().map(|m| link(m)).collect();
    let kind = format!("{of}Collection");
    json!({"@odata.id": path, "@odata.type": format!("#{kind}.{kind}"), "Name": format!("{of} Collection"), "Members": members, "Members@odata.count": count})
}

pub fn link(path: &str) -> Value {
    json!({"@odata.id": path})
}

/// Adds the fields of an object to another one.
pub fn put(body: &mut Value, fields: Value) {
    if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
        body.extend(fields);
    }
}

/// Adds a field if there is a value for it.
pub fn put_some(body: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Some(body), Some(value)) = (body.as_object_mut(), value) {
        body.insert(name.to_owned(), value.into());
    }
}

/// Redfish `Status` of a part.
fn status(part: &BoardPart) -> Value {
    match part.health() {
        Some(health) => json!({"State": "Enabled", "Health": health}),
        None => json!({"State": "Absent"}),
    }
}

fn enabled() -> Value {
    json!({"State": "Enabled", "Health": "OK"})
}

/// Manufacturer, model, part and serial number, left out where the place is empty.
fn labels(part: &BoardPart) -> Value {
    let mut out = Map::new();
    if part.is_there() {
        for (name, text) in [
            ("Manufacturer", &part.manufacturer),
            ("Model", &part.model),
            ("PartNumber", &part.part_number),
            ("SerialNumber", &part.serial),
        ] {
            if !text.is_empty() {
                out.insert(name.into(), json!(text));
            }
        }
    }
    Value::Object(out)
}

/// Redfish `Location` of a part.
fn place(part: &BoardPart, kind: &str) -> Value {
    json!({"PartLocation": {"ServiceLabel": part.place, "LocationType": kind, "LocationOrdinalValue": ordinal(&part.place)}})
}

/// The number in a label, 0 without one.
fn ordinal(label: &str) -> u32 {
    label.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

pub fn power_word(state: PowerState) -> &'static str {
    match state {
        PowerState::On => "On",
        PowerState::Off => "Off",
        PowerState::Changing => "PoweringOn",
    }
}

pub fn mode_word(firmware: FirmwareKind) -> &'static str {
    match firmware {
        FirmwareKind::Bios => "Legacy",
        FirmwareKind::Uefi => "UEFI",
    }
}

pub fn target_word(device: BootDevice) -> &'static str {
    match device {
        BootDevice::Network => "Pxe",
        BootDevice::Disk => "Hdd",
    }
}
