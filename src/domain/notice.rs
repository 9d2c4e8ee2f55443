//! Notices: what people and other systems are told, through alert targets. A notice is written in the transaction that
//! causes it and carries all that is known then, so that each can be understood alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::id::{CaseId, IncidentId, MachineId, NoticeId, RunId};
use crate::domain::machine::Machine;
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;
use crate::domain::{case, event};

/// What a notice is about. Its text form (`run:018f…`) names the same cause everywhere: one subject, one ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Case(CaseId),
    /// A cause outside many machines, which holds them.
    Domain(IncidentId),
    Machine(MachineId),
    Run(RunId),
}

impl Subject {
    /// The key by which receivers know a repeated message: `hostler:dc1:run-018f…`. At most 255 characters with a site of at
    /// most 63 (the limit of PagerDuty's `dedup_key`).
    pub fn key(self, site: &str) -> String {
        let (kind, id) = self.parts();
        format!("hostler:{site}:{kind}-{id}")
    }

    fn parts(self) -> (&'static str, uuid::Uuid) {
        match self {
            Self::Case(id) => ("case", id.0),
            Self::Domain(id) => ("domain", id.0),
            Self::Machine(id) => ("machine", id.0),
            Self::Run(id) => ("run", id.0),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, id) = self.parts();
        write!(f, "{kind}:{id}")
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a subject of alerts: {0:?}; it is case:, domain:, machine: or run: and an id")]
pub struct BadSubject(String);

impl std::str::FromStr for Subject {
    type Err = BadSubject;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadSubject(s.chars().take(80).collect());
        let (kind, id) = s.split_once(':').ok_or_else(bad)?;
        let id = uuid::Uuid::parse_str(id).map_err(|_| bad())?;
        match kind {
            "case" => Ok(Self::Case(CaseId(id))),
            "domain" => Ok(Self::Domain(IncidentId(id))),
            "machine" => Ok(Self::Machine(MachineId(id))),
            "run" => Ok(Self::Run(RunId(id))),
            _ => Err(bad()),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    Opened,
    Updated,
    Closed,
}
text_form!(NoticeKind { Opened = "opened", Updated = "updated", Closed = "closed" });

/// How much it matters, in the words of PagerDuty's Events API, which the others map to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Error,
    Critical,
}
text_form!(Severity { Info = "info", Warning = "warning", Error = "error", Critical = "critical" });

impl From<case::Severity> for Severity {
    fn from(s: case::Severity) -> Self {
        match s {
            case::Severity::Info => Self::Info,
            case::Severity::Warning => Self::Warning,
            case::Severity::Critical | case::Severity::Fatal => Self::Critical,
        }
    }
}

impl From<event::Severity> for Severity {
    fn from(s: event::Severity) -> Self {
        match s {
            event::Severity::Info => Self::Info,
            event::Severity::Warning => Self::Warning,
            event::Severity::Error => Self::Error,
        }
    }
}

/// A page of ours. `path` begins with `/`; the site's address is put before it when the notice is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub text: String,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub id: NoticeId,
    pub subject: Subject,
    /// `Opened` and `Updated` say the same, "it is so now": the store writes `Opened` for the first of a subject that was not
    /// open and `Updated` for the next. A `Closed` of a subject that is not open is dropped.
    pub kind: NoticeKind,
    pub at: Timestamp,
    /// Dotted word for programs: `run.failed`, `case.confirmed`, `machine.quarantined`.
    pub event: String,
    pub severity: Severity,
    pub machine: Option<MachineId>,
    /// One line that reads alone and names the machine.
    pub title: String,
    /// Whole sentences: what happened, what was done, what a person can do.
    pub sentences: Vec<String>,
    pub links: Vec<Link>,
    /// What names the thing, for routing: `machine`, `serial`, `rack`, `component`, … Never a time or a measured value: two
    /// notices of one subject have the same labels.
    pub labels: BTreeMap<String, String>,
}

impl Notice {
    /// A notice about a machine or something on it, with the machine's labels and page.
    pub fn about(id: NoticeId, subject: Subject, m: &Machine, kind: NoticeKind, event: &str, at: Timestamp) -> Self {
        let mut labels = BTreeMap::from([("machine".to_owned(), m.name.to_string())]);
        if let Some(serial) = &m.serial {
            labels.insert("serial".to_owned(), serial.to_string());
        }
        if let Some(place) = &m.place {
            labels.insert("rack".to_owned(), place.rack.as_str().to_owned());
            if let Some(u) = place.u {
                labels.insert("u".to_owned(), u.to_string());
            }
        }
        Self {
            id,
            subject,
            kind,
            at,
            event: event.to_owned(),
            severity: Severity::Info,
            machine: Some(m.id),
            title: m.name.to_string(),
            sentences: Vec::new(),
            links: vec![Link { text: format!("Machine {}", m.name), path: format!("/machines/{}", m.name) }],
            labels,
        }
    }

    pub fn saying(mut self, severity: Severity, title: impl Into<String>, sentences: impl IntoIterator<Item = String>) -> Self {
        self.severity = severity;
        self.title = title.into();
        self.sentences = sentences.into_iter().filter(|s| !s.is_empty()).collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_a_notice_is_pinned() {
        let notice = Notice {
            id: NoticeId(uuid::Uuid::nil()),
            subject: Subject::Run(RunId(uuid::Uuid::max())),
            kind: NoticeKind::Opened,
            at: Timestamp(0),
            event: "run.failed".into(),
            severity: Severity::Error,
            machine: None,
            title: "It failed".into(),
            sentences: vec!["So it is.".into()],
            links: vec![Link { text: "Machine a".into(), path: "/machines/a".into() }],
            labels: BTreeMap::from([("machine".into(), "a".into())]),
        };
        let text = serde_json::to_string(&notice).unwrap();
        assert_eq!(
            text,
            r#"{"id":"00000000-0000-0000-0000-000000000000","subject":"run:ffffffff-ffff-ffff-ffff-ffffffffffff","kind":"opened","at":"1970-01-01T00:00:00Z","event":"run.failed","severity":"error","machine":null,"title":"It failed","sentences":["So it is."],"links":[{"text":"Machine a","path":"/machines/a"}],"labels":{"machine":"a"}}"#
        );
        assert_eq!(serde_json::from_str::<Notice>(&text).unwrap(), notice);
    }

    #[test]
    fn a_subject_is_named_the_same_in_both_directions() {
        for subject in [
            Subject::Case(CaseId(uuid::Uuid::max())),
            Subject::Domain(IncidentId(uuid::Uuid::max())),
            Subject::Machine(MachineId(uuid::Uuid::max())),
            Subject::Run(RunId(uuid::Uuid::max())),
        ] {
            assert_eq!(subject.to_string().parse(), Ok(subject));
            assert!(subject.key(&"s".repeat(63)).len() <= 255);
        }
        for bad in ["", "run", "run:", "run:x", "rack:ffffffff-ffff-ffff-ffff-ffffffffffff"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }
}
