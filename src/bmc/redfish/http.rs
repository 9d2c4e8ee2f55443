//! HTTP to one BMC: one origin, one session, one pinned key, capped answers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, IF_MATCH, LOCATION, RETRY_AFTER};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::bmc::limit::Pace;
use crate::bmc::redfish::login::Login;
use crate::bmc::redfish::pin::Pin;
use crate::bmc::redfish::view::{self, Complaint, NOT_NOW};
use crate::bmc::{BmcAccess, BmcError, Timing};
use crate::domain::id::Sha256;
use crate::domain::secret::Secret;

/// Largest answer read. A full ComputerSystem is 16 KiB (iDRAC 9); registries reach 3 MiB.
const BODY_CAP: usize = 8 << 20;
/// Redirects followed for one request, same origin only (sushy-tools sends 307 from a system's name to its UUID).
const REDIRECT_CAP: usize = 3;
/// Pauses before a read is asked again after a dropped connection, a timeout or a 503. Sum: 2.5 s.
/// Writes and logins are never repeated here: accepted once may have meant done.
const READ_PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// Longest `Retry-After` obeyed within a call; a longer one ends the call as busy.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(5);
const ROOT: &str = "/redfish/v1/";

/// An answer with a good status, or the one refused.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// `Null` for an empty body.
    pub body: Value,
    /// Length of the body as it came.
    pub bytes: usize,
}

impl Reply {
    pub fn etag(&self) -> Option<String> {
        let header = self.headers.get(reqwest::header::ETAG).and_then(|v| v.to_str().ok());
        header.or_else(|| self.body.get("@odata.etag").and_then(Value::as_str)).filter(|e| !e.is_empty()).map(str::to_owned)
    }

    pub fn complaint(&self) -> Complaint {
        view::complaint(&self.body)
    }
}

/// One connection pool and one login.
pub struct Http {
    client: reqwest::Client,
    base: Url,
    pub(super) address: String,
    pub(super) user: String,
    pub(super) password: Secret<String>,
    pin: Option<Arc<Pin>>,
    timing: Timing,
    pub(super) login: Mutex<Option<Login>>,
    proven: AtomicBool,
    /// One login at a time: the second waits and uses the first one's session.
    pub(super) login_turn: Semaphore,
    pace: Arc<Pace>,
    root: Mutex<Option<Arc<Value>>>,
    /// The only member of `Systems`, once found.
    only_system: Mutex<Option<String>>,
    expand: Mutex<Expand>,
}

/// Whether collections are sent with their members' contents. Kept as long as the service is: seen on recorded trees and
/// old firmware, offers of it that are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expand {
    Untried,
    Works,
    Useless,
}

