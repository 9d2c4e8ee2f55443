//! Firmware inventory, updates and the tasks that follow them.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use crate::bmc::BmcError;
use crate::bmc::redfish::http::Reply;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::view::{self, clean};
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::bmc::redfish::{Redfish, quirks};
use crate::domain::bmc_features::{FirmwareItem, FirmwareSource, Found, TaskSeen, TaskState, UpdateBegun};

impl Redfish {
    pub(super) async fn read_firmware(&self) -> Result<Found<FirmwareItem>, BmcError> {
        let mut walk = Walk::new(self.http());
        let root = walk.root().await?;
        let vendor = walk.reader(&root).text("Vendor").unwrap_or_default();
        let mut items = Vec::new();
        if let Some(service) = walk.follow(&root.body, "UpdateService").await? {
            for member in walk.follow_members(&service.body, "FirmwareInventory").await? {
                items.push(item(&mut walk.reader(&member), &vendor));
            }
        }
        if items.is_empty() {
            // Trees without an UpdateService (Redfish 1.0) have the two versions that matter most elsewhere.
            let layout = self.layout(&mut walk).await?;
            for (path, field, name) in layout
                .systems
                .iter()
                .map(|s| (s, "BiosVersion", "BIOS"))
                .chain(layout.managers.iter().map(|m| (m, "FirmwareVersion", "BMC")))
            {
                let Some(resource) = walk.get(path).await? else { continue };
                items.extend(version_in(&mut walk.reader(&resource), field, name));
            }
        }
        Ok(walk.found(items))
    }

    async fn update_service(&self, walk: &mut Walk<'_>) -> Result<Resource, BmcError> {
        let root = walk.root().await?;
        walk.follow(&root.body, "UpdateService").await?.ok_or_else(|| self.http().unsupported("firmware updates (no UpdateService)"))
    }

    pub(super) async fn start_update(&self, source: &FirmwareSource, targets: &[String]) -> Result<UpdateBegun, BmcError> {
        let service = self.update_service(&mut Walk::new(self.http())).await?;
        let reply = match source {
            FirmwareSource::Url(url) => self.simple_update(&service, url, targets).await?,
            FirmwareSource::File { path, name } => self.push(&service, path, name, targets).await?,
        };
        if !reply.status.is_success() {
            return Err(self.http().failed(&service.path, &reply));
        }
        let task = task_of(&reply);
        let note = match &task {
            Some(task) => format!("the BMC accepted it as {task}"),
            None => "the BMC accepted it and named no task; the version will tell".to_owned(),
        };
        Ok(UpdateBegun { task, note })
    }

    async fn simple_update(&self, service: &Resource, url: &str, targets: &[String]) -> Result<Reply, BmcError> {
        let action = service.body.pointer("/Actions/#UpdateService.SimpleUpdate");
        let target = action.and_then(|a| a.get("target")).and_then(Value::as_str);
        let (Some(action), Some(target)) = (action, target) else {
            return Err(self.http().unsupported("fetching firmware from a URL (no UpdateService.SimpleUpdate)"));
        };
        let protocol = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_uppercase()).unwrap_or_default();
        let mut body = Map::from_iter([("ImageURI".to_owned(), Value::from(url))]);
        if let Some(allowed) = view::allowable(action, "TransferProtocol@Redfish.AllowableValues") {
            if !allowed.contains(&protocol) {
                return Err(self.http().unsupported(format!("fetching firmware by {protocol} (it allows {})", allowed.join(", "))));
            }
            body.insert("TransferProtocol".into(), protocol.into());
        }
        if !targets.is_empty() {
            body.insert("Targets".into(), json!(targets));
        }
        self.http().send(reqwest::Method::POST, target, &Value::Object(body), None).await
    }

    /// Multipart push (DSP0266, 12.6.2), or the plain push of older services.
    async fn push(&self, service: &Resource, file: &Path, name: &str, targets: &[String]) -> Result<Reply, BmcError> {
        let uri = |field: &str| service.body.get(field).and_then(Value::as_str).filter(|u| !u.is_empty());
        if let Some(push) = uri("MultipartHttpPushUri") {
            return self.http().push_multipart(push, &json!({"Targets": targets}), file, name).await;
        }
        // iLO 5 names its web page's upload form here, which is another protocol.
        match uri("HttpPushUri").filter(|u| u.contains("/redfish/")) {
            Some(push) if targets.is_empty() => self.http().push_file(push, file).await,
            Some(_) => Err(self.http().unsupported("pushing firmware to one target (its push takes no parameters)")),
            None => Err(self.http().unsupported("pushing firmware (no MultipartHttpPushUri or HttpPushUri of Redfish)")),
        }
    }

    /// The tasks of the task service.
    pub(super) async fn read_tasks(&self) -> Result<Found<TaskSeen>, BmcError> {
        let mut walk = Walk::new(self.http());
        let root = walk.root().await?;
        let service = walk.follow(&root.body, "Tasks").await?;
        let service = service.ok_or_else(|| self.http().unsupported("a list of tasks (no TaskService)"))?;
        let members = walk.follow_members(&service.body, "Tasks").await?;
        let items = members.into_iter().map(|m| TaskSeen { state: state_of(&m.body, false), source: m.path }).collect();
        Ok(walk.found(items))
    }

    /// How a task or a task monitor stands.
    pub(super) async fn read_task(&self, task: &str) -> Result<TaskState, BmcError> {
        let reply = self.http().get_any(task).await?;
        match reply.status {
            // Restarted meanwhile, or finished and forgotten (old iDRACs drop a task after a minute).
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(TaskState::Lost),
            StatusCode::ACCEPTED => {}
            status if status.is_success() => {}
            _ => {
                // A task monitor answers with the failed operation's own status (DSP0266, 12.2).
                let said = reply.complaint();
                let is_answer = reply.status.is_client_error() && !said.sentence.is_empty();
                return if is_answer { Ok(TaskState::Failed { reason: said.sentence }) } else { Err(self.http().failed(task, &reply)) };
            }
        }
        Ok(task_state(&reply))
    }
}

