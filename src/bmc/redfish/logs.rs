//! Log services: found by walking, read as far back as is new, cleared only when all was read.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bmc::BmcError;
use crate::bmc::redfish::layout::link;
use crate::bmc::redfish::log_cursor;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::view::clean_to;
use crate::bmc::redfish::walk::{Member, PAGE_CAP, Resource, Walk, tidy};
use crate::bmc::redfish::{Redfish, quirks};
use crate::domain::bmc_features::Oddity;
use crate::domain::hardware_log::{IpmiEvent, LogCursor, LogDirection, LogEntry, LogNews, LogSeverity};

/// Entries of one log that are read at once; the newest are kept where there are more (OpenBMC journals run to 100,000).
const ENTRY_CAP: usize = 5_000;
/// Entries that must be asked for one by one, at once.
const SINGLE_CAP: usize = 1_500;
const MESSAGE_CAP: usize = 1_024;
/// Logs of one machine that are read; a DL360 has four.
const LOG_CAP: usize = 64;

impl Redfish {
    /// The log services of the machine's systems, managers and chassis.
    pub(super) async fn find_logs(&self) -> Result<Vec<String>, BmcError> {
        let mut walk = Walk::new(self.http());
        let layout = self.layout(&mut walk).await?;
        let mut logs: Vec<String> = Vec::new();
        for holder in layout.systems.iter().chain(&layout.managers).chain(&layout.chassis) {
            let Some(holder) = walk.get(holder).await? else { continue };
            for service in walk.follow_members(&holder.body, "LogServices").await? {
                // One that takes no new entries (`ServiceEnabled` false) still has its old ones.
                if service.body.get("Entries").is_some() && !logs.contains(&service.path) && logs.len() < LOG_CAP {
                    logs.push(service.path);
                }
            }
        }
        Ok(logs)
    }

    pub(super) async fn read_log(&self, log: &str, cursor: &LogCursor) -> Result<LogNews, BmcError> {
        let mut walk = Walk::new(self.http());
        let service = self.log_service(&mut walk, log).await?;
        let entries = link(&service.body, "Entries").ok_or_else(|| self.http().unsupported(format!("entries in the log {log}")))?;
        let (kept, complete, listed) = self.read_until_known(&mut walk, &service.path, &entries, cursor).await?;
        if let Some(failed) = walk.unread.first().filter(|_| kept.is_empty()) {
            // Nothing could be read: that is no empty log.
            return Err(self.http().nonsense(format!("a log that cannot be read: {} ({})", failed.what, failed.source)));
        }
        let mut news = log_cursor::news(cursor, kept, complete);
        let total = walk.reader(&service).small_count("MaxNumberOfRecords").filter(|n| *n > 0);
        news.fill = total.zip(listed.and_then(|n| u32::try_from(n).ok())).map(|(total, used)| (used, total));
        news.not_understood = walk.odd.into_iter().chain(walk.unread).collect::<Vec<Oddity>>();
        Ok(news)
    }

    async fn log_service(&self, walk: &mut Walk<'_>, log: &str) -> Result<Resource, BmcError> {
        match walk.get(log).await? {
            Some(service) => Ok(service),
            None => {
                let why = walk.unread.first().map(|u| u.what.clone()).unwrap_or_default();
                Err(self.http().nonsense(format!("a log service {log} that cannot be read: {why}")))
            }
        }
    }

