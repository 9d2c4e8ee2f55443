//! From a request to its answer: faults first, then who asks, then what is asked.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use futures_util::stream;
use serde_json::{Value, json};

use crate::clock;
use crate::sim::bmc::accounts::{Account, Privilege};
use crate::sim::bmc::redfish::query::Query;
use crate::sim::bmc::redfish::reply::{self, complain, not_allowed, not_found};
use crate::sim::bmc::redfish::sessions::{SESSIONS, Session};
use crate::sim::bmc::redfish::tree::{self, METADATA, Resource, View};
use crate::sim::bmc::redfish::{Inner, events};

/// Half an answer is on its way after this long.
const FLUSH: std::time::Duration = std::time::Duration::from_millis(50);

/// Who sent a request.
pub struct Actor {
    pub account: Account,
    /// `None` with basic authentication.
    pub session: Option<Session>,
}

/// What a write is made of.
pub struct Request<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub raw: Bytes,
    pub actor: &'a Actor,
}

impl Request<'_> {
    /// The body as JSON; `Err` is the answer to a body that is none.
    pub fn json(&self) -> Result<Value, Box<Response>> {
        if self.raw.is_empty() {
            return Ok(json!({}));
        }
        let malformed = || {
            complain(
                StatusCode::BAD_REQUEST,
                "MalformedJSON",
                "The request body submitted was malformed JSON and could not be parsed by the receiving service.",
            )
        };
        match serde_json::from_slice::<Value>(&self.raw) {
            Ok(body) if body.is_object() => Ok(body),
            Ok(_) | Err(_) => Err(Box::new(malformed())),
        }
    }
}

pub async fn answer(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let _in_flight = inner.shared.begin();
    let faults = inner.shared.faults();
    tokio::time::sleep(faults.delay).await;
    if inner.shared.spend(|f| &mut f.busy_answers) {
        let text = "The service is temporarily unavailable. Retry in 1 seconds.";
        let mut response = complain(StatusCode::SERVICE_UNAVAILABLE, "ServiceTemporarilyUnavailable", text);
        reply::set(&mut response, header::RETRY_AFTER.as_str(), "1");
        return response;
    }
    if faults.nonsense && method == Method::GET {
        return reply::json_reply(StatusCode::OK, &json!({"Members": null, "Links": [], "Systems": "none", "PowerState": 7, "Boot": []}));
    }
    if inner.shared.spend(|f| &mut f.web_pages) {
        return ([(header::CONTENT_TYPE, "text/html")], "<html><body><h1>Please wait</h1></body></html>").into_response();
    }
    let cut = inner.shared.spend(|f| &mut f.cut_answers);
    let response = honest_answer(&inner, &method, &uri, &headers, body).await;
    if cut { cut_short(response).await } else { response }
}

/// The connection ends in the middle of the body.
async fn cut_short(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let whole = axum::body::to_bytes(body, super::BODY_CAP).await.unwrap_or_default();
    let half = whole.slice(..whole.len() / 2);
    let pieces = stream::unfold(Some(half), |left| async move {
        match left {
            Some(half) if !half.is_empty() => Some((Ok(half), None)),
            Some(_) | None => {
                // What was written so far goes out first.
                tokio::time::sleep(FLUSH).await;
                Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None))
            }
        }
    });
    Response::from_parts(parts, axum::body::Body::from_stream(pieces))
}