/// What a request carries.
pub enum Body<'a> {
    None,
    Json(&'a Value),
    File(&'a Path),
    Update { parameters: &'a Value, file: &'a Path, name: &'a str },
}

impl Http {
    pub fn new(access: &BmcAccess, timing: Timing, pace: Arc<Pace>) -> Result<Self, BmcError> {
        let a = &access.address;
        let address = a.to_string();
        let host = if a.host.contains(':') { format!("[{}]", a.host) } else { a.host.clone() };
        let scheme = if a.tls { "https" } else { "http" };
        let port = a.port.map(|p| format!(":{p}")).unwrap_or_default();
        let unusable = |why: String| BmcError::Unreachable { address: address.clone(), why };
        let base = Url::parse(&format!("{scheme}://{host}{port}/")).map_err(|e| unusable(e.to_string()))?;
        let pin = a.tls.then(|| Pin::new(access.tls_pin));
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(timing.connect)
            .timeout(timing.request)
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(20))
            .user_agent(concat!("hostler/", env!("CARGO_PKG_VERSION")));
        // Plain http has no use for TLS, but a client without any TLS settings would look for a default provider.
        let tls = pin.clone().unwrap_or_else(|| Pin::new(None)).tls_config().map_err(|e| unusable(e.to_string()))?;
        builder = builder.tls_backend_preconfigured(tls);
        let client = builder.build().map_err(|e| unusable(chain(&e)))?;
        Ok(Self {
            client,
            base,
            address,
            user: access.user.clone(),
            password: access.password.clone(),
            pin,
            timing,
            login: Mutex::default(),
            proven: AtomicBool::new(false),
            login_turn: Semaphore::new(1),
            pace,
            root: Mutex::default(),
            only_system: Mutex::default(),
            expand: Mutex::new(Expand::Untried),
        })
    }

    pub fn only_system(&self) -> Option<String> {
        self.only_system.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_only_system(&self, path: Option<String>) {
        *self.only_system.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pin(&self) -> Option<Sha256> {
        self.pin.as_ref().and_then(|p| p.key())
    }

    /// Whether a login has worked on this connection.
    pub fn is_logged_in(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    pub fn nonsense(&self, what: impl Into<String>) -> BmcError {
        BmcError::Nonsense { address: self.address.clone(), what: what.into() }
    }

    pub fn refused(&self, reason: impl Into<String>) -> BmcError {
        BmcError::Refused { address: self.address.clone(), reason: reason.into() }
    }

    pub fn unsupported(&self, what: impl Into<String>) -> BmcError {
        BmcError::Unsupported { address: self.address.clone(), what: what.into() }
    }

    pub fn busy(&self, reason: impl Into<String>) -> BmcError {
        BmcError::Busy { address: self.address.clone(), reason: reason.into() }
    }

    /// The service root, asked once and without a login (DSP0266, section 13.4.1: it is open). This first contact also
    /// shows the certificate before any password is sent.
    pub async fn root(&self) -> Result<Arc<Value>, BmcError> {
        if let Some(root) = self.root.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(root);
        }
        let reply = self.read(ROOT, None).await?;
        let reply = match reply.status {
            StatusCode::UNAUTHORIZED if !self.user.is_empty() => {
                // Not as the standard wants it: the root itself asks for a password, so there is no session link yet.
                let reply = self.read(ROOT, Some(&Login::Basic)).await?;
                if !reply.status.is_success() {
                    return Err(self.failed(ROOT, &reply));
                }
                self.set_login(Some(Login::Basic));
                reply
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                return Err(self.unsupported(format!("Redfish (it answers {} at {ROOT})", reply.status.as_u16())));
            }
            status if status.is_success() => reply,
            _ => return Err(self.failed(ROOT, &reply)),
        };
        if !reply.body.is_object() {
            return Err(self.nonsense("a Redfish service root that is not an object"));
        }
        let root = Arc::new(reply.body);
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&root));
        Ok(root)
    }

    /// Reads a resource; any status but success is an error.
    pub async fn get(&self, path: &str) -> Result<Reply, BmcError> {
        let reply = self.authorised(Method::GET, path, Body::None, None).await?;
        if reply.status.is_success() { Ok(reply) } else { Err(self.failed(path, &reply)) }
    }

    /// Reads a resource whatever the status; 401 is handled here.
    pub async fn get_any(&self, path: &str) -> Result<Reply, BmcError> {
        self.authorised(Method::GET, path, Body::None, None).await
    }

    /// The query that asks for a collection with its members' contents (DSP0266, 7.3.2), where the root offers one that has
    /// not failed to work.
    pub async fn expand(&self) -> Result<Option<&'static str>, BmcError> {
        if *self.expand.lock().unwrap_or_else(PoisonError::into_inner) == Expand::Useless {
            return Ok(None);
        }
        let root = self.root().await?;
        let offered = |name: &str| root.pointer(&format!("/ProtocolFeaturesSupported/ExpandQuery/{name}")) == Some(&Value::Bool(true));
        Ok(match (offered("NoLinks"), offered("ExpandAll"), offered("Levels")) {
            (true, _, true) => Some("?$expand=.($levels=1)"),
            (true, _, false) => Some("?$expand=."),
            (false, true, true) => Some("?$expand=*($levels=1)"),
            (false, true, false) => Some("?$expand=*"),
            (false, false, _) => None,
        })
    }

    /// Notes what came of a question with [`Http::expand`]. An empty collection proves nothing; one that worked once is not
    /// given up for one that did not.
    pub fn expand_seen(&self, worked: bool, empty: bool) {
        let mut expand = self.expand.lock().unwrap_or_else(PoisonError::into_inner);
        match (*expand, worked) {
            (_, _) if empty => {}
            (_, true) => *expand = Expand::Works,
            (Expand::Untried, false) => *expand = Expand::Useless,
            (Expand::Works | Expand::Useless, false) => {}
        }
    }

    /// Whether collections were seen to come with their members' contents.
    pub fn expand_works(&self) -> bool {
        *self.expand.lock().unwrap_or_else(PoisonError::into_inner) == Expand::Works
    }

    /// Sends a change; the caller judges the status (401 is handled here).
    pub async fn send(&self, method: Method, path: &str, body: &Value, if_match: Option<&str>) -> Result<Reply, BmcError> {
        self.pace.before_write().await;
        self.authorised(method, path, Body::Json(body), if_match).await
    }

    /// Sends a change without a body.
    pub async fn send_empty(&self, method: Method, path: &str) -> Result<Reply, BmcError> {
        self.pace.before_write().await;
        self.authorised(method, path, Body::None, None).await
    }

    /// Pushes firmware with its parameters (DSP0266, 12.6.2: parts `UpdateParameters` and `UpdateFile`). Sent once: a
    /// broken upload may have begun something.
    pub async fn push_multipart(&self, path: &str, parameters: &Value, file: &Path, name: &str) -> Result<Reply, BmcError> {
        self.pace.before_write().await;
        self.authorised(Method::POST, path, Body::Update { parameters, file, name }, None).await
    }

    /// Pushes firmware as the whole body, as services before multipart take it.
    pub async fn push_file(&self, path: &str, file: &Path) -> Result<Reply, BmcError> {
        self.pace.before_write().await;
        self.authorised(Method::POST, path, Body::File(file), None).await
    }

    /// The error for a status that is not success.
    pub fn failed(&self, path: &str, reply: &Reply) -> BmcError {
        let said = reply.complaint();
        let status = reply.status.as_u16();
        let path = view::clean(path).unwrap_or_default();
        let words = if said.sentence.is_empty() {
            format!("HTTP {status} for {path}")
        } else {
            format!("{} (HTTP {status} for {path})", said.sentence)
        };
        match reply.status {
            StatusCode::UNAUTHORIZED => self.unauthorized(),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => {
                self.busy(words)
            }
            _ if said.has(NOT_NOW) => self.busy(words),
            StatusCode::NOT_FOUND | StatusCode::GONE => self.nonsense(format!("a link to {path} that leads nowhere (HTTP {status})")),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => self.unsupported(words),
            s if s.is_server_error() => self.nonsense(words),
            _ => self.refused(words),
        }
    }

    pub(super) fn unauthorized(&self) -> BmcError {
        BmcError::Unauthorized { address: self.address.clone(), user: self.user.clone() }
    }

    /// A request with our login. A session the BMC no longer knows is replaced once; a refused login is final.
    async fn authorised(&self, method: Method, path: &str, body: Body<'_>, if_match: Option<&str>) -> Result<Reply, BmcError> {
        let (login, fresh) = match self.current_login() {
            Some(login) => (login, false),
            None => (self.log_in(None).await?, true),
        };
        let reply = self.with_login(&method, path, &body, if_match, &login).await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            self.proven.store(true, Ordering::Relaxed);
            return Ok(reply);
        }
        match &login {
            // Expired, or the BMC restarted. Seen also: HPE answers 401 now and then to a good session.
            Login::Session { token, path: old } if !fresh => {
                let login = self.log_in(Some(token)).await?;
                self.drop_session(old.as_deref(), &login).await;
                let reply = self.with_login(&method, path, &body, if_match, &login).await?;
                if reply.status == StatusCode::UNAUTHORIZED {
                    Err(self.refused("it accepts our login and then answers 401"))
                } else {
                    Ok(reply)
                }
            }
            Login::Session { .. } => Err(self.refused("it accepts our login and then answers 401")),
            Login::Basic | Login::Nobody => {
                self.set_login(None);
                Err(self.unauthorized())
            }
        }
    }

    async fn with_login(
        &self,
        method: &Method,
        path: &str,
        body: &Body<'_>,
        if_match: Option<&str>,
        login: &Login,
    ) -> Result<Reply, BmcError> {
        if *method == Method::GET {
            return self.read(path, Some(login)).await;
        }
        let mut headers = HeaderMap::new();
        if let Some(etag) = if_match {
            headers.insert(IF_MATCH, HeaderValue::from_str(etag).map_err(|_| self.nonsense("an ETag that is no header"))?);
        }
        self.once(method, path, body, headers, Some(login)).await
    }

    /// A GET, repeated as [`READ_PAUSES`] says.
    pub(super) async fn read(&self, path: &str, login: Option<&Login>) -> Result<Reply, BmcError> {
        for pause in READ_PAUSES {
            match self.once(&Method::GET, path, &Body::None, HeaderMap::new(), login).await {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => {
                    let wanted = retry_after(&reply.headers).unwrap_or(pause);
                    if wanted > RETRY_AFTER_CAP {
                        return Ok(reply);
                    }
                    tokio::time::sleep(wanted.max(pause)).await;
                }
                Err(BmcError::Unreachable { .. } | BmcError::Timeout { .. }) => tokio::time::sleep(pause).await,
                other => return other,
            }
        }
        self.once(&Method::GET, path, &Body::None, HeaderMap::new(), login).await
    }

    /// One exchange, redirects within the origin included.
    pub(super) async fn once(
        &self,
        method: &Method,
        path: &str,
        body: &Body<'_>,
        headers: HeaderMap,
        login: Option<&Login>,
    ) -> Result<Reply, BmcError> {
        let mut url = self.same_origin(path)?;
        for _ in 0..=REDIRECT_CAP {
            let mut request = self
                .client
                .request(method.clone(), url.clone())
                .headers(headers.clone())
                .header("OData-Version", "4.0")
                .header(reqwest::header::ACCEPT, "application/json");
            request = match login {
                Some(Login::Session { token, .. }) => request.header("X-Auth-Token", token.clone()),
                Some(Login::Basic) => request.basic_auth(&self.user, Some(self.password.expose())),
                Some(Login::Nobody) | None => request,
            };
            request = match body {
                Body::None => request,
                Body::Json(value) => request.json(value),
                Body::File(file) => {
                    let (content, size) = self.open(file).await?;
                    let request = request.timeout(self.timing.upload).header(reqwest::header::CONTENT_TYPE, "application/octet-stream");
                    request.header(reqwest::header::CONTENT_LENGTH, size).body(content)
                }
                Body::Update { parameters, file, name } => {
                    let (content, size) = self.open(file).await?;
                    let parts = (|| {
                        let parameters = Part::text(parameters.to_string()).mime_str("application/json")?;
                        let content = Part::stream_with_length(content, size).file_name((*name).to_owned());
                        Ok::<_, reqwest::Error>((parameters, content.mime_str("application/octet-stream")?))
                    })();
                    let (parameters, content) = parts.map_err(|e| self.transport_error(&e))?;
                    let form = Form::new().part("UpdateParameters", parameters).part("UpdateFile", content);
                    request.timeout(self.timing.upload).multipart(form)
                }
            };
            self.pace.meter.request();
            let response = request.send().await.map_err(|e| self.transport_error(&e))?;
            let redirect = match response.status() {
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if *method == Method::GET => true,
                status => matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT),
            };
            if redirect {
                let to = response
                    .headers()
                    .get(LOCATION)
                    .and_then(|l| l.to_str().ok())
                    .ok_or_else(|| self.nonsense("a redirect without a target"))?;
                url = self.same_origin(to)?;
                continue;
            }
            return self.take_body(response).await;
        }
        Err(self.nonsense("redirects without end"))
    }

    /// A file as a body, and its length.
    async fn open(&self, file: &Path) -> Result<(reqwest::Body, u64), BmcError> {
        let unreadable = |e: std::io::Error| self.refused(format!("nothing: the firmware file {} cannot be read: {e}", file.display()));
        let content = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let size = content.metadata().await.map_err(unreadable)?.len();
        Ok((reqwest::Body::from(content), size))
    }

    async fn take_body(&self, mut response: reqwest::Response) -> Result<Reply, BmcError> {
        let status = response.status();
        let headers = response.headers().clone();
        let too_long = || self.nonsense(format!("more than {} MiB in one answer", BODY_CAP >> 20));
        if response.content_length().is_some_and(|n| n > BODY_CAP as u64) {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.transport_error(&e))? {
            if bytes.len() + chunk.len() > BODY_CAP {
                return Err(too_long());
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = if bytes.trim_ascii().is_empty() {
            Value::Null
        } else {
            match view::parse(&bytes) {
                Ok(value) => value,
                // Error pages are often HTML: the status says enough.
                Err(_) if !status.is_success() => Value::Null,
                Err(what) => return Err(self.nonsense(what)),
            }
        };
        Ok(Reply { status, headers, body, bytes: bytes.len() })
    }

    /// Resolves a link from the BMC. Links and redirects to another host, port or scheme are refused: our login goes
    /// nowhere but to the address the operator gave.
    fn same_origin(&self, link: &str) -> Result<Url, BmcError> {
        let url = self.base.join(link).map_err(|_| self.nonsense(format!("the link {:?}", view::clean(link).unwrap_or_default())))?;
        let same = url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default()
            && url.username().is_empty()
            && url.password().is_none();
        if same { Ok(url) } else { Err(self.nonsense(format!("a link to another place: {:?}", view::clean(link).unwrap_or_default()))) }
    }

    fn transport_error(&self, error: &reqwest::Error) -> BmcError {
        if let Some(pin) = &self.pin
            && let (Some(pinned), Some(seen)) = (pin.key(), pin.refused())
        {
            return BmcError::CertificateChanged { address: self.address.clone(), pinned, seen };
        }
        if error.is_timeout() {
            let after = if error.is_connect() { self.timing.connect } else { self.timing.request };
            return BmcError::Timeout { address: self.address.clone(), after };
        }
        let why = match tls_error(error) {
            Some(rustls::Error::AlertReceived(alert)) => {
                format!(
                    "its TLS is not one we speak (TLS 1.2 or 1.3 with forward secrecy; it sent the alert {alert:?}); update its firmware or use ipmi://"
                )
            }
            Some(rustls::Error::PeerIncompatible(what)) => {
                format!("its TLS is not one we speak (TLS 1.2 or 1.3 with forward secrecy; {what:?}); update its firmware or use ipmi://")
            }
            Some(other) => format!("the TLS handshake failed: {other}"),
            None => chain(error),
        };
        BmcError::Unreachable { address: self.address.clone(), why }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The TLS error in a chain. `std::io::Error` does not show what it wraps as its `source`, and hyper wraps twice.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut current = Some(error);
    while let Some(e) = current {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let wrapped = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        current = wrapped.map(|w| w as &(dyn std::error::Error + 'static)).or_else(|| e.source());
    }
    None
}

/// The innermost words of an error: "Connection refused", not three layers of "error sending request".
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    view::clean(&last.to_string()).unwrap_or_default()
}