    /// Entries oldest first, read until they join the cursor; whether that is all; how many the log has.
    async fn read_until_known(
        &self,
        walk: &mut Walk<'_>,
        log: &str,
        collection: &str,
        cursor: &LogCursor,
    ) -> Result<(Vec<LogEntry>, bool, Option<u64>), BmcError> {
        // In the BMC's order.
        let mut entries: Vec<LogEntry> = Vec::new();
        let (mut next, mut pages, mut complete) = (Some(tidy(collection)), Vec::<String>::new(), true);
        let mut listed = None;
        while let Some(at) = next.take() {
            if pages.contains(&at) || pages.len() >= PAGE_CAP {
                complete = false;
                break;
            }
            let Some(page) = walk.page(&at).await? else { break };
            let count = page.body.get("Members@odata.count").and_then(Value::as_u64);
            listed = listed.or(count);
            let links: Vec<String> =
                page.members.iter().filter_map(|m| if let Member::Link(l) = m { Some(l.clone()) } else { None }).collect();
            for member in page.members {
                if let Member::Inlined(resource) = member {
                    entries.push(entry(&mut walk.reader(&resource), log));
                }
            }
            if !links.is_empty() {
                complete &= self.read_singles(walk, log, &links, cursor, &mut entries).await?;
            }
            let is_first = pages.is_empty();
            pages.push(at);
            let newest_first = is_newest_first(&entries);
            if newest_first && log_cursor::joins(cursor, &entries.iter().collect::<Vec<_>>()).is_some() {
                break;
            }
            if entries.len() >= ENTRY_CAP && newest_first {
                complete = page.next.is_none();
                break;
            }
            next = page.next;
            // Oldest first and more than we read: jump to the newest where the BMC pages by `$skip`.
            if let (true, false, Some(count), Some(link)) = (is_first, newest_first, count, &next)
                && let Some(skip) = usize::try_from(count).ok().and_then(|c| c.checked_sub(ENTRY_CAP)).filter(|s| *s > entries.len())
                && let Some(jump) = skip_to(link, skip)
            {
                entries.clear();
                complete = false;
                next = Some(jump);
            }
        }
        if is_newest_first(&entries) {
            entries.reverse();
        }
        complete &= listed.is_none_or(|n| usize::try_from(n).is_ok_and(|n| n <= entries.len()));
        if entries.len() > ENTRY_CAP {
            complete = false;
            entries.drain(..entries.len() - ENTRY_CAP);
        }
        Ok((entries, complete, listed))
    }

    /// Entries that the collection only links to: those beside the last one taken, or all. Whether that was all of them.
    async fn read_singles(
        &self,
        walk: &mut Walk<'_>,
        log: &str,
        links: &[String],
        cursor: &LogCursor,
        entries: &mut Vec<LogEntry>,
    ) -> Result<bool, BmcError> {
        let newest_last = links_are_oldest_first(walk, log, links).await?;
        let mut order: Vec<&String> = links.iter().collect();
        if newest_last {
            order.reverse();
        }
        let mut got: Vec<LogEntry> = Vec::new();
        let mut complete = true;
        for link in order {
            if got.len() >= SINGLE_CAP {
                complete = false;
                break;
            }
            if let Some(resource) = walk.get(link).await? {
                got.push(entry(&mut walk.reader(&resource), log));
            }
            // The last one taken, and it is the one we took: the rest is known.
            let last = got.last().is_some_and(|e| e.id == cursor.last_id && cursor.seen.first() == Some(&e.content));
            if last {
                break;
            }
        }
        if newest_last {
            got.reverse();
        }
        entries.extend(got);
        Ok(complete)
    }

    /// Clears a log of which nothing is unread (defect C7).
    pub(super) async fn clear(&self, log: &str, read_to: &LogCursor) -> Result<(), BmcError> {
        let news = self.read_log(log, read_to).await?;
        if read_to.seen.is_empty() && read_to.epoch.is_empty() || !news.entries.is_empty() || news.new_epoch {
            return Err(self
                .http()
                .busy(format!("the log {log} has {} entries that were not read yet; read them first", news.entries.len())));
        }
        let service = self.log_service(&mut Walk::new(self.http()), log).await?;
        let action = service.body.pointer("/Actions/#LogService.ClearLog/target").and_then(Value::as_str);
        let target = action.ok_or_else(|| self.http().unsupported(format!("clearing the log {log} (no LogService.ClearLog)")))?;
        // The BMC itself compares, where it knows the parameter (DSP2046, LogService 1.3): closes the gap since our reading.
        let etag = match link(&service.body, "Entries") {
            Some(entries) => self.http().get(&entries).await?.body.get("@odata.etag").and_then(Value::as_str).map(str::to_owned),
            None => None,
        };
        let knows = service.body.get("@odata.type").and_then(Value::as_str).is_some_and(|t| version_of(t) >= (1, 3));
        let body = match etag.filter(|_| knows) {
            Some(etag) => json!({"LogEntriesETag": etag}),
            None => json!({}),
        };
        let mut reply = self.http().send(Method::POST, target, &body, None).await?;
        if reply.status == StatusCode::BAD_REQUEST && reply.complaint().has(&["ActionParameterUnknown", "ActionParameterNotSupported"]) {
            reply = self.http().send(Method::POST, target, &json!({}), None).await?;
        }
        match reply.status {
            StatusCode::PRECONDITION_FAILED => Err(self.http().busy(format!("something was written to the log {log} just now"))),
            status if status.is_success() => Ok(()),
            _ => Err(self.http().failed(target, &reply)),
        }
    }
}

