//! A machine on the bench behind its simulated BMC, and a plain HTTP client for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hostler::sim::bench::Bench;
use hostler::sim::bmc::{Setup, SimBmc, Strike};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

pub struct Rig {
    pub bmc: SimBmc,
    pub machine: Arc<Bench>,
    pub http: reqwest::Client,
    pub password: String,
}

/// A client that takes any certificate.
pub fn http_client() -> reqwest::Client {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error only says that another test was faster.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).timeout(Duration::from_secs(20)).build().unwrap()
}

/// A machine of this maker, a thousand times faster than a real one.
pub async fn rig(maker: &str) -> Rig {
    rig_with(maker, Setup { pace: "1000".parse().unwrap(), ..Setup::new("admin", "secret") }).await
}

pub async fn rig_with(maker: &str, setup: Setup) -> Rig {
    let machine = Bench::of(maker, 1).unwrap();
    let password = setup.password.clone();
    let bmc = SimBmc::start(machine.clone(), setup).await.unwrap();
    let http = http_client();
    Rig { bmc, machine, http, password }
}

impl Rig {
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.bmc.redfish_address().unwrap())
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).basic_auth("admin", Some(&self.password))
    }

    pub async fn raw(&self, path: &str) -> reqwest::Result<Response> {
        self.request(Method::GET, path).send().await
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.raw(path).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    pub async fn send(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.request(method, path).json(&body).send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap_or_default())
    }

    pub fn strike(&self, strike: Strike) {
        self.bmc.strike(&strike).unwrap();
    }

    /// Asks until the answer is as wanted, 20 s at most.
    pub async fn until(&self, path: &str, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(20);
        let mut last = Value::Null;
        while Instant::now() < end {
            if let Ok(response) = self.raw(path).await
                && let Ok(body) = response.json::<Value>().await
            {
                if ready(&body) {
                    return body;
                }
                last = body;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{path} did not come to {what}: {last}");
    }

    /// Messages of a log, oldest first.
    pub async fn log(&self, path: &str) -> Vec<String> {
        let entries = self.get(&format!("{path}/Entries?$top=1000")).await;
        entries["Members"].as_array().unwrap().iter().map(|e| e["Message"].as_str().unwrap().to_owned()).collect()
    }
}