/// The task of an answer: the task that the body is, else the monitor in `Location`, else a task named in the body. A monitor is
/// gone when its task has ended, and with it the reason why it failed; the task stays (DSP0266, 12.2).
pub fn task_of(reply: &Reply) -> Option<String> {
    let text = |field: &str| reply.body.get(field).and_then(Value::as_str);
    if text("@odata.type").is_some_and(|t| t.starts_with("#Task."))
        && let Some(task) = text("@odata.id").and_then(|t| view::clean_to(t, 1024))
    {
        return Some(task);
    }
    let location = reply.headers.get(reqwest::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
    let body = ["@odata.id", "TaskMonitor"].iter().find_map(|f| reply.body.get(*f).and_then(Value::as_str));
    let in_body = body.filter(|b| b.to_ascii_lowercase().contains("task") || b.contains("/Jobs/")).map(str::to_owned);
    location.filter(|l| !l.is_empty()).or(in_body).and_then(|t| view::clean_to(&t, 1024))
}

fn task_state(reply: &Reply) -> TaskState {
    state_of(&reply.body, reply.status == StatusCode::ACCEPTED)
}

/// `is_accepted`: the answer was 202, as a monitor's is while it works.
fn state_of(body: &Value, is_accepted: bool) -> TaskState {
    let messages = body.get("Messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let said: Vec<String> = messages.iter().rev().filter_map(|m| view::text(m, "Message")).take(3).collect();
    let note = || said.first().cloned().or_else(|| view::text(body, "Name")).unwrap_or_default();
    let status = view::text(body, "TaskStatus");
    let is_bad = status.as_deref().is_some_and(|s| s == "Critical");
    match view::text(body, "TaskState").as_deref() {
        Some("Completed") if !is_bad => TaskState::Done { note: note() },
        Some(state @ ("Completed" | "Exception" | "Killed" | "Cancelled")) => {
            let words = if said.is_empty() { format!("the task ended as {state}") } else { said.join("; ") };
            TaskState::Failed { reason: words }
        }
        Some(_) => {
            let percent = body.get("PercentComplete").and_then(Value::as_u64).and_then(|p| u8::try_from(p.min(100)).ok());
            TaskState::Running { percent, note: note() }
        }
        // A monitor without a task in it: 202 while it works, the result when done.
        None if is_accepted => TaskState::Running { percent: None, note: note() },
        None => TaskState::Done { note: note() },
    }
}

fn item(r: &mut Reader, vendor: &str) -> FirmwareItem {
    let id = r.text("Id").unwrap_or_default();
    let status = r.status();
    let related = r.links("RelatedItem").into_iter().filter_map(clean).collect();
    FirmwareItem {
        source: r.source.to_owned(),
        name: r.first_text(&["Name", "Id"]).unwrap_or_default(),
        version: r.first_text(&["Version", "VersionString"]),
        updateable: r.flag("Updateable"),
        software_id: r.text("SoftwareId"),
        related,
        health: status.health,
        in_use: quirks::firmware_in_use(vendor, &id),
    }
}

fn version_in(r: &mut Reader, field: &str, name: &str) -> Option<FirmwareItem> {
    Some(FirmwareItem {
        source: r.source.to_owned(),
        name: name.to_owned(),
        version: Some(r.text(field)?),
        updateable: None,
        software_id: None,
        related: Vec::new(),
        health: None,
        in_use: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderMap;

    fn reply(status: u16, body: Value) -> Reply {
        Reply { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body, bytes: 0 }
    }

    #[test]
    fn a_task_is_done_only_when_it_says_so() {
        let running = reply(200, json!({"TaskState": "Running", "PercentComplete": 40, "Messages": [{"Message": "Writing"}]}));
        assert_eq!(task_state(&running), TaskState::Running { percent: Some(40), note: "Writing".into() });
        assert_eq!(task_state(&reply(202, Value::Null)), TaskState::Running { percent: None, note: String::new() });
        assert_eq!(task_state(&reply(204, Value::Null)), TaskState::Done { note: String::new() });
        let failed = reply(200, json!({"TaskState": "Completed", "TaskStatus": "Critical", "Messages": [{"Message": "Bad signature"}]}));
        assert_eq!(task_state(&failed), TaskState::Failed { reason: "Bad signature".into() });
        assert_eq!(
            task_state(&reply(200, json!({"TaskState": "Exception"}))),
            TaskState::Failed { reason: "the task ended as Exception".into() }
        );
    }

    #[test]
    fn the_task_itself_is_preferred_then_its_monitor() {
        let mut with = reply(202, json!({"@odata.id": "/redfish/v1/TaskService/Tasks/1"}));
        assert_eq!(task_of(&with).as_deref(), Some("/redfish/v1/TaskService/Tasks/1"));
        with.headers.insert(reqwest::header::LOCATION, "/redfish/v1/TaskMonitors/1".parse().unwrap());
        assert_eq!(task_of(&with).as_deref(), Some("/redfish/v1/TaskMonitors/1"));
        with.body["@odata.type"] = "#Task.v1_7_0.Task".into();
        assert_eq!(task_of(&with).as_deref(), Some("/redfish/v1/TaskService/Tasks/1"), "it is there when the monitor is gone");
        assert_eq!(task_of(&reply(200, json!({"@odata.id": "/redfish/v1/UpdateService"}))), None);
    }
}