/// `#LogService.v1_3_0.LogService`: 1, 3. Zeroes where there is no version.
fn version_of(odata_type: &str) -> (u32, u32) {
    let version = odata_type.split('.').nth(1).and_then(|v| v.strip_prefix('v')).unwrap_or_default();
    let mut numbers = version.split('_').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The nextLink of a collection that pages by `$skip`, with another number.
fn skip_to(next: &str, skip: usize) -> Option<String> {
    let (head, tail) = next.split_once("$skip=")?;
    let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    Some(format!("{head}$skip={skip}{rest}"))
}

/// Whether entries come newest first: by time, else by number, over all neighbours, so that one wrong clock or one wrap
/// decides nothing.
fn is_newest_first(entries: &[LogEntry]) -> bool {
    let (mut up, mut down) = (0, 0);
    for pair in entries.windows(2) {
        let [a, b] = pair else { continue };
        let order = match (a.at, b.at) {
            (Some(a_at), Some(b_at)) if a_at != b_at => a_at.cmp(&b_at),
            _ => match (a.id.parse::<u64>(), b.id.parse::<u64>()) {
                (Ok(a_id), Ok(b_id)) => a_id.cmp(&b_id),
                _ => std::cmp::Ordering::Equal,
            },
        };
        match order {
            std::cmp::Ordering::Less => up += 1,
            std::cmp::Ordering::Greater => down += 1,
            std::cmp::Ordering::Equal => {}
        }
    }
    down > up
}

/// The same for links: by the entries at both ends.
async fn links_are_oldest_first(walk: &mut Walk<'_>, log: &str, links: &[String]) -> Result<bool, BmcError> {
    let (Some(first), Some(last)) = (links.first(), links.last()) else { return Ok(true) };
    let ends = walk.get_all(&[first.clone(), last.clone()]).await?;
    let ends: Vec<LogEntry> = ends.iter().map(|e| entry(&mut walk.reader(e), log)).collect();
    Ok(!is_newest_first(&ends))
}

/// One `LogEntry`.
fn entry(r: &mut Reader, log: &str) -> LogEntry {
    let created = r.first_text(&["Created", "EventTimestamp", "DateTime"]).unwrap_or_default();
    let at = r.time("Created").or_else(|| r.time("EventTimestamp"));
    let id = r.text("Id").or_else(|| r.source.rsplit('/').next().and_then(|s| clean_to(s, 256))).unwrap_or_default();
    let message_id = r.text("MessageId").or_else(|| r.text("MessageID"));
    let message_args = r.words("MessageArgs");
    let said = r.long_text("Message", MESSAGE_CAP);
    // iLO 5's event log gives id and arguments and leaves the words to its registry.
    let message = said.clone().unwrap_or_else(|| {
        let id = message_id.as_deref().and_then(|id| id.rsplit('.').next()).unwrap_or("an entry without words");
        if message_args.is_empty() { id.to_owned() } else { format!("{id} ({})", message_args.join(", ")) }
    });
    let entry_code = r.text("EntryCode").unwrap_or_default();
    let sensor_type = r.text("SensorType").unwrap_or_default();
    let origin = origin(r);
    let direction = match entry_code.as_str() {
        "" => LogDirection::Said,
        "Deassert" | "State Deasserted" | "Predictive Failure Deasserted" | "Device Removed / Device Absent" => LogDirection::Deasserted,
        _ => LogDirection::Asserted,
    };
    let said_severity = r.first_text(&["Severity", "MessageSeverity"]).unwrap_or_default();
    let severity = match said_severity.to_ascii_lowercase().as_str() {
        "" | "ok" | "informational" | "information" | "info" | "normal" | "notice" | "audit" | "debug" | "none" | "unknown" => {
            LogSeverity::Info
        }
        "warning" | "warn" | "caution" | "minor" | "degraded" => LogSeverity::Warning,
        "critical" | "fatal" | "major" | "error" | "alert" | "emergency" => LogSeverity::Critical,
        _ => {
            r.odd(format!("Severity {said_severity:?} is no severity we know"));
            LogSeverity::Warning
        }
    };
    let ipmi = ipmi_event(r, &sensor_type, &entry_code);
    let args = message_args.join("\u{1f}");
    let number = r.body.get("SensorNumber").map(Value::to_string).unwrap_or_default();
    let raw = quirks::raw_event(r.body).map(Value::to_string).unwrap_or_default();
    let content = log_cursor::content(&[
        &created,
        message_id.as_deref().unwrap_or_default(),
        said.as_deref().unwrap_or_default(),
        &args,
        &sensor_type,
        &number,
        &entry_code,
        origin.as_deref().unwrap_or_default(),
        &raw,
    ]);
    LogEntry {
        log: log.to_owned(),
        id,
        at,
        severity,
        direction,
        message,
        message_id,
        message_args,
        ipmi,
        origin,
        content,
        source: r.source.to_owned(),
    }
}

fn origin(r: &mut Reader) -> Option<String> {
    let linked = r.inside("Links").and_then(|l| l.link("OriginOfCondition").map(str::to_owned));
    linked.or_else(|| r.link("OriginOfCondition").map(str::to_owned)).and_then(|o| clean_to(&o, 1024))
}

/// The machine-readable half: raw bytes where the vendor gives them, else from the words of the standard.
fn ipmi_event(r: &mut Reader, sensor_type: &str, entry_code: &str) -> Option<IpmiEvent> {
    if let Some(raw) = quirks::raw_event(r.body) {
        let byte = |name: &str| {
            let text = raw.get(name)?.as_str()?.trim();
            u8::from_str_radix(text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text), 16).ok()
        };
        let number = r.count("SensorNumber").and_then(|n| u8::try_from(n).ok()).unwrap_or(0);
        return Some(IpmiEvent {
            sensor_type: byte("SensorType")?,
            sensor_number: number,
            event_type: byte("EventDirAndType")? & 0x7f,
            offset: byte("EventData1")? & 0x0f,
            data2: byte("EventData2").unwrap_or(0xff),
            data3: byte("EventData3").unwrap_or(0xff),
        });
    }
    let code = SENSOR_TYPES.iter().find(|(name, _)| *name == sensor_type)?.1;
    let (event_type, offset) = ENTRY_CODES.iter().find(|(name, _, _)| *name == entry_code).map(|(_, e, o)| (*e, *o))?;
    let number = r.count("SensorNumber").and_then(|n| u8::try_from(n).ok()).unwrap_or(0);
    Some(IpmiEvent { sensor_type: code, sensor_number: number, event_type, offset, data2: 0xff, data3: 0xff })
}

