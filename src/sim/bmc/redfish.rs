//! The Redfish front: service root, sessions, one system, its manager and chassis.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::clock;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::sim::bmc::{BootOverride, Reach, RedfishFront, Shared};

const SYSTEM: &str = "/redfish/v1/Systems/1";
const RESET: &str = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset";
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";
const RESET_TYPES: [(&str, PowerAction); 6] = [
    ("On", PowerAction::On),
    ("ForceOn", PowerAction::On),
    ("ForceOff", PowerAction::Off),
    ("GracefulShutdown", PowerAction::Soft),
    ("ForceRestart", PowerAction::Reset),
    ("PowerCycle", PowerAction::Cycle),
];
const TARGETS: [(&str, BootDevice); 2] = [("Pxe", BootDevice::Network), ("Hdd", BootDevice::Disk)];
/// A client that begins a TLS handshake has this long to end it.
const HANDSHAKE_CAP: Duration = Duration::from_secs(10);

pub struct Front {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    kind: RedfishFront,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    /// Tokens to session ids.
    sessions: Mutex<HashMap<String, u64>>,
    last_session: AtomicU64,
    /// Counts restarts; connections of an earlier one are dead.
    generation: AtomicU64,
    /// Changes with every write, part of the ETag.
    revision: AtomicU64,
}

impl Front {
    pub async fn start(shared: Arc<Shared>, kind: RedfishFront, tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let listener = TcpListener::bind((shared.setup.listen, 0)).await?;
        let addr = listener.local_addr()?;
        let inner = Arc::new(Inner {
            shared,
            kind,
            tls: Mutex::new(None),
            sessions: Mutex::default(),
            last_session: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            revision: AtomicU64::new(1),
        });
        let front = Self { addr, inner };
        if front.is_tls() {
            front.change_certificate()?;
        }
        // Connections that are ready to be served; the bound keeps a flood in the listener's backlog.
        let (ready, connections) = mpsc::channel(16);
        tasks.spawn(run_accept(listener, Arc::clone(&front.inner), ready));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&front.inner));
        tasks.spawn(async move {
            if let Err(error) = axum::serve(Ready { connections, addr }, app).await {
                tracing::warn!(%error, "A simulated Redfish front stopped");
            }
        });
        Ok(front)
    }

    pub fn is_tls(&self) -> bool {
        match self.inner.kind {
            RedfishFront::Https | RedfishFront::HttpsBasicOnly => true,
            RedfishFront::Http => false,
        }
    }

    pub fn open_sessions(&self) -> usize {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn restart(&self) {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.inner.generation.fetch_add(1, Ordering::Relaxed);
    }

    pub fn change_certificate(&self) -> io::Result<()> {
        let config = server_config(&self.addr.ip().to_string()).map_err(io::Error::other)?;
        *self.inner.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        self.restart();
        Ok(())
    }
}

fn server_config(name: &str) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    Ok(ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that dies with a restart of the BMC or when it becomes unreachable.
struct Gated {
    stream: TcpStream,
    inner: Arc<Inner>,
    generation: u64,
}

impl AsyncRead for Gated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.inner.shared.faults().reach {
            Reach::Normal if self.generation == self.inner.generation.load(Ordering::Relaxed) => {
                Pin::new(&mut self.stream).poll_read(cx, buf)
            }
            Reach::Normal | Reach::Dropped => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            // Never woken: the client's own timeout ends it.
            Reach::Silent => Poll::Pending,
        }
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type Connection = (Box<dyn Stream>, SocketAddr);

async fn run_accept(listener: TcpListener, inner: Arc<Inner>, ready: mpsc::Sender<Connection>) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    handshakes.spawn(shake(stream, peer, Arc::clone(&inner), ready.clone()));
                }
                // Out of descriptors: the backlog waits.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = handshakes.join_next() => {}
        }
    }
}

async fn shake(stream: TcpStream, peer: SocketAddr, inner: Arc<Inner>, ready: mpsc::Sender<Connection>) {
    match inner.shared.faults().reach {
        Reach::Normal => {}
        Reach::Dropped => return,
        Reach::Silent => pending().await,
    }
    let generation = inner.generation.load(Ordering::Relaxed);
    let tls = inner.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let gated = Gated { stream, inner, generation };
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(gated),
        Some(config) => match timeout(HANDSHAKE_CAP, TlsAcceptor::from(config).accept(gated)).await {
            Ok(Ok(stream)) => Box::new(stream),
            // The client did not like the certificate, or went away.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    if ready.send((stream, peer)).await.is_err() {
        tracing::debug!("A simulated BMC closed while a client connected");
    }
}

