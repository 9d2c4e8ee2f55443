//! Events: a stream that is held open (SSE), and subscriptions that events are posted to.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use crate::clock;
use crate::domain::hardware_log::{LogDirection, LogSeverity};
use crate::domain::time::Timestamp;
use crate::sim::bmc::board::Happening;
use crate::sim::bmc::board::journal::Record;
use crate::sim::bmc::redfish::Inner;
use crate::sim::bmc::redfish::reply::{self, Message, complaints};
use crate::sim::bmc::redfish::tree::{self, READ, READ_DELETE, READ_POST, Resource, View};
use crate::sim::bmc::redfish::write::Patch;

pub const SSE: &str = "/redfish/v1/EventService/SSE";
pub const SUBSCRIPTIONS: &str = "/redfish/v1/EventService/Subscriptions";
pub const TEST_EVENT: &str = "/redfish/v1/EventService/Actions/EventService.SubmitTestEvent";
const SUBSCRIPTIONS_CAP: usize = 8;
/// Deliveries that are tried before a subscription is suspended (dell/iDRAC-Redfish-Scripting#370: 3).
const ATTEMPTS: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_millis(500);
const DELIVER_WITHIN: Duration = Duration::from_secs(5);
/// A quiet stream says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
struct Subscription {
    id: u64,
    context: String,
    /// `None` for a stream.
    destination: Option<String>,
    protocol: &'static str,
    event_types: Vec<String>,
    suspended: bool,
    /// Held for its end: dropping the last one with the subscription ends the stream.
    #[expect(dead_code, reason = "held, not used")]
    held: Option<Arc<watch::Sender<()>>>,
}

#[derive(Debug, Default)]
pub struct Subscriptions {
    list: Vec<Subscription>,
    last_id: u64,
}

impl Subscriptions {
    fn add(&mut self, mut subscription: Subscription) -> Option<u64> {
        if self.list.len() >= SUBSCRIPTIONS_CAP {
            return None;
        }
        self.last_id += 1;
        subscription.id = self.last_id;
        self.list.push(subscription);
        Some(self.last_id)
    }

    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.list.len();
        self.list.retain(|s| s.id.to_string() != id);
        self.list.len() < before
    }

    pub fn clear(&mut self) {
        self.list.clear();
    }

    fn suspend(&mut self, id: u64) {
        self.list.iter_mut().filter(|s| s.id == id).for_each(|s| s.suspended = true);
    }
}

/// Ends a stream's subscription with the connection.
struct Held {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.subscriptions().remove(&self.id.to_string());
    }
}

/// A client of the BMC's own: whatever certificate answers is good enough for it.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error only says that another thread was faster: its provider is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).tls_danger_accept_invalid_certs(true).build()
}

/// `GET` of the stream's URI.
pub fn stream(inner: &Arc<Inner>, query: &str) -> Response {
    if query.contains("$filter") {
        let text = "The service does not support the query parameter $filter.";
        return reply::complain(StatusCode::NOT_IMPLEMENTED, "QueryParameterUnsupported", text);
    }
    if !inner.shared.board().dialect.is_modern() {
        return reply::not_found(SSE);
    }
    let (gone, ended) = watch::channel(());
    let subscription = Subscription {
        id: 0,
        context: format!("stream-{}", &clock::fresh_token()[..8]),
        destination: None,
        protocol: "Redfish",
        event_types: Vec::new(),
        suspended: false,
        held: Some(Arc::new(gone)),
    };
    let context = subscription.context.clone();
    let Some(id) = inner.subscriptions().add(subscription) else {
        let text = "The service has as many event destinations as it can have.";
        return reply::complain(StatusCode::SERVICE_UNAVAILABLE, "CreateLimitReachedForResource", text);
    };
    let state = Stream {
        held: Held { inner: Arc::clone(inner), id },
        events: inner.shared.events.subscribe(),
        ended,
        context,
        next: 1,
        greeted: false,
    };
    inner.shared.wake.notify_one();
    let body = Body::from_stream(stream::unfold(state, |mut state| async move {
        let piece = state.piece().await?;
        Some((Ok::<Bytes, Infallible>(piece), state))
    }));
    let mut response = reply::text("text/event-stream", body);
    reply::set(&mut response, header::ALLOW.as_str(), READ);
    response
}

struct Stream {
    held: Held,
    events: broadcast::Receiver<Arc<Happening>>,
    ended: watch::Receiver<()>,
    context: String,
    next: u64,
    greeted: bool,
}