/// `LogEntry.SensorType` (DSP2046, after IPMI v2.0 table 42-3).
const SENSOR_TYPES: &[(&str, u8)] = &[
    ("Temperature", 0x01),
    ("Voltage", 0x02),
    ("Current", 0x03),
    ("Fan", 0x04),
    ("Physical Chassis Security", 0x05),
    ("Processor", 0x07),
    ("Power Supply / Converter", 0x08),
    ("Power Unit", 0x09),
    ("Cooling Device", 0x0a),
    ("Memory", 0x0c),
    ("Drive Slot/Bay", 0x0d),
    ("System Firmware Progress", 0x0f),
    ("Event Logging Disabled", 0x10),
    ("System Event", 0x12),
    ("Critical Interrupt", 0x13),
    ("Boot Error", 0x1e),
    ("OS Stop/Shutdown", 0x20),
    ("Watchdog2", 0x23),
    ("LAN", 0x27),
    ("Management Subsystem Health", 0x28),
    ("Battery", 0x29),
    ("Version Change", 0x2b),
];

/// `LogEntry.EntryCode`: IPMI event type and offset (tables 42-1 and 42-2).
const ENTRY_CODES: &[(&str, u8, u8)] = &[
    ("Lower Non-critical - going low", 0x01, 0x00),
    ("Lower Non-critical - going high", 0x01, 0x01),
    ("Lower Critical - going low", 0x01, 0x02),
    ("Lower Critical - going high", 0x01, 0x03),
    ("Lower Non-recoverable - going low", 0x01, 0x04),
    ("Lower Non-recoverable - going high", 0x01, 0x05),
    ("Upper Non-critical - going low", 0x01, 0x06),
    ("Upper Non-critical - going high", 0x01, 0x07),
    ("Upper Critical - going low", 0x01, 0x08),
    ("Upper Critical - going high", 0x01, 0x09),
    ("Upper Non-recoverable - going low", 0x01, 0x0a),
    ("Upper Non-recoverable - going high", 0x01, 0x0b),
    ("State Deasserted", 0x03, 0x00),
    ("State Asserted", 0x03, 0x01),
    ("Predictive Failure Deasserted", 0x04, 0x00),
    ("Predictive Failure Asserted", 0x04, 0x01),
    ("Fully Redundant", 0x0b, 0x00),
    ("Redundancy Lost", 0x0b, 0x01),
    ("Redundancy Degraded", 0x0b, 0x02),
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn read(body: Value) -> LogEntry {
        let resource = Resource { path: "/log/1".into(), body: Arc::new(body) };
        entry(&mut Reader::new(&resource.body, &resource.path, &mut Vec::new()), "/log")
    }

    #[test]
    fn an_ipmi_event_is_read_from_a_supermicro_entry() {
        let entry = read(json!({"Id": "1", "Created": "2018-08-12T12:46:14+00:00", "EntryCode": "Assert", "SensorType": "Memory",
            "SensorNumber": 0, "Message": "[ OEM ] Correctable ECC @DIMMB1", "Oem": {"Supermicro": {"RawEventData":
            {"EventDirAndType": "0x6F", "SensorType": "0x0C", "EventData1": "0xA0", "EventData2": "0x2A", "EventData3": "0x80"}}}}));
        let want = IpmiEvent { sensor_type: 0x0c, sensor_number: 0, event_type: 0x6f, offset: 0, data2: 0x2a, data3: 0x80 };
        assert_eq!((entry.ipmi, entry.direction), (Some(want), LogDirection::Asserted));
    }

    #[test]
    fn the_words_of_the_standard_give_the_same_event() {
        let entry = read(
            json!({"Id": "7", "EntryCode": "Lower Critical - going low", "SensorType": "Fan", "SensorNumber": 65, "Severity": "Critical"}),
        );
        let want = IpmiEvent { sensor_type: 4, sensor_number: 65, event_type: 1, offset: 2, data2: 0xff, data3: 0xff };
        assert_eq!((entry.ipmi, entry.severity, entry.at), (Some(want), LogSeverity::Critical, None));
    }

    #[test]
    fn an_entry_without_words_is_named_by_its_message_id() {
        let entry = read(json!({"Id": "1", "MessageId": "iLOEvents.3.15.iLORestServicesStarted", "MessageArgs": ["3.11", "2025-02-25"]}));
        assert_eq!(entry.message, "iLORestServicesStarted (3.11, 2025-02-25)");
    }

    #[test]
    fn a_repaired_entry_keeps_its_content() {
        let critical = read(json!({"Id": "1", "Created": "2024-01-01T00:00:00Z", "Message": "DIMM failed", "Severity": "Critical"}));
        let repaired = read(json!({"Id": "1", "Created": "2024-01-01T00:00:00Z", "Message": "DIMM failed", "Severity": "OK"}));
        assert_eq!(critical.content, repaired.content);
    }

    #[test]
    fn a_jump_to_the_newest_page_keeps_the_rest_of_the_query() {
        assert_eq!(skip_to("/E?$skip=1000&$top=1000", 95_000).as_deref(), Some("/E?$skip=95000&$top=1000"));
        assert_eq!(skip_to("/E?page=2", 9), None);
        assert_eq!((version_of("#LogService.v1_3_0.LogService"), version_of("x")), ((1, 3), (0, 0)));
    }
}
