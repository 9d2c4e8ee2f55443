//! `hostler sim replay`: a recorded Redfish tree served as a machine.
//!
//! It is a still picture that can be switched on and off: a reset changes `PowerState`, a PATCH of `Boot` the boot override,
//! sessions come and go. Everything else that writes is answered with 501.

pub mod recording;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use base64::Engine as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::sim::bmc::redfish::listen::{self, Gate, Tls};
use crate::sim::bmc::redfish::query::Query;
use crate::sim::bmc::redfish::reply::{self, Message, complain};
use crate::sim::bmc::redfish::sessions::Sessions;
use crate::sim::bmc::redfish::tree::{ROOT, Resource};
use crate::sim::bmc::{Account, Reach, Role};
use crate::sim::replay::recording::{Recording, RecordingError};

const SESSION_CAP: usize = 16;

#[derive(Args)]
pub struct ReplayArgs {
    /// Folder with a recorded tree (redfish/v1/**/index.json, **/index.json or _redfish_v1_*.json), or a .tar.gz of one
    #[arg(value_name = "DIR")]
    from: PathBuf,
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The account that logs in
    #[arg(long, default_value = "admin")]
    user: String,
    #[arg(long, default_value = "password")]
    password: String,
    /// HTTP instead of HTTPS with a self-signed certificate
    #[arg(long)]
    http: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error("cannot listen on {listen}: {source}")]
    Listen { listen: SocketAddr, source: io::Error },
}

/// A recorded tree being served. Dropping it ends that.
pub struct Replay {
    addr: SocketAddr,
    tls: bool,
    pub resources: usize,
    _tasks: JoinSet<()>,
}

/// How it is served.
#[derive(Clone, Debug)]
pub struct ReplaySetup {
    pub listen: SocketAddr,
    pub user: String,
    pub password: String,
    pub tls: bool,
}

struct Served {
    setup: ReplaySetup,
    tree: Mutex<Recording>,
    sessions: Mutex<Sessions>,
    /// Where sessions are made, as the recorded root says.
    session_path: String,
    /// Whether the recorded root offers `$expand` and `$select`.
    queries: bool,
}

struct Open;

impl Gate for Open {
    fn reach(&self) -> Reach {
        Reach::Normal
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// Serves until Ctrl-C.
///
/// # Errors
/// When the tree cannot be read or the address cannot be bound.
pub async fn run(args: &ReplayArgs) -> Result<(), ReplayError> {
    let recording = Recording::read(&args.from)?;
    for path in &recording.unreadable {
        eprintln!("hostler: {path} is no JSON object and answers 404");
    }
    let setup = ReplaySetup { listen: args.listen, user: args.user.clone(), password: args.password.clone(), tls: !args.http };
    let replay = Replay::start(recording, setup).await?;
    println!("{} resources at {}; user {}, password {}; Ctrl-C ends it.", replay.resources, replay.url(), args.user, args.password);
    tokio::signal::ctrl_c().await.map_err(|source| ReplayError::Listen { listen: args.listen, source })
}

impl Replay {
    /// Serves a recorded tree.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(recording: Recording, setup: ReplaySetup) -> Result<Self, ReplayError> {
        let fail = |source| ReplayError::Listen { listen: setup.listen, source };
        let listener = TcpListener::bind(setup.listen).await.map_err(fail)?;
        let addr = listener.local_addr().map_err(fail)?;
        let tls = Tls::default();
        if setup.tls {
            *tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(listen::server_config(&addr.ip().to_string()).map_err(fail)?);
        }
        let root = recording.get(ROOT).cloned().unwrap_or_default();
        let link = |path: &str| root.pointer(path).and_then(Value::as_str).map(|p| p.trim_end_matches('/').to_owned());
        let session_path = link("/Links/Sessions/@odata.id").unwrap_or_else(|| "/redfish/v1/SessionService/Sessions".to_owned());
        let queries = root.pointer("/ProtocolFeaturesSupported/ExpandQuery").is_some_and(Value::is_object);
        let (resources, is_tls) = (recording.resources.len(), setup.tls);
        let served = Served { setup, tree: Mutex::new(recording), sessions: Mutex::new(Sessions::new(SESSION_CAP)), session_path, queries };
        let app = Router::new().fallback(answer).with_state(Arc::new(served));
        let mut tasks = JoinSet::new();
        listen::serve(listener, addr, tls, Arc::new(Open), app, &mut tasks);
        Ok(Self { addr, tls: is_tls, resources, _tasks: tasks })
    }

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }
}