impl Stream {
    /// The next piece of the stream; `None` when its subscription was deleted.
    async fn piece(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some(Bytes::from_static(b": stream open\n\n"));
        }
        let happening = tokio::select! {
            event = self.events.recv() => match event {
                Ok(happening) => happening,
                // Too slow: what was missed is in the log.
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(Bytes::from_static(b": events were lost\n\n")),
                Err(broadcast::error::RecvError::Closed) => return None,
            },
            // Its sender is dropped with the subscription.
            _ = self.ended.changed() => return None,
            () = tokio::time::sleep(HEARTBEAT) => return Some(Bytes::from_static(b": still here\n\n")),
        };
        let id = self.next;
        self.next += 1;
        let event = event(&self.held.inner, id, &happening, &self.context);
        Some(Bytes::from(format!("id: {id}\ndata: {event}\n\n")))
    }
}

/// An `Event` resource with one record.
fn event(inner: &Inner, id: u64, happening: &Happening, context: &str) -> Value {
    let record = &happening.record;
    let dialect = inner.shared.board().dialect;
    let modern = dialect.is_modern();
    let entry = format!("{}/Entries/{}", dialect.log_path(happening.log), record.id);
    let mut one = json!({
        "MemberId": "0", "EventId": id.to_string(), "EventType": if modern { "Event" } else { "Alert" }, "EventTimestamp": tree::stamp(record.at),
        "Severity": tree::severity_word(record.severity), "Message": record.message, "MessageId": record.message_id, "MessageArgs": record.message_args,
    });
    let origin = record.origin.as_ref().filter(|o| !o.contains('#'));
    tree::put_some(&mut one, "OriginOfCondition", origin.map(|o| tree::link(o)));
    if modern && record.id > 0 {
        tree::put(&mut one, json!({"LogEntry": tree::link(&entry), "MessageSeverity": tree::severity_word(record.severity)}));
    }
    let kind = if modern { "#Event.v1_9_1.Event" } else { "#Event.v1_2_1.Event" };
    json!({"@odata.type": kind, "Id": id.to_string(), "Name": "Event", "Context": context, "Events": [one]})
}

