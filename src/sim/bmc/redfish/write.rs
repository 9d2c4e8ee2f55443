//! Writes: which resource takes which method, and what a PATCH changes.

use std::sync::{Arc, PoisonError};

use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, Value};

use crate::clock;
use crate::domain::power::{BootDevice, FirmwareKind};
use crate::domain::time::Timestamp;
use crate::sim::bmc::BootOverride;
use crate::sim::bmc::board::settings::ATTRIBUTES;
use crate::sim::bmc::redfish::Inner;
use crate::sim::bmc::redfish::accounts::ACCOUNTS;
use crate::sim::bmc::redfish::answer::Request;
use crate::sim::bmc::redfish::events::SUBSCRIPTIONS;
use crate::sim::bmc::redfish::reply::{self, Message, complain, complaints, no_content, not_found};
use crate::sim::bmc::redfish::sessions::SESSIONS;

const TARGETS: [(&str, BootDevice); 2] = [("Pxe", BootDevice::Network), ("Hdd", BootDevice::Disk)];
/// `ManagerNetworkProtocol.NTP.NTPServers` holds this many.
const NTP_CAP: usize = 4;

/// The fields of a PATCH that nobody took yet, and what was wrong with those that were.
pub struct Patch {
    prefix: String,
    fields: Map<String, Value>,
    wrong: Vec<Message>,
}

impl Patch {
    pub fn new(body: Value) -> Self {
        Self::inside(body, String::new())
    }

    fn inside(body: Value, prefix: String) -> Self {
        let fields = match body {
            Value::Object(fields) => fields,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
        };
        Self { prefix, fields, wrong: Vec::new() }
    }

    fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    pub fn value(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field)
    }

    pub fn text(&mut self, field: &str) -> Option<String> {
        match self.fields.remove(field)? {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong.push(Message::wrong_type(&self.name(field)));
                None
            }
        }
    }

    pub fn switch(&mut self, field: &str) -> Option<bool> {
        match self.fields.remove(field)? {
            Value::Bool(on) => Some(on),
            Value::Null | Value::String(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong.push(Message::wrong_type(&self.name(field)));
                None
            }
        }
    }

    fn object(&mut self, field: &str) -> Option<Self> {
        match self.fields.remove(field)? {
            body @ Value::Object(_) => Some(Self::inside(body, format!("{}{field}/", self.prefix))),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Number(_) | Value::Array(_) => {
                self.wrong.push(Message::wrong_type(&self.name(field)));
                None
            }
        }
    }

    /// Everything that is wrong: wrong values, and fields that nobody took.
    pub fn rest(&mut self) -> Vec<Message> {
        let left: Vec<Message> = self.fields.keys().filter(|f| !f.contains('@')).map(|f| Message::unknown(&self.name(f))).collect();
        self.fields.clear();
        let mut wrong = std::mem::take(&mut self.wrong);
        wrong.extend(left);
        wrong
    }
}

impl Inner {
    pub async fn write(self: &Arc<Self>, request: Request<'_>) -> Response {
        if request.method == Method::POST {
            return self.post(request).await;
        }
        if request.method == Method::DELETE {
            return self.delete(&request);
        }
        if request.method == Method::PATCH { self.patch(&request) } else { self.refuse_method(request.path) }
    }

    fn delete(&self, request: &Request<'_>) -> Response {
        let path = request.path;
        let below = |collection: &str| path.strip_prefix(collection).and_then(|rest| rest.strip_prefix('/'));
        if let Some(id) = below(SESSIONS).filter(|_| self.has_sessions()) {
            let mut sessions = self.sessions();
            let Some(id) = sessions.find(id).map(|s| s.id) else { return not_found(path) };
            sessions.close(id);
            return no_content();
        }
        if let Some(id) = below(ACCOUNTS) {
            return self.delete_account(id, request.actor.account.id);
        }
        if let Some(id) = below(SUBSCRIPTIONS) {
            return if self.subscriptions().remove(id) { no_content() } else { not_found(path) };
        }
        if let Some(id) = below("/redfish/v1/TaskService/Tasks") {
            let mut board = self.shared.board();
            let before = board.updates.len();
            board.updates.retain(|u| u.id.to_string() != id || !u.stage.is_over());
            let gone = board.updates.len() < before;
            drop(board);
            return if gone { no_content() } else { self.refuse_method(path) };
        }
        self.refuse_method(path)
    }