async fn answer(State(served): State<Arc<Served>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().trim_end_matches('/');
    let reads = method == Method::GET || method == Method::HEAD;
    if reads && path == "/redfish" {
        return reply::json_reply(StatusCode::OK, &json!({"v1": "/redfish/v1/"}));
    }
    let open = reads && (path == ROOT || path == "/redfish/v1/$metadata" || path == "/redfish/v1/odata");
    if method == Method::POST && path == served.session_path {
        return served.log_in(&body);
    }
    if !open && !served.knows(&headers) {
        let text = "While accessing the resource, the service received an authorization error.";
        let mut response = complain(StatusCode::UNAUTHORIZED, "ResourceAtUriUnauthorized", text);
        reply::set(&mut response, header::WWW_AUTHENTICATE.as_str(), "Basic realm=\"Redfish\"");
        return response;
    }
    if reads {
        return served.read(path, uri.query().unwrap_or_default(), &headers);
    }
    served.write(&method, path, &body)
}

impl Served {
    fn tree(&self) -> MutexGuard<'_, Recording> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        if let Some(token) = headers.get("x-auth-token") {
            return token.to_str().is_ok_and(|t| self.sessions().use_token(t).is_some());
        }
        let pair = headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok()?.strip_prefix("Basic "))
            .and_then(|v| base64::engine::general_purpose::STANDARD.decode(v).ok());
        pair.is_some_and(|p| p == format!("{}:{}", self.setup.user, self.setup.password).into_bytes())
    }

    fn log_in(&self, body: &[u8]) -> Response {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let is = |field: &str, want: &str| body.get(field).and_then(Value::as_str) == Some(want);
        if !is("UserName", &self.setup.user) || !is("Password", &self.setup.password) {
            return complain(StatusCode::UNAUTHORIZED, "ResourceAtUriUnauthorized", "Wrong user name or password.");
        }
        let account = Account::named(&self.setup.user, Role::Administrator);
        let Some((session, token)) = self.sessions().open(&account) else {
            return complain(StatusCode::SERVICE_UNAVAILABLE, "SessionLimitExceeded", "There are as many sessions as there can be.");
        };
        let path = format!("{}/{}", self.session_path, session.id);
        let body = json!({"@odata.id": path, "@odata.type": "#Session.v1_1_0.Session", "Id": session.id.to_string(), "Name": "User Session", "UserName": session.user});
        let mut response = reply::json_reply(StatusCode::CREATED, &body);
        reply::set(&mut response, "x-auth-token", &token);
        reply::set(&mut response, "location", &path);
        response
    }

    fn read(&self, path: &str, query: &str, headers: &HeaderMap) -> Response {
        let query = if self.queries {
            match Query::read(query, true) {
                Ok(query) => query.unpaged(),
                Err(refusal) => return *refusal,
            }
        } else {
            Query::default().unpaged()
        };
        let tree = self.tree();
        let find = |path: &str| tree.get(path.trim_end_matches('/')).cloned().map(Resource::read_only);
        let Some(resource) = find(path) else { return reply::not_found(path) };
        let resource = query.apply(resource, &find);
        // An ETag that was recorded stays; a body without one gets one that changes with it.
        let etag = resource.body.get("@odata.etag").and_then(Value::as_str).map_or_else(|| reply::etag(&resource.body), str::to_owned);
        let same = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|known| reply::names_etag(known, &etag));
        let mut response = if same {
            let mut response = reply::no_content();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            reply::json_reply(StatusCode::OK, &resource.body)
        };
        reply::set(&mut response, header::ETAG.as_str(), &etag);
        reply::set(&mut response, header::ALLOW.as_str(), resource.allow);
        response
    }

    fn write(&self, method: &Method, path: &str, body: &[u8]) -> Response {
        let body: Value = serde_json::from_slice(body).unwrap_or_else(|_| json!({}));
        if method == Method::DELETE
            && let Some(id) = path.strip_prefix(self.session_path.as_str()).and_then(|rest| rest.strip_prefix('/'))
        {
            let mut sessions = self.sessions();
            let Some(id) = sessions.find(id).map(|s| s.id) else { return reply::not_found(path) };
            sessions.close(id);
            return reply::no_content();
        }
        if method == Method::POST
            && let Some(system) = self.system_reset_by(path)
        {
            return self.reset(&system, &body);
        }
        if method == Method::PATCH {
            let is_system =
                self.tree().get(path).is_some_and(|b| b.get("Boot").is_some_and(Value::is_object) && b.get("PowerState").is_some());
            if is_system && body.as_object().is_some_and(|b| b.len() == 1 && b.contains_key("Boot")) {
                return self.set_boot(path, &body);
            }
        }
        complain(
            StatusCode::NOT_IMPLEMENTED,
            "ActionNotSupported",
            "This is a recording: it can be switched on and off and told what to boot.",
        )
    }

    /// The system whose reset action has this target.
    fn system_reset_by(&self, target: &str) -> Option<String> {
        let own = |body: &Value| {
            body.pointer("/Actions/#ComputerSystem.Reset/target").and_then(Value::as_str).map(|t| t.trim_end_matches('/') == target)
        };
        self.tree().resources.iter().find(|(_, body)| own(body) == Some(true)).map(|(path, _)| path.clone())
    }

    fn reset(&self, system: &str, body: &Value) -> Response {
        let wanted = body.get("ResetType").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut tree = self.tree();
        let Some(found) = tree.resources.get_mut(system) else { return reply::not_found(system) };
        let allowed = found.pointer("/Actions/#ComputerSystem.Reset/ResetType@Redfish.AllowableValues").and_then(Value::as_array);
        if allowed.is_some_and(|list| !list.iter().any(|v| v.as_str() == Some(wanted.as_str()))) {
            return reply::complaints(StatusCode::BAD_REQUEST, &[Message::not_in_list(&wanted, "ResetType")]);
        }
        let on = found.get("PowerState").and_then(Value::as_str) != Some("Off");
        let after = match wanted.as_str() {
            "On" | "ForceOn" => "On",
            "ForceOff" | "GracefulShutdown" => "Off",
            "PushPowerButton" => {
                if on {
                    "Off"
                } else {
                    "On"
                }
            }
            "ForceRestart" | "GracefulRestart" | "PowerCycle" | "FullPowerCycle" if on => "On",
            "Nmi" if on => "On",
            "ForceRestart" | "GracefulRestart" | "PowerCycle" | "FullPowerCycle" | "Nmi" => {
                return complain(StatusCode::CONFLICT, "ActionNotSupported", "The system is off.");
            }
            other => return reply::complaints(StatusCode::BAD_REQUEST, &[Message::not_in_list(other, "ResetType")]),
        };
        found["PowerState"] = json!(after);
        let chassis: Vec<String> = found
            .pointer("/Links/Chassis")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(|l| l.get("@odata.id")?.as_str().map(|p| p.trim_end_matches('/').to_owned())).collect())
            .unwrap_or_default();
        for path in chassis {
            if let Some(state) = tree.resources.get_mut(&path).and_then(|c| c.get_mut("PowerState")) {
                *state = json!(after);
            }
        }
        reply::no_content()
    }

    fn set_boot(&self, system: &str, body: &Value) -> Response {
        let mut tree = self.tree();
        let Some(boot) = tree.resources.get_mut(system).and_then(|s| s.get_mut("Boot")) else { return reply::not_found(system) };
        let wanted = body.get("Boot").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut wrong = Vec::new();
        for (name, value) in &wanted {
            let text = value.as_str().unwrap_or_default();
            let allowed = boot.get(format!("{name}@Redfish.AllowableValues")).and_then(Value::as_array);
            if !matches!(name.as_str(), "BootSourceOverrideTarget" | "BootSourceOverrideEnabled" | "BootSourceOverrideMode") {
                wrong.push(Message::not_writable(&format!("Boot/{name}")));
            } else if allowed.is_some_and(|list| !list.contains(value)) || text.is_empty() {
                wrong.push(Message::not_in_list(text, &format!("Boot/{name}")));
            }
        }
        if !wrong.is_empty() {
            return reply::complaints(StatusCode::BAD_REQUEST, &wrong);
        }
        if let Some(fields) = boot.as_object_mut() {
            fields.extend(wanted);
        }
        // The recorded ETag is of the recorded body.
        if let Some(fields) = tree.resources.get_mut(system).and_then(Value::as_object_mut) {
            fields.remove("@odata.etag");
        }
        drop(tree);
        self.read(system, "", &HeaderMap::new())
    }
}
