//! The API's client: finds the service and the token, turns every failure into a clear error.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::TryStreamExt;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::image_source::Pieces;
use crate::cli::{CliError, Global, Result, output};
use crate::domain::secret::Secret;
use crate::http::error::Problem;
use crate::server::config::{DEFAULT_LISTEN, default_state};
use crate::server::state::{local_token, local_url};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Larger answers than this are not ours.
const MAX_ANSWER: usize = 64 << 20;

/// One service and who we are there.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret<String>>,
    pub json: bool,
}

impl Client {
    pub fn new(global: &Global) -> Result<Self> {
        let state = global.state.clone().unwrap_or_else(default_state);
        let named = global.url.clone();
        let text = named.or_else(|| local_url(&state)).unwrap_or_else(|| format!("http://{DEFAULT_LISTEN}"));
        let usage = |what: String| CliError::Usage { what, hint: "write it like http://127.0.0.1:8080".to_owned() };
        let base = Url::parse(&text).map_err(|e| usage(format!("{text:?} is not a URL: {e}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(usage(format!("{text:?} is not an http or https URL")));
        }
        let local = is_loopback(&base);
        let token = match std::env::var("HOSTLER_TOKEN").ok().filter(|t| !t.trim().is_empty()) {
            Some(token) => Some(Secret::new(token.trim().to_owned())),
            None => match &global.token_file {
                Some(file) => Some(read_token(file)?),
                // The administrator's token of this computer goes to this computer only, whatever --url says.
                None if local || global.url.is_none() => local_token(&state),
                None => None,
            },
        };
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_WITHIN).redirect(reqwest::redirect::Policy::none());
        if local {
            builder = builder.no_proxy();
        }
        let http =
            builder.build().map_err(|e| CliError::Failed { what: format!("cannot set up the HTTP client: {e}"), hint: String::new() })?;
        Ok(Self { http, base, token, json: global.json })
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| CliError::Usage { what: "the service's URL cannot have a path".to_owned(), hint: String::new() })?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        })
    }

    /// Sends and reads a JSON answer.
    pub async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let body = self.body(request.timeout(ANSWER_WITHIN)).await?;
        self.understood(&body)
    }

    fn understood<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).map_err(|e| CliError::Failed {
            what: format!("{} answered what this command does not understand: {e}", self.base),
            hint: "compare versions: hostler version, and GET /version of the service".to_owned(),
        })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T> {
        self.call(self.request(Method::GET, path, query)?).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], body: Option<&(impl Serialize + Sync)>) -> Result<T> {
        let request = self.request(Method::POST, path, &[])?;
        self.call(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &[&str], body: &(impl Serialize + Sync)) -> Result<T> {
        self.call(self.request(Method::PUT, path, &[])?.json(body)).await
    }

    /// Deletes and reads a JSON answer.
    pub async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        self.call(self.request(Method::DELETE, path, &[])?).await
    }

    /// Posts text and reads a JSON answer.
    pub async fn post_text<T: DeserializeOwned>(&self, path: &[&str], content_type: &str, text: String) -> Result<T> {
        self.call(self.request(Method::POST, path, &[])?.header(reqwest::header::CONTENT_TYPE, content_type).body(text)).await
    }

    /// Streams `size` bytes and reads a JSON answer. Without a time limit: it lasts as long as bytes flow, and
    /// the service unpacks and checks the image before it answers.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        pieces: Pieces,
        size: u64,
        sent: impl Fn(u64) + Send + 'static,
    ) -> Result<T> {
        let stream = pieces.inspect_ok(move |chunk| sent(chunk.len() as u64));
        let request = self
            .request(Method::POST, path, query)?
            .header(reqwest::header::CONTENT_TYPE, "application/octet-stream")
            .header(reqwest::header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(stream));
        let body = self.body(request).await?;
        self.understood(&body)
    }

    /// A request whose answer has no body.
    pub async fn tell(&self, method: Method, path: &[&str], body: Option<&(impl Serialize + Sync)>) -> Result<()> {
        let request = self.request(method, path, &[])?.timeout(ANSWER_WITHIN);
        self.body(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
        .map(drop)
    }

    async fn body(&self, request: RequestBuilder) -> Result<Vec<u8>> {
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        let body = self.read(response).await?;
        if status.is_success() {
            return Ok(body);
        }
        let problem = serde_json::from_slice::<Problem>(&body).unwrap_or_else(|_| {
            let status = axum::http::StatusCode::from_u16(status.as_u16()).unwrap_or(axum::http::StatusCode::BAD_GATEWAY);
            Problem::new(status, "not_ours", format!("{} answered {status}", self.base)).hint("is this the address of a hostler service?")
        });
        Err(CliError::Problem(Box::new(problem)))
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if out.len() + chunk.len() > MAX_ANSWER {
                return Err(CliError::Failed { what: format!("{} answers without end", self.base), hint: String::new() });
            }
            out.extend_from_slice(&chunk);
        }
        Ok(out)
    }

    fn unreachable(&self, e: &reqwest::Error) -> CliError {
        // The innermost cause says it best: "Connection refused".
        let mut why = e.to_string();
        let mut source = std::error::Error::source(e);
        while let Some(inner) = source {
            why = inner.to_string();
            source = inner.source();
        }
        CliError::Unreachable { url: self.base.to_string(), why: output::plain(&why) }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

fn read_token(file: &PathBuf) -> Result<Secret<String>> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| CliError::Usage { what: format!("cannot read the token file {}: {e}", file.display()), hint: String::new() })?;
    Ok(Secret::new(text.trim().to_owned()))
}