/// Posts events to those who subscribed, for as long as the front lives.
pub async fn run_delivery(inner: Arc<Inner>) {
    let mut number = 0;
    loop {
        // A receiver makes the keeper look at the board: only while somebody wants to be told.
        while !inner.wants_posts() {
            inner.subscribed.notified().await;
        }
        let mut events = inner.shared.events.subscribe();
        inner.shared.wake.notify_one();
        while inner.wants_posts() {
            let happening = match tokio::time::timeout(HEARTBEAT, events.recv()).await {
                Ok(Ok(happening)) => happening,
                Ok(Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => continue,
                Ok(Err(broadcast::error::RecvError::Closed)) => return,
            };
            number += 1;
            post_all(&inner, number, &happening).await;
        }
    }
}

async fn post_all(inner: &Arc<Inner>, number: u64, happening: &Happening) {
    let targets: Vec<Subscription> = inner.subscriptions().list.iter().filter(|s| !s.suspended).cloned().collect();
    let client = match http_client() {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "A simulated BMC cannot post events");
            return;
        }
    };
    for subscription in targets {
        let Some(destination) = &subscription.destination else { continue };
        let body = event(inner, number, happening, &subscription.context);
        let mut delivered = false;
        for attempt in 0..ATTEMPTS {
            let sent = client.post(destination).json(&body).timeout(DELIVER_WITHIN).send().await;
            delivered = sent.is_ok_and(|answer| answer.status().is_success());
            if delivered || attempt + 1 == ATTEMPTS {
                break;
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        if !delivered {
            inner.subscriptions().suspend(subscription.id);
        }
    }
}

impl Inner {
    fn wants_posts(&self) -> bool {
        self.subscriptions().list.iter().any(|s| s.destination.is_some() && !s.suspended)
    }

    pub fn event_part(&self, view: &View<'_>, path: &str) -> Option<Resource> {
        let modern = view.board.dialect.is_modern();
        match path.strip_prefix("/redfish/v1/EventService")? {
            "" => {
                let mut body = view.resource(
                    path,
                    "EventService",
                    "EventService",
                    "Event Service",
                    json!({
                        "ServiceEnabled": true, "Status": {"State": "Enabled", "Health": "OK"},
                        "DeliveryRetryAttempts": ATTEMPTS, "DeliveryRetryIntervalSeconds": 1,
                        "Subscriptions": tree::link(SUBSCRIPTIONS),
                        "Actions": {"#EventService.SubmitTestEvent": {"target": TEST_EVENT}},
                    }),
                );
                if modern {
                    tree::put(
                        &mut body,
                        json!({
                            "ServerSentEventUri": SSE, "EventFormatTypes": ["Event"], "RegistryPrefixes": ["Base", "ResourceEvent", "SensorEvent", "Update"],
                            "ResourceTypes": ["Chassis", "ComputerSystem", "Manager", "Sensor", "SoftwareInventory"],
                        }),
                    );
                } else {
                    tree::put(&mut body, json!({"EventTypesForSubscription": ["Alert"]}));
                }
                Some(Resource { body, allow: READ })
            }
            "/Subscriptions" => {
                let members = self.subscriptions().list.iter().map(|s| format!("{SUBSCRIPTIONS}/{}", s.id)).collect();
                Some(Resource { body: tree::collection(path, "EventDestination", members), allow: READ_POST })
            }
            rest => {
                let id = rest.strip_prefix("/Subscriptions/")?;
                let subscription = self.subscriptions().list.iter().find(|s| s.id.to_string() == id)?.clone();
                Some(Resource { body: destination(view, path, &subscription), allow: READ_DELETE })
            }
        }
    }

    /// POST to the collection.
    pub fn subscribe(&self, json: Value) -> Response {
        let mut patch = Patch::new(json);
        let (destination, context, protocol) = (patch.text("Destination"), patch.text("Context"), patch.text("Protocol"));
        let event_types = patch.value("EventTypes").and_then(|v| serde_json::from_value::<Vec<String>>(v).ok()).unwrap_or_default();
        for field in [
            "Name",
            "SubscriptionType",
            "EventFormatType",
            "RegistryPrefixes",
            "ResourceTypes",
            "Severities",
            "DeliveryRetryPolicy",
            "HttpHeaders",
            "MessageIds",
            "OriginResources",
            "SubordinateResources",
            "SendHeartbeat",
            "HeartbeatIntervalMinutes",
            "VerifyCertificate",
        ] {
            patch.value(field);
        }
        let mut wrong = patch.rest();
        let Some(destination) = destination else {
            return complaints(StatusCode::BAD_REQUEST, &[Message::missing("Destination")]);
        };
        if !destination.starts_with("http://") && !destination.starts_with("https://") {
            wrong.push(Message::bad_value(&destination.chars().take(200).collect::<String>(), "Destination"));
        }
        match protocol.as_deref() {
            Some("Redfish") => {}
            Some(other) => wrong.push(Message::not_in_list(other, "Protocol")),
            None => wrong.push(Message::missing("Protocol")),
        }
        if !wrong.is_empty() {
            return complaints(StatusCode::BAD_REQUEST, &wrong);
        }
        let subscription = Subscription {
            id: 0,
            context: context.unwrap_or_default(),
            destination: Some(destination),
            protocol: "Redfish",
            event_types,
            suspended: false,
            held: None,
        };
        let Some(id) = self.subscriptions().add(subscription) else {
            let text = "The service has as many event destinations as it can have.";
            return reply::complain(StatusCode::BAD_REQUEST, "CreateLimitReachedForResource", text);
        };
        self.subscribed.notify_one();
        let path = format!("{SUBSCRIPTIONS}/{id}");
        let body = self.with_view(|view| self.event_part(view, &path).map(|r| r.body)).unwrap_or_default();
        let mut response = reply::json_reply(StatusCode::CREATED, &body);
        reply::set(&mut response, header::LOCATION.as_str(), &path);
        response
    }

    pub fn test_event(&self, json: Value) -> Response {
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        let record = Record {
            id: 0,
            at: text("EventTimestamp").and_then(|t| t.parse::<Timestamp>().ok()).unwrap_or_else(clock::now),
            severity: LogSeverity::Info,
            direction: LogDirection::Said,
            message: text("Message").unwrap_or_else(|| "This is a test event.".into()),
            message_id: text("MessageId").unwrap_or_else(|| "Base.1.17.Success".into()),
            message_args: Vec::new(),
            ipmi: None,
            origin: None,
        };
        let log = self.shared.board().dialect.host_log;
        // An error only says that nobody listens.
        drop(self.shared.events.send(Arc::new(Happening { log, record })));
        reply::no_content()
    }
}

fn destination(view: &View<'_>, path: &str, s: &Subscription) -> Value {
    let modern = view.board.dialect.is_modern();
    let mut body = view.resource(
        path,
        "EventDestination",
        &s.id.to_string(),
        "Event Destination",
        json!({
            "Context": s.context, "Protocol": s.protocol, "Destination": s.destination,
        }),
    );
    if modern {
        tree::put(
            &mut body,
            json!({
                "SubscriptionType": if s.destination.is_some() { "RedfishEvent" } else { "SSE" }, "EventFormatType": "Event",
                "Status": {"State": if s.suspended { "Disabled" } else { "Enabled" }},
            }),
        );
    } else {
        tree::put(
            &mut body,
            json!({"SubscriptionType": "RedfishEvent", "EventTypes": if s.event_types.is_empty() { vec!["Alert".to_owned()] } else { s.event_types.clone() }}),
        );
    }
    body
}