struct Ready {
    connections: mpsc::Receiver<Connection>,
    addr: SocketAddr,
}

impl axum::serve::Listener for Ready {
    type Io = Box<dyn Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.connections.recv().await {
            Some(connection) => connection,
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

fn reply(status: StatusCode, body: Value) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    response.headers_mut().insert("OData-Version", HeaderValue::from_static("4.0"));
    response
}

fn complain(status: StatusCode, id: &str, message: &str) -> Response {
    let info = json!([{"MessageId": format!("Base.1.12.{id}"), "Message": message, "Severity": "Critical", "Resolution": "None."}]);
    reply(
        status,
        json!({"error": {"code": "Base.1.12.GeneralError", "message": "A general error has occurred.", "@Message.ExtendedInfo": info}}),
    )
}

async fn answer(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let _in_flight = inner.shared.begin();
    let faults = inner.shared.faults();
    tokio::time::sleep(faults.delay).await;
    if inner.shared.spend(|f| &mut f.busy_answers) {
        return complain(StatusCode::SERVICE_UNAVAILABLE, "ServiceTemporarilyUnavailable", "The service is temporarily unavailable.");
    }
    let path = uri.path().trim_end_matches('/');
    if faults.nonsense && method == Method::GET {
        return reply(StatusCode::OK, json!({"Members": null, "Links": [], "Systems": "none", "PowerState": 7, "Boot": []}));
    }
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or(Value::Null) };
    // What is open without a login (DSP0266, section 13.4.1).
    match (&method, path) {
        (&Method::GET, "/redfish") => return reply(StatusCode::OK, json!({"v1": "/redfish/v1/"})),
        (&Method::GET, "/redfish/v1") => return reply(StatusCode::OK, inner.root()),
        (&Method::POST, SESSIONS) if inner.has_sessions() => return inner.log_in(&body),
        _ => {}
    }
    let Some(authority) = inner.authorise(&headers) else { return inner.unauthorized() };
    match (&method, path) {
        (&Method::GET, SYSTEM) => inner.system(),
        (&Method::PATCH, SYSTEM) => inner.patch_system(&headers, &body),
        (&Method::POST, RESET) => inner.reset(&body),
        (&Method::DELETE, path) if path.strip_prefix(SESSIONS).is_some_and(|rest| rest.starts_with('/')) => inner.log_out(path, &authority),
        (&Method::GET, path) => match inner.resource(path) {
            Some(resource) => reply(StatusCode::OK, resource),
            None => complain(StatusCode::NOT_FOUND, "ResourceMissingAtURI", &format!("The resource at the URI {path} was not found.")),
        },
        _ => complain(StatusCode::METHOD_NOT_ALLOWED, "OperationNotAllowed", "The HTTP method is not allowed on this resource."),
    }
}

fn collection(path: &str, kind: &str, members: &[&str]) -> Value {
    let members: Vec<Value> = members.iter().map(|m| json!({"@odata.id": m})).collect();
    json!({"@odata.id": path, "@odata.type": format!("#{kind}.{kind}"), "Name": kind, "Members@odata.count": members.len(), "Members": members})
}

/// How a request proved who sent it.
enum Authority {
    Session(String),
    Basic,
}

impl Inner {
    fn has_sessions(&self) -> bool {
        match self.kind {
            RedfishFront::Https | RedfishFront::Http => true,
            RedfishFront::HttpsBasicOnly => false,
        }
    }

    fn root(&self) -> Value {
        let mut root = json!({
            "@odata.id": "/redfish/v1/", "@odata.type": "#ServiceRoot.v1_11_0.ServiceRoot", "Id": "RootService", "Name": "Simulated BMC",
            "RedfishVersion": "1.11.0", "UUID": self.shared.chassis.identity().uuid,
            "Systems": {"@odata.id": "/redfish/v1/Systems"}, "Managers": {"@odata.id": "/redfish/v1/Managers"}, "Chassis": {"@odata.id": "/redfish/v1/Chassis"},
        });
        if let (true, Some(fields)) = (self.has_sessions(), root.as_object_mut()) {
            fields.insert("SessionService".into(), json!({"@odata.id": "/redfish/v1/SessionService"}));
            fields.insert("Links".into(), json!({"Sessions": {"@odata.id": SESSIONS}}));
        }
        root
    }

