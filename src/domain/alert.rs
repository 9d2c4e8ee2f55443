//! Who is told of notices, and how telling them went.

use serde::{Deserialize, Serialize};

use crate::domain::id::{Name, TargetId};
use crate::domain::notice::{Notice, NoticeKind, Severity};
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

/// What a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// JSON signed as Standard Webhooks says.
    Webhook,
    Alertmanager,
    PagerDuty,
    ServiceNow,
    Jira,
    Slack,
    Roundup,
}
text_form!(TargetKind {
    Webhook = "webhook", Alertmanager = "alertmanager", PagerDuty = "pager_duty", ServiceNow = "service_now", Jira = "jira",
    Slack = "slack", Roundup = "roundup",
});

impl TargetKind {
    pub const ALL: [Self; 7] =
        [Self::Webhook, Self::Alertmanager, Self::PagerDuty, Self::ServiceNow, Self::Jira, Self::Slack, Self::Roundup];
}

/// What is not secret about a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSpec {
    pub kind: TargetKind,
    /// Where it listens: `https://tickets.example.com/tracker`.
    pub url: String,
    pub enabled: bool,
    /// Notices below this are not sent.
    #[serde(default = "info")]
    pub min_severity: Severity,
    /// Only events that begin with one of these; empty: all.
    #[serde(default)]
    pub events: Vec<String>,
    /// Networks (CIDR) that may be reached although they are private, loopback or link-local.
    #[serde(default)]
    pub allow_networks: Vec<String>,
    /// Who we log in as, where the target wants a name beside the secret.
    #[serde(default)]
    pub user: Option<String>,
    /// Jira's project key.
    #[serde(default)]
    pub project: Option<String>,
    /// Further fields of a ticket, sent as they are (ServiceNow and Jira instances have mandatory ones of their own).
    #[serde(default)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

fn info() -> Severity {
    Severity::Info
}

impl TargetSpec {
    /// Whether this notice is for the target. A `Closed` goes to whoever was told that it opened, whatever this says.
    pub fn wants(&self, notice: &Notice) -> bool {
        let event = self.events.is_empty() || self.events.iter().any(|e| notice.event.starts_with(e.as_str()));
        self.enabled && notice.kind != NoticeKind::Closed && event && notice.severity >= self.min_severity
    }
}

/// A target as it is stored, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub id: TargetId,
    pub rev: i64,
    pub name: Name,
    pub spec: TargetSpec,
    pub has_secret: bool,
    /// Until then messages are signed with the secret before as well.
    pub old_secret_until: Option<Timestamp>,
    pub created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// To be sent, now or later.
    Pending,
    Delivered,
    /// Given up: a person may send it again.
    Dead,
}
text_form!(DeliveryState { Pending = "pending", Delivered = "delivered", Dead = "dead" });
