//! Update, task and telemetry services.

use serde_json::{Value, json};

use crate::domain::sensor::SensorKind;
use crate::sim::bmc::board::firmware::{Component, Stage, Update};
use crate::sim::bmc::redfish::tree::{READ_DELETE, ROOT, Resource, View, enabled, link, put, put_some};

pub const SIMPLE_UPDATE: &str = "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate";
pub const MULTIPART: &str = "/redfish/v1/UpdateService/update-multipart";
const REPORT: &str = "Sensors";

impl View<'_> {
    pub(super) fn update_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let body = match rest {
            [] => self.update_service(path),
            ["FirmwareInventory"] => {
                let members = self.board.components.iter().map(|c| format!("{path}/{}", c.id)).collect();
                return Some(self.collection(path, "SoftwareInventory", members));
            }
            ["FirmwareInventory", id] => self.component(path, self.board.components.iter().find(|c| c.id == *id)?),
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    fn update_service(&self, path: &str) -> Value {
        let mut simple = json!({
            "target": SIMPLE_UPDATE,
            "TransferProtocol@Redfish.AllowableValues": ["HTTP", "HTTPS"],
        });
        let mut body = self.resource(
            path,
            "UpdateService",
            "UpdateService",
            "Update Service",
            json!({
                "ServiceEnabled": true, "Status": enabled(), "FirmwareInventory": link(&format!("{path}/FirmwareInventory")),
            }),
        );
        if self.is_modern() {
            put(&mut simple, json!({"@Redfish.OperationApplyTimeSupport": apply_times()}));
            put(
                &mut body,
                json!({
                    "MultipartHttpPushUri": MULTIPART,
                    "MultipartHttpPushUri@Redfish.OperationApplyTimeSupport": apply_times(),
                    "MaxImageSizeBytes": 64 << 20,
                }),
            );
        }
        put(&mut body, json!({"Actions": {"#UpdateService.SimpleUpdate": simple}}));
        body
    }

    fn component(&self, path: &str, component: &Component) -> Value {
        let busy = |u: &Update| !u.stage.is_over() && u.file.as_ref().is_some_and(|f| f.component == component.id);
        let mut body = self.resource(
            path,
            "SoftwareInventory",
            &component.id,
            &component.name,
            json!({
                "Version": component.version, "Updateable": true, "SoftwareId": component.software_id,
                "Status": if component.torn {
                    json!({"State": "Enabled", "Health": "Critical"})
                } else if self.board.updates.iter().any(busy) {
                    json!({"State": "Updating", "Health": "OK"})
                } else {
                    enabled()
                },
            }),
        );
        let part = component.part.as_ref().and_then(|id| self.board.part(id));
        let related = match component.id.as_str() {
            "BMC" => Some(self.dialect().manager_path()),
            "BIOS" => Some(self.dialect().system_path()),
            _ => part.map(|p| self.board.path_of(p)),
        };
        put_some(&mut body, "RelatedItem", related.filter(|r| !r.contains('#')).map(|r| json!([link(&r)])));
        if self.is_modern() {
            put(&mut body, json!({"Manufacturer": part.map_or(self.identity.manufacturer.as_str(), |p| p.manufacturer.as_str())}));
        }
        body
    }

    pub(super) fn task_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let body = match rest {
            [] => self.resource(
                path,
                "TaskService",
                "TaskService",
                "Task Service",
                json!({
                    "ServiceEnabled": true, "Status": enabled(), "DateTime": self.stamp(self.now), "CompletedTaskOverWritePolicy": "Oldest",
                    "LifeCycleEventOnTaskStateChange": true, "Tasks": link(&format!("{path}/Tasks")),
                }),
            ),
            ["Tasks"] => {
                return Some(self.collection(path, "Task", self.board.updates.iter().map(|u| format!("{path}/{}", u.id)).collect()));
            }
            ["Tasks", id] => {
                let update = self.board.updates.iter().find(|u| u.id.to_string() == *id)?;
                return Some(Resource { body: self.task(update), allow: READ_DELETE });
            }
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    /// An update as a task.
    pub fn task(&self, update: &Update) -> Value {
        let path = format!("{ROOT}/TaskService/Tasks/{}", update.id);
        let failed = update.stage == Stage::Failed;
        let messages: Vec<Value> = update
            .messages
            .iter()
            .map(|(id, text)| {
                json!({"MessageId": id, "Message": text, "MessageArgs": [], "Severity": if id.ends_with("Failed") { "Critical" } else { "OK" }})
            })
            .collect();
        let component = update.file.as_ref().map_or("an update package".to_owned(), |f| f.component.clone());
        let mut body = self.resource(
            &path,
            "Task",
            &update.id.to_string(),
            &format!("Firmware update of {component}"),
            json!({
                "TaskState": update.stage.task_state(), "TaskStatus": if failed { "Critical" } else { "OK" },
                "StartTime": self.stamp(update.began), "Messages": messages,
            }),
        );
        put_some(&mut body, "EndTime", update.ended.map(|at| self.stamp(at)));
        if self.is_modern() {
            put(&mut body, json!({"PercentComplete": update.stage.percent(self.now)}));
        }
        // A monitor is gone once the task is over (DSP0266, section 12.2).
        put_some(&mut body, "TaskMonitor", (!update.stage.is_over()).then(|| monitor_path(update.id)));
        body
    }

    pub(super) fn telemetry_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let body = match rest {
            [] => self.resource(path, "TelemetryService", "TelemetryService", "Telemetry Service", json!({
                "Status": enabled(), "ServiceEnabled": true, "MaxReports": 1, "MinCollectionInterval": "PT10S",
                "MetricReportDefinitions": link(&format!("{path}/MetricReportDefinitions")), "MetricReports": link(&format!("{path}/MetricReports")),
            })),
            ["MetricReportDefinitions"] => return Some(self.collection(path, "MetricReportDefinition", vec![format!("{path}/{REPORT}")])),
            ["MetricReportDefinitions", REPORT] => self.resource(path, "MetricReportDefinition", REPORT, "All sensors", json!({
                "Status": enabled(), "MetricReportDefinitionEnabled": true, "MetricReportDefinitionType": "OnRequest",
                "ReportActions": ["LogToMetricReportsCollection"], "ReportUpdates": "Overwrite",
                "MetricReport": link(&format!("{ROOT}/TelemetryService/MetricReports/{REPORT}")),
                "Metrics": [{"MetricProperties": self.metric_uris()}],
            })),
            ["MetricReports"] => return Some(self.collection(path, "MetricReport", vec![format!("{path}/{REPORT}")])),
            ["MetricReports", REPORT] => self.report(path),
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    fn metric_uris(&self) -> Vec<String> {
        self.board.sensors.iter().map(|s| format!("{}/Sensors/{}#/Reading", self.dialect().chassis_path(), s.id)).collect()
    }

    /// Every sensor in one document.
    fn report(&self, path: &str) -> Value {
        let at = self.stamp(self.now);
        let values: Vec<Value> = self
            .board
            .sensors
            .iter()
            .zip(self.metric_uris())
            .filter_map(|(sensor, uri)| {
                let reading = self.board.reading(sensor, self.now, &self.host)?;
                let value = if sensor.kind == SensorKind::Fan { format!("{reading:.0}") } else { reading.to_string() };
                Some(json!({"MetricId": sensor.id, "MetricValue": value, "MetricProperty": uri, "Timestamp": at}))
            })
            .collect();
        self.resource(path, "MetricReport", REPORT, "All sensors", json!({
            "Timestamp": at, "MetricReportDefinition": link(&format!("{ROOT}/TelemetryService/MetricReportDefinitions/{REPORT}")), "MetricValues": values,
        }))
    }
}

pub fn monitor_path(id: u32) -> String {
    format!("{ROOT}/TaskService/TaskMonitors/{id}")
}

fn apply_times() -> Value {
    json!({"@odata.type": "#Settings.v1_3_5.OperationApplyTimeSupport", "SupportedValues": ["Immediate", "OnReset"]})
}