    fn resource(&self, path: &str) -> Option<Value> {
        let id = self.shared.chassis.identity();
        Some(match path {
            "/redfish/v1/Systems" => collection(path, "ComputerSystemCollection", &[SYSTEM]),
            "/redfish/v1/Managers" => collection(path, "ManagerCollection", &["/redfish/v1/Managers/1"]),
            "/redfish/v1/Managers/1" => json!({
                "@odata.id": path, "@odata.type": "#Manager.v1_11_0.Manager", "Id": "1", "Name": "Manager", "ManagerType": "BMC",
                "FirmwareVersion": id.bmc_firmware, "Status": {"State": "Enabled", "Health": "OK"},
                "Links": {"ManagerForServers": [{"@odata.id": SYSTEM}]},
            }),
            "/redfish/v1/Chassis" => collection(path, "ChassisCollection", &["/redfish/v1/Chassis/1"]),
            "/redfish/v1/Chassis/1" => json!({
                "@odata.id": path, "@odata.type": "#Chassis.v1_17_0.Chassis", "Id": "1", "Name": "Chassis", "ChassisType": "RackMount",
                "Manufacturer": id.manufacturer, "Model": id.model, "SerialNumber": id.serial, "PowerState": power_word(self.shared.chassis.power()),
                "Links": {"ComputerSystems": [{"@odata.id": SYSTEM}], "ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}]},
            }),
            "/redfish/v1/SessionService" if self.has_sessions() => json!({
                "@odata.id": path, "@odata.type": "#SessionService.v1_1_8.SessionService", "Id": "SessionService", "Name": "Sessions",
                "ServiceEnabled": true, "SessionTimeout": 1800, "Sessions": {"@odata.id": SESSIONS},
            }),
            SESSIONS if self.has_sessions() => {
                let ids: Vec<String> =
                    self.sessions.lock().unwrap_or_else(PoisonError::into_inner).values().map(|id| format!("{SESSIONS}/{id}")).collect();
                collection(path, "SessionCollection", &ids.iter().map(String::as_str).collect::<Vec<_>>())
            }
            _ => return None,
        })
    }

    fn unauthorized(&self) -> Response {
        complain(
            StatusCode::UNAUTHORIZED,
            "ResourceAtUriUnauthorized",
            "While accessing the resource, the service received an authorization error.",
        )
    }

    fn password_fits(&self, user: &str, password: &str) -> bool {
        let fits = !self.shared.is_locked() && user == self.shared.setup.user && password == self.shared.setup.password;
        if fits {
            self.shared.login_accepted()
        } else {
            self.shared.login_refused()
        }
        fits
    }

    fn authorise(&self, headers: &HeaderMap) -> Option<Authority> {
        if let Some(token) = headers.get("x-auth-token").and_then(|t| t.to_str().ok()) {
            let known = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).contains_key(token);
            return (known && !self.shared.spend(|f| &mut f.forgets_session)).then(|| Authority::Session(token.to_owned()));
        }
        let basic = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()?.strip_prefix("Basic "))?;
        let decoded = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(basic).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        self.password_fits(user, password).then_some(Authority::Basic)
    }

    fn log_in(&self, body: &Value) -> Response {
        let field = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        if !self.password_fits(field("UserName"), field("Password")) {
            return self.unauthorized();
        }
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= self.shared.setup.session_cap {
            return complain(
                StatusCode::SERVICE_UNAVAILABLE,
                "SessionLimitExceeded",
                "The session establishment failed due to the number of simultaneous sessions exceeding the limit.",
            );
        }
        let (token, id) = (clock::fresh_token(), self.last_session.fetch_add(1, Ordering::Relaxed) + 1);
        sessions.insert(token.clone(), id);
        let path = format!("{SESSIONS}/{id}");
        let mut response = reply(
            StatusCode::CREATED,
            json!({"@odata.id": path, "@odata.type": "#Session.v1_3_0.Session", "Id": id.to_string(), "Name": "Session", "UserName": field("UserName")}),
        );
        for (name, value) in [("x-auth-token", token), ("location", path)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// A session may end itself; basic authentication may end any.
    fn log_out(&self, path: &str, authority: &Authority) -> Response {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = path.rsplit('/').next().and_then(|id| id.parse::<u64>().ok());
        let allowed = |token: &str| match authority {
            Authority::Session(own) => own == token,
            Authority::Basic => true,
        };
        let token = sessions.iter().find(|(token, id)| Some(**id) == wanted && allowed(token)).map(|(token, _)| token.clone());
        match token.and_then(|t| sessions.remove(&t)) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => complain(StatusCode::NOT_FOUND, "ResourceMissingAtURI", "There is no such session."),
        }
    }

    fn etag(&self) -> String {
        format!("W/\"{}\"", self.revision.load(Ordering::Relaxed))
    }

    fn system(&self) -> Response {
        let id = self.shared.chassis.identity();
        let boot = self.shared.chassis.boot_override();
        let (target, enabled) = match boot {
            None => ("None", "Disabled"),
            Some(b) => (target_word(b.device), if b.once { "Once" } else { "Continuous" }),
        };
        let mode = boot.map_or("UEFI", |b| mode_word(b.firmware));
        let etag = self.etag();
        let mut response = reply(
            StatusCode::OK,
            json!({
                "@odata.id": SYSTEM, "@odata.type": "#ComputerSystem.v1_16_0.ComputerSystem", "@odata.etag": etag, "Id": "1", "Name": "System", "SystemType": "Physical",
                "Manufacturer": id.manufacturer, "Model": id.model, "SerialNumber": id.serial, "UUID": id.uuid, "AssetTag": id.asset_tag, "BiosVersion": id.bios_version,
                "PowerState": power_word(self.shared.chassis.power()),
                "Boot": {
                    "BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": target, "BootSourceOverrideMode": mode,
                    "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
                },
                "Links": {"ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}], "Chassis": [{"@odata.id": "/redfish/v1/Chassis/1"}]},
                "Actions": {"#ComputerSystem.Reset": {"target": RESET, "ResetType@Redfish.AllowableValues": RESET_TYPES.map(|(name, _)| name)}},
            }),
        );
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        response
    }

    fn patch_system(&self, headers: &HeaderMap, body: &Value) -> Response {
        match headers.get(header::IF_MATCH).and_then(|v| v.to_str().ok()) {
            Some(etag) if etag != "*" && etag.trim_start_matches("W/") != self.etag().trim_start_matches("W/") => {
                return complain(
                    StatusCode::PRECONDITION_FAILED,
                    "PreconditionFailed",
                    "The ETag supplied did not match the ETag required to change this resource.",
                );
            }
            None if self.shared.faults().demands_etag => {
                return complain(
                    StatusCode::PRECONDITION_REQUIRED,
                    "PreconditionRequired",
                    "A precondition header or annotation is required to change this resource.",
                );
            }
            Some(_) | None => {}
        }
        let Some(boot) = body.get("Boot").and_then(Value::as_object) else {
            return complain(StatusCode::BAD_REQUEST, "PropertyUnknown", "Only Boot can be changed.");
        };
        let field = |name: &str| boot.get(name).and_then(Value::as_str);
        let now = self.shared.chassis.boot_override();
        let firmware = match field("BootSourceOverrideMode") {
            Some("UEFI") => FirmwareKind::Uefi,
            Some("Legacy") => FirmwareKind::Bios,
            Some(other) => return value_not_in_list(other, "BootSourceOverrideMode"),
            None => now.map_or(FirmwareKind::Uefi, |b| b.firmware),
        };
        let once = match field("BootSourceOverrideEnabled") {
            Some("Once") | None => true,
            Some("Continuous") => false,
            Some("Disabled") => {
                self.shared.set_boot(None);
                self.revision.fetch_add(1, Ordering::Relaxed);
                return self.system();
            }
            Some(other) => return value_not_in_list(other, "BootSourceOverrideEnabled"),
        };
        let device = match field("BootSourceOverrideTarget") {
            Some("None") => None,
            Some(word) => match TARGETS.iter().find(|(name, _)| *name == word) {
                Some((_, device)) => Some(*device),
                None => return value_not_in_list(word, "BootSourceOverrideTarget"),
            },
            None => now.map(|b| b.device),
        };
        self.shared.set_boot(device.map(|device| BootOverride { device, firmware, once }));
        self.revision.fetch_add(1, Ordering::Relaxed);
        self.system()
    }

    fn reset(&self, body: &Value) -> Response {
        let wanted = body.get("ResetType").and_then(Value::as_str).unwrap_or_default();
        let Some((_, action)) = RESET_TYPES.iter().find(|(name, _)| *name == wanted) else {
            return value_not_in_list(wanted, "ResetType");
        };
        match self.shared.set_power(*action) {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(reason) => complain(StatusCode::CONFLICT, "OperationFailed", &reason),
        }
    }
}

fn value_not_in_list(value: &str, property: &str) -> Response {
    complain(
        StatusCode::BAD_REQUEST,
        "PropertyValueNotInList",
        &format!("The value {value} for the property {property} is not in the list of acceptable values."),
    )
}

fn power_word(state: PowerState) -> &'static str {
    match state {
        PowerState::On => "On",
        PowerState::Off => "Off",
        PowerState::Changing => "PoweringOn",
    }
}

fn mode_word(firmware: FirmwareKind) -> &'static str {
    match firmware {
        FirmwareKind::Bios => "Legacy",
        FirmwareKind::Uefi => "UEFI",
    }
}

fn target_word(device: BootDevice) -> &'static str {
    match device {
        BootDevice::Network => "Pxe",
        BootDevice::Disk => "Hdd",
    }
}