    fn patch(&self, request: &Request<'_>) -> Response {
        let path = request.path;
        // Between the check of an ETag and the change nobody else may change it.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(resource) = self.with_view(|view| self.find(view, path)) else { return not_found(path) };
        if !resource.allow.contains("PATCH") {
            return reply::not_allowed(resource.allow);
        }
        if let Some(refusal) = self.precondition(request.headers, &reply::etag(&resource.body)) {
            return refusal;
        }
        let body = match request.json() {
            Ok(body) => body,
            Err(refusal) => return *refusal,
        };
        let only_annotations = body.as_object().is_some_and(|b| b.keys().all(|k| k.contains('@')));
        if only_annotations {
            let text = "The request body submitted contains no data to act upon and no changes to the resource took place.";
            return complain(StatusCode::BAD_REQUEST, "NoOperation", text);
        }
        let mut patch = Patch::new(body);
        if let Some(id) = path.strip_prefix(ACCOUNTS).and_then(|rest| rest.strip_prefix('/')) {
            return self.patch_account(id, patch);
        }
        let dialect = self.shared.board().dialect;
        let done = match path {
            _ if path == dialect.system_path() => self.patch_system(&mut patch),
            _ if path == dialect.chassis_path() => self.patch_common(&mut patch),
            _ if path == dialect.manager_path() => self.patch_manager(&mut patch),
            _ if path == format!("{}/Bios/Settings", dialect.system_path()) => self.patch_bios(&mut patch),
            _ if path == format!("{}/NetworkProtocol", dialect.manager_path()) => self.patch_protocols(&mut patch),
            "/redfish/v1/SessionService" => self.patch_session_service(&mut patch),
            _ => Ok(()),
        };
        match done.and_then(|()| none(patch.rest())) {
            Ok(()) => self.read(path, "", &HeaderMap::new()),
            Err(wrong) => {
                // What is there and was not taken is read-only, not unknown.
                let known = |m: &Message| m.id == "PropertyUnknown" && m.args.first().is_some_and(|a| resource.body.get(a).is_some());
                let wrong: Vec<Message> = wrong
                    .into_iter()
                    .map(|m| if known(&m) { Message::not_writable(m.args.first().map_or("", String::as_str)) } else { m })
                    .collect();
                complaints(StatusCode::BAD_REQUEST, &wrong)
            }
        }
    }

    fn precondition(&self, headers: &HeaderMap, etag: &str) -> Option<Response> {
        match headers.get(header::IF_MATCH).and_then(|v| v.to_str().ok()) {
            Some(wanted) if !reply::names_etag(wanted, etag) => {
                let text = "The ETag supplied did not match the ETag required to change this resource.";
                Some(complain(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", text))
            }
            None if self.shared.faults().demands_etag => {
                let text = "A precondition header or annotation is required to change this resource.";
                Some(complain(StatusCode::PRECONDITION_REQUIRED, "PreconditionRequired", text))
            }
            Some(_) | None => None,
        }
    }

    fn patch_system(&self, patch: &mut Patch) -> Result<(), Vec<Message>> {
        let boot = patch.object("Boot");
        let change = match boot {
            Some(mut boot) => Some(self.read_boot(&mut boot)?),
            None => None,
        };
        self.patch_common(patch)?;
        let Some((boot, order)) = change else { return Ok(()) };
        if let Some(boot) = boot {
            self.shared.set_boot(boot);
        }
        if let Some(order) = order {
            self.shared.board().boot_order = order;
        }
        Ok(())
    }

    /// What a `Boot` object asks for: the override (`Some(None)` ends it) and the boot order.
    #[expect(clippy::type_complexity, reason = "two answers of one reading, taken apart at once")]
    fn read_boot(&self, boot: &mut Patch) -> Result<(Option<Option<BootOverride>>, Option<Vec<&'static str>>), Vec<Message>> {
        let now = self.shared.chassis.boot_override();
        let (mode, enabled, target) =
            (boot.text("BootSourceOverrideMode"), boot.text("BootSourceOverrideEnabled"), boot.text("BootSourceOverrideTarget"));
        let order = boot.value("BootOrder").map(|value| self.read_order(&value)).transpose()?;
        none(boot.rest())?;
        let wrong = |value: &str, field: &str| vec![Message::not_in_list(value, &format!("Boot/{field}"))];
        let firmware = match mode.as_deref() {
            Some("UEFI") => FirmwareKind::Uefi,
            Some("Legacy") => FirmwareKind::Bios,
            Some(other) => return Err(wrong(other, "BootSourceOverrideMode")),
            None => now.map_or(FirmwareKind::Uefi, |b| b.firmware),
        };
        if mode.is_none() && enabled.is_none() && target.is_none() {
            return Ok((None, order));
        }
        let once = match enabled.as_deref() {
            Some("Once") | None => true,
            Some("Continuous") => false,
            Some("Disabled") => return Ok((Some(None), order)),
            Some(other) => return Err(wrong(other, "BootSourceOverrideEnabled")),
        };
        let device = match target.as_deref() {
            Some("None") => None,
            Some(word) => match TARGETS.iter().find(|(name, _)| *name == word) {
                Some((_, device)) => Some(*device),
                None => return Err(wrong(word, "BootSourceOverrideTarget")),
            },
            None => now.map(|b| b.device),
        };
        Ok((Some(device.map(|device| BootOverride { device, firmware, once })), order))
    }

    fn read_order(&self, value: &Value) -> Result<Vec<&'static str>, Vec<Message>> {
        let board = self.shared.board();
        let known = |v: &Value| board.boot_options.iter().find(|o| v.as_str() == Some(o.reference)).map(|o| o.reference);
        let order: Option<Vec<&'static str>> = value.as_array().map(|list| list.iter().filter_map(known).collect());
        match (order, value.as_array()) {
            (Some(order), Some(list)) if order.len() == list.len() && !order.is_empty() => Ok(order),
            _ => Err(vec![Message::bad_value(&value.to_string().chars().take(80).collect::<String>(), "Boot/BootOrder")]),
        }
    }

    /// What system and chassis both have.
    fn patch_common(&self, patch: &mut Patch) -> Result<(), Vec<Message>> {
        let tag = patch.text("AssetTag");
        let modern = self.shared.board().dialect.is_modern();
        let led = if modern {
            patch.switch("LocationIndicatorActive")
        } else {
            match patch.text("IndicatorLED").as_deref() {
                Some("Lit" | "Blinking") => Some(true),
                Some("Off") => Some(false),
                Some(other) => return Err(vec![Message::not_in_list(other, "IndicatorLED")]),
                None => None,
            }
        };
        none(patch.rest())?;
        let mut board = self.shared.board();
        board.led = led.unwrap_or(board.led);
        if tag.is_some() {
            board.asset_tag = tag;
        }
        Ok(())
    }

    fn patch_manager(&self, patch: &mut Patch) -> Result<(), Vec<Message>> {
        let at = patch
            .text("DateTime")
            .map(|text| text.parse::<Timestamp>().map_err(|_| vec![Message::bad_value(&text, "DateTime")]))
            .transpose()?;
        if let Some(other) = patch.text("DateTimeLocalOffset").filter(|o| o != "+00:00") {
            return Err(vec![Message::bad_value(&other, "DateTimeLocalOffset")]);
        }
        none(patch.rest())?;
        if let Some(at) = at {
            self.shared.board().set_clock(clock::now(), at);
        }
        Ok(())
    }

    fn patch_protocols(&self, patch: &mut Patch) -> Result<(), Vec<Message>> {
        let Some(mut ntp) = patch.object("NTP") else { return Ok(()) };
        // It is on when there is a server to ask.
        ntp.switch("ProtocolEnabled");
        let servers = ntp.value("NTPServers");
        none(ntp.rest())?;
        let Some(servers) = servers else { return Ok(()) };
        let Some(list) = servers.as_array() else { return Err(vec![Message::wrong_type("NTP/NTPServers")]) };
        let mut board = self.shared.board();
        let mut now = Vec::new();
        for (n, value) in list.iter().enumerate() {
            match value {
                // Elements of an array PATCH (DSP0266, section 7.10.3.1): null removes, {} keeps.
                Value::Null => {}
                Value::Object(o) if o.is_empty() => now.extend(board.ntp_servers.get(n).cloned()),
                Value::String(server) => now.push(server.clone()),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(vec![Message::wrong_type("NTP/NTPServers")]);
                }
            }
        }
        if now.len() > NTP_CAP {
            return Err(vec![Message::bad_value(&now.len().to_string(), "NTP/NTPServers")]);
        }
        board.ntp_servers = now;
        Ok(())
    }