async fn honest_answer(inner: &Arc<Inner>, method: &Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response {
    let path = uri.path().trim_end_matches('/');
    let reads = method == Method::GET || method == Method::HEAD;
    if ![Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::PUT, Method::DELETE].contains(method) {
        return complain(StatusCode::NOT_IMPLEMENTED, "OperationNotAllowed", "The service does not implement this HTTP method.");
    }
    if headers.get("OData-Version").is_some_and(|v| v != "4.0") {
        return complain(StatusCode::PRECONDITION_FAILED, "HeaderInvalid", "The service speaks OData version 4.0 only.");
    }
    // What is open without a login (DSP0266, section 13.4.1). A bad login is refused even there.
    let actor = match inner.authorise(headers) {
        Ok(actor) => actor,
        Err(()) => return inner.unauthorized(),
    };
    if reads {
        match path {
            "/redfish" => return with_allow(reply::json_reply(StatusCode::OK, &json!({"v1": "/redfish/v1/"}))),
            "/redfish/v1" => return inner.read(path, uri.query().unwrap_or_default(), headers),
            "/redfish/v1/odata" => {
                let document = inner.with_view(tree::odata);
                return with_allow(reply::json_reply(StatusCode::OK, &document));
            }
            METADATA => {
                let generation = inner.shared.board().dialect.generation;
                return with_allow(reply::text("application/xml", tree::metadata(generation)));
            }
            _ => {}
        }
    }
    if method == Method::POST && (path == SESSIONS || path == "/redfish/v1/SessionService/Sessions/Members") && inner.has_sessions() {
        return inner.log_in(&body);
    }
    let Some(actor) = actor else { return inner.unauthorized() };
    let request = Request { method, path, headers, raw: body, actor: &actor };
    if let Some(refusal) = inner.privilege_missing(&request) {
        return refusal;
    }
    if reads && path == events::SSE {
        return events::stream(inner, uri.query().unwrap_or_default());
    }
    if reads {
        return inner.read(path, uri.query().unwrap_or_default(), headers);
    }
    inner.write(request).await
}

fn with_allow(mut response: Response) -> Response {
    reply::set(&mut response, header::ALLOW.as_str(), tree::READ);
    response
}

impl Inner {
    /// The tree as it is now.
    pub fn with_view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let identity = self.shared.chassis.identity();
        let (host, boot) = (self.shared.host(), self.shared.chassis.boot_override());
        let board = self.shared.board();
        look(&View {
            board: &board,
            identity: &identity,
            host,
            now: clock::now(),
            boot,
            sessions: self.has_sessions(),
            port: self.port,
            tls: self.is_tls(),
        })
    }

    /// Any resource: the board's or the front's own.
    pub fn find(&self, view: &View<'_>, path: &str) -> Option<Resource> {
        self.service_part(view, path).or_else(|| view.find(path))
    }

    pub fn read(&self, path: &str, query: &str, headers: &HeaderMap) -> Response {
        let found = self.with_view(|view| {
            let query = Query::read(query, view.board.dialect.is_modern())?;
            let Some(resource) = self.find(view, path) else {
                return self.read_monitor(view, path).ok_or_else(|| Box::new(not_found(path))).map(Err);
            };
            Ok(Ok(query.apply(resource, &|p| self.find(view, p.trim_end_matches('/')))))
        });
        let response = match found {
            Ok(Ok(resource)) => reply::resource(resource),
            Ok(Err(monitor)) => return monitor,
            Err(refusal) => return *refusal,
        };
        let etag = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) {
            Some(known) if reply::names_etag(known, etag) => {
                let mut same = StatusCode::NOT_MODIFIED.into_response();
                reply::set(&mut same, header::ETAG.as_str(), etag);
                same
            }
            Some(_) | None => response,
        }
    }

    /// A task monitor answers 202 with the task while it runs, and 404 afterwards (DSP0266, section 12.2).
    fn read_monitor(&self, view: &View<'_>, path: &str) -> Option<Response> {
        let id = path.strip_prefix("/redfish/v1/TaskService/TaskMonitors/")?;
        let update = view.board.updates.iter().find(|u| u.id.to_string() == id && !u.stage.is_over())?;
        let mut response = reply::json_reply(StatusCode::ACCEPTED, &view.task(update));
        reply::set(&mut response, header::LOCATION.as_str(), path);
        reply::set(&mut response, header::RETRY_AFTER.as_str(), "2");
        Some(response)
    }

    pub fn unauthorized(&self) -> Response {
        let text = "While accessing the resource, the service received an authorization error.";
        let mut response = complain(StatusCode::UNAUTHORIZED, "ResourceAtUriUnauthorized", text);
        reply::set(&mut response, header::WWW_AUTHENTICATE.as_str(), "Basic realm=\"Redfish\"");
        response
    }

    /// Who sends it, `None` without credentials, `Err` with wrong ones.
    fn authorise(&self, headers: &HeaderMap) -> Result<Option<Actor>, ()> {
        if let Some(token) = headers.get("x-auth-token") {
            let session = token.to_str().ok().and_then(|t| self.sessions().use_token(t)).ok_or(())?;
            if self.shared.spend(|f| &mut f.forgets_session) {
                return Err(());
            }
            let account = self.shared.accounts().list.iter().find(|a| a.id == session.account && a.enabled).cloned().ok_or(())?;
            return Ok(Some(Actor { account, session: Some(session) }));
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let pair = value
            .to_str()
            .ok()
            .and_then(|v| v.strip_prefix("Basic "))
            .and_then(|v| base64::engine::general_purpose::STANDARD.decode(v).ok())
            .and_then(|v| String::from_utf8(v).ok())
            .ok_or(())?;
        let (user, password) = pair.split_once(':').ok_or(())?;
        let account = self.shared.log_in(user, password).ok_or(())?;
        Ok(Some(Actor { account, session: None }))
    }

    /// 403 for who may not do this (DSP0266, section 13.3).
    fn privilege_missing(&self, request: &Request<'_>) -> Option<Response> {
        let account = &request.actor.account;
        let own = format!("{}/{}", super::accounts::ACCOUNTS, account.id);
        let reads = request.method == Method::GET || request.method == Method::HEAD;
        if account.must_change && !(request.path == own && (reads || request.method == Method::PATCH)) {
            let text = format!(
                "The password provided for this account must be changed before access is granted. PATCH the Password property at {own}."
            );
            return Some(complain(StatusCode::FORBIDDEN, "PasswordChangeRequired", &text));
        }
        let own_session = request.actor.session.as_ref().is_some_and(|s| request.path == format!("{SESSIONS}/{}", s.id));
        let needed = match request.path {
            _ if reads => Privilege::Login,
            path if path == own && request.method == Method::PATCH => Privilege::ConfigureSelf,
            _ if own_session => Privilege::ConfigureSelf,
            path if path.starts_with("/redfish/v1/AccountService") => Privilege::ConfigureUsers,
            path if path.starts_with("/redfish/v1/SessionService") || path.starts_with("/redfish/v1/EventService") => {
                Privilege::ConfigureManager
            }
            path if path.starts_with("/redfish/v1/Managers") => Privilege::ConfigureManager,
            _ => Privilege::ConfigureComponents,
        };
        (!account.role.may(needed)).then(|| {
            complain(StatusCode::FORBIDDEN, "InsufficientPrivilege", "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.")
        })
    }

    fn log_in(&self, body: &[u8]) -> Response {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let field = |name: &str| body.get(name).and_then(Value::as_str);
        let (Some(user), Some(password)) = (field("UserName"), field("Password")) else {
            let missing = if field("UserName").is_none() { "UserName" } else { "Password" };
            return reply::complaints(StatusCode::BAD_REQUEST, &[reply::Message::missing(missing)]);
        };
        let Some(account) = self.shared.log_in(user, password) else { return self.unauthorized() };
        let opened = if self.shared.faults().sessions_full { None } else { self.sessions().open(&account) };
        let Some((session, token)) = opened else {
            let text =
                "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.";
            return complain(StatusCode::SERVICE_UNAVAILABLE, "SessionLimitExceeded", text);
        };
        let path = format!("{SESSIONS}/{}", session.id);
        let mut body = self.with_view(|view| session_body(view, &session));
        if account.must_change {
            let text = format!(
                "The password provided for this account must be changed before access is granted. PATCH the Password property at {}/{}.",
                super::accounts::ACCOUNTS,
                account.id
            );
            tree::put(&mut body, json!({"@Message.ExtendedInfo": [reply::Message::new("PasswordChangeRequired", text).json()]}));
        }
        let mut response = reply::json_reply(StatusCode::CREATED, &body);
        reply::set(&mut response, "x-auth-token", &token);
        reply::set(&mut response, header::LOCATION.as_str(), &path);
        response
    }

    /// The service resources that the front itself has.
    fn service_part(&self, view: &View<'_>, path: &str) -> Option<Resource> {
        self.account_part(view, path).or_else(|| self.event_part(view, path)).or_else(|| self.session_part(view, path))
    }

    fn session_part(&self, view: &View<'_>, path: &str) -> Option<Resource> {
        if !self.has_sessions() {
            return None;
        }
        let sessions = self.sessions();
        match path {
            "/redfish/v1/SessionService" => Some(Resource {
                body: view.resource(
                    path,
                    "SessionService",
                    "SessionService",
                    "Session Service",
                    json!({
                        "ServiceEnabled": true, "Status": {"State": "Enabled", "Health": "OK"}, "SessionTimeout": sessions.idle.as_secs(),
                        "Sessions": tree::link(SESSIONS),
                    }),
                ),
                allow: tree::READ_PATCH,
            }),
            SESSIONS => {
                let members = sessions.ids().map(|id| format!("{SESSIONS}/{id}")).collect();
                Some(Resource { body: tree::collection(path, "Session", members), allow: tree::READ_POST })
            }
            _ => {
                let session = sessions.find(path.strip_prefix(SESSIONS)?.strip_prefix('/')?)?;
                Some(Resource { body: session_body(view, session), allow: tree::READ_DELETE })
            }
        }
    }

    /// 405 or 404 for a write that nothing takes.
    pub fn refuse_method(&self, path: &str) -> Response {
        match self.with_view(|view| self.find(view, path).map(|r| r.allow)) {
            Some(allow) => not_allowed(allow),
            None => not_found(path),
        }
    }
}

fn session_body(view: &View<'_>, session: &Session) -> Value {
    let id = session.id.to_string();
    let mut body = view.resource(&format!("{SESSIONS}/{id}"), "Session", &id, "User Session", json!({"UserName": session.user}));
    if view.board.dialect.is_modern() {
        tree::put(&mut body, json!({"SessionType": "Redfish"}));
    }
    body
}
