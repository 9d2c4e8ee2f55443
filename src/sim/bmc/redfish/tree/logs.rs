//! Log services and their entries.

use serde_json::{Value, json};

use crate::domain::hardware_log::{LogDirection, LogSeverity};
use crate::sim::bmc::board::dialect::Home;
use crate::sim::bmc::board::journal::{Journal, Record, WhenFull};
use crate::sim::bmc::redfish::tree::{Resource, View, collection, enabled, link, put, put_some, stamp};

impl View<'_> {
    /// Logs of the home whose `LogServices` this path is under.
    pub(super) fn logs_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let dialect = self.dialect();
        let home =
            if path.starts_with(&dialect.system_path()) && path.starts_with("/redfish/v1/Systems/") { Home::System } else { Home::Manager };
        let logs = [(dialect.host_log, &self.board.host_log), (dialect.bmc_log, &self.board.bmc_log)];
        let own = || logs.iter().filter(|((h, _), _)| *h == home);
        let (name, journal) = match rest {
            [] => return Some(self.collection(path, "LogService", own().map(|((_, name), _)| format!("{path}/{name}")).collect())),
            [id, ..] => own().find(|((_, name), _)| name == id).map(|((_, name), journal)| (*name, *journal))?,
        };
        let is_host = std::ptr::eq(journal, &raw const self.board.host_log);
        match rest.get(1..)? {
            [] => Some(Resource::read_only(self.log_service(path, name, journal, is_host))),
            ["Entries"] => {
                let members = journal.records().map(|r| format!("{path}/{}", r.id)).collect();
                let mut body = collection(path, "LogEntry", members);
                // A log's entries are given whole: reading them one by one would be one request each.
                if let Some(members) = body.get_mut("Members").and_then(Value::as_array_mut) {
                    *members = journal.records().map(|r| self.entry(&format!("{path}/{}", r.id), r, is_host)).collect();
                }
                Some(Resource::read_only(body))
            }
            ["Entries", id] => {
                let record = journal.find(id)?;
                Some(Resource::read_only(self.entry(path, record, is_host)))
            }
            _ => None,
        }
    }

    fn log_service(&self, path: &str, name: &str, journal: &Journal, is_host: bool) -> Value {
        let mut body = self.resource(
            path,
            "LogService",
            name,
            if is_host { "System Event Log" } else { "Management Controller Log" },
            json!({
                "ServiceEnabled": true,
                "Status": enabled(),
                "MaxNumberOfRecords": journal.capacity,
                "OverWritePolicy": match journal.when_full {
                    WhenFull::Wrap => "WrapsWhenFull",
                    WhenFull::Stop => "NeverOverWrites",
                },
                "DateTime": self.stamp(self.now),
                "DateTimeLocalOffset": "+00:00",
                "LogEntryType": if is_host { "SEL" } else { "Event" },
                "Entries": link(&format!("{path}/Entries")),
                "Actions": {"#LogService.ClearLog": {"target": format!("{path}/Actions/LogService.ClearLog")}},
            }),
        );
        if self.is_modern() {
            put(&mut body, json!({"Persistency": true}));
        }
        body
    }

    fn entry(&self, path: &str, record: &Record, is_host: bool) -> Value {
        let id = record.id.to_string();
        let mut body = self.resource(
            path,
            "LogEntry",
            &id,
            &format!("Log Entry {id}"),
            json!({
                "EntryType": if is_host { "SEL" } else { "Event" },
                "Created": stamp(record.at),
                "Severity": severity_word(record.severity),
                "Message": record.message,
                "MessageId": record.message_id,
                "MessageArgs": record.message_args,
            }),
        );
        if let Some(ipmi) = &record.ipmi {
            put(
                &mut body,
                json!({
                    "SensorNumber": ipmi.sensor_number,
                    "SensorType": sensor_type_word(ipmi.sensor_type),
                    "EntryCode": match record.direction {
                        LogDirection::Deasserted => "Deassert",
                        LogDirection::Asserted | LogDirection::Said => "Assert",
                    },
                }),
            );
        }
        if self.is_modern() {
            put(&mut body, json!({"Resolved": record.direction == LogDirection::Deasserted}));
        }
        let origin = record.origin.as_ref().filter(|o| !o.contains('#'));
        put_some(&mut body, "Links", origin.map(|o| json!({"OriginOfCondition": link(o)})));
        body
    }
}

pub fn severity_word(severity: LogSeverity) -> &'static str {
    match severity {
        LogSeverity::Info => "OK",
        LogSeverity::Warning => "Warning",
        LogSeverity::Critical => "Critical",
    }
}

/// `LogEntry.SensorType` for an IPMI sensor type (table 42-3).
fn sensor_type_word(kind: u8) -> &'static str {
    match kind {
        0x01 => "Temperature",
        0x02 => "Voltage",
        0x03 => "Current",
        0x04 => "Fan",
        0x07 => "Processor",
        0x08 => "Power Supply / Converter",
        0x09 => "PowerUnit",
        0x0b => "Other Units-based Sensor",
        0x0c => "Memory",
        0x0d => "Drive Slot/Bay",
        0x10 => "Event Logging Disabled",
        0x28 => "Management Subsystem Health",
        0x29 => "Battery",
        0x2a => "Session Audit",
        _ => "System Event",
    }
}