    fn patch_session_service(&self, patch: &mut Patch) -> Result<(), Vec<Message>> {
        let secs = patch.value("SessionTimeout").map(|v| v.as_u64().filter(|s| (30..=86_400).contains(s)).ok_or(v));
        let secs = match secs {
            Some(Err(other)) => return Err(vec![Message::bad_value(&other.to_string(), "SessionTimeout")]),
            Some(Ok(secs)) => Some(secs),
            None => None,
        };
        none(patch.rest())?;
        if let Some(secs) = secs {
            self.sessions().idle = std::time::Duration::from_secs(secs);
        }
        Ok(())
    }

    fn patch_bios(&self, patch: &mut Patch) -> Result<(), Vec<Message>> {
        let Some(attributes) = patch.object("Attributes") else { return Ok(()) };
        let mut values = Vec::new();
        let mut wrong = Vec::new();
        for (name, value) in attributes.fields {
            let pointer = format!("Attributes/{name}");
            let shown = value.to_string();
            match ATTRIBUTES.iter().find(|a| a.name == name).map(|a| (a.name, a.check(&value))) {
                None => wrong.push(Message::unknown(&pointer)),
                Some((name, Ok(()))) => values.push((name, value)),
                Some((_, Err("PropertyNotWritable"))) => wrong.push(Message::not_writable(&pointer)),
                Some((_, Err("PropertyValueNotInList"))) => wrong.push(Message::not_in_list(&shown, &pointer)),
                Some((_, Err("PropertyValueTypeError"))) => wrong.push(Message::wrong_type(&pointer)),
                Some((_, Err(_))) => wrong.push(Message::bad_value(&shown, &pointer)),
            }
        }
        none(wrong)?;
        none(patch.rest())?;
        if !self.shared.faults().accepts_and_does_nothing {
            self.shared.board().settings.stage(values);
        }
        Ok(())
    }
}

fn none(wrong: Vec<Message>) -> Result<(), Vec<Message>> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
