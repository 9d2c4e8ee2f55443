//! A service on port 0 over a given store, and callers of every role.

use std::time::Duration;

use hostler::app::access::TokenView;
use hostler::app::{App, Parts, Settings};
use hostler::artifact::Artifacts;
use hostler::bmc::{BmcSettings, Bmcs};
use hostler::domain::access::{Actor, ActorVia, Role};
use hostler::domain::id::UserId;
use hostler::domain::secret::Secret;
use hostler::engine::{Engine, EngineSettings};
use hostler::http;
use hostler::secret::Sealer;
use hostler::store::Store;
use reqwest::{Method, RequestBuilder, Response};
use tokio_util::sync::CancellationToken;

pub struct Api {
    pub url: String,
    pub app: App,
    pub admin: Actor,
    pub password: Secret<String>,
    pub http: reqwest::Client,
    stop: CancellationToken,
    _artifacts: tempfile::TempDir,
}

impl Api {
    /// Serves `store` on a free port of loopback. The engine is there but does not run by itself.
    pub async fn on(store: &Store) -> Self {
        // The first call installs it; all tests of the binary share the process.
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::from_key(&Secret::new([7; 32]));
        let settings = EngineSettings { owner: "test".into(), netboot_url: "http://127.0.0.1:1".into(), power_off_ready: true };
        let engine = Engine::new(store.clone(), Bmcs::new(BmcSettings::default()), sealer.clone(), settings);
        let artifacts = Artifacts::open(dir.path()).unwrap();
        let app = App::new(Parts { store: store.clone(), sealer, engine, artifacts, settings: Settings::default() });
        let password = app.first_user().await.unwrap().expect("a fresh store");
        let user = store.user_by_name("admin").await.unwrap().unwrap();
        let admin = Actor { user: user.id, name: user.name, role: Role::Admin, via: ActorVia::Token };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(http::listen::run(listener, http::main_router(&app), stop.clone()));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        Self { url, app, admin, password, http, stop, _artifacts: dir }
    }

    /// A fresh API token of a role.
    pub async fn token(&self, role: Role) -> String {
        let (secret, _): (_, TokenView) = self.app.create_token(&self.admin, &format!("test {role}"), role, None).await.unwrap();
        secret.expose().clone()
    }

    pub fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token)
    }

    pub async fn get(&self, path: &str, token: &str) -> Response {
        self.request(Method::GET, path, token).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, token: &str, body: &serde_json::Value) -> Response {
        self.request(Method::POST, path, token).json(body).send().await.unwrap()
    }

    /// As `actor`, over the app.
    pub fn actor(&self, role: Role) -> Actor {
        Actor { user: UserId(self.admin.user.0), name: "admin".into(), role, via: ActorVia::Token }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The answer is a problem of this status and code, with everything a problem must have.
pub async fn problem(response: Response, status: u16, code: &str) -> serde_json::Value {
    let found = response.status().as_u16();
    let content_type = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let header_id = response.headers().get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let text = response.text().await.unwrap();
    assert_eq!((found, content_type.as_str()), (status, "application/problem+json"), "{text}");
    let body: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["code"], code, "{text}");
    assert_eq!(body["status"], status, "{text}");
    assert_eq!(body["type"], format!("urn:hostler:problem:{code}"));
    assert_eq!(body["request_id"], header_id, "{text}");
    for field in ["title", "detail", "request_id"] {
        assert!(body[field].as_str().is_some_and(|t| !t.is_empty()), "{field} in {text}");
    }
    body
}
