//! Firmware updates over Redfish: a package that is pushed, or one that the BMC fetches.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart};
use axum::http::{Request as HttpRequest, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use crate::clock;
use crate::sim::bmc::board::firmware::ApplyTime;
use crate::sim::bmc::redfish::answer::Request;
use crate::sim::bmc::redfish::reply::{self, Message, complain, complaints};
use crate::sim::bmc::redfish::tree::monitor_path;
use crate::sim::bmc::redfish::write::Patch;
use crate::sim::bmc::redfish::{BODY_CAP, Inner};

const FETCH_WITHIN: Duration = Duration::from_secs(60);

impl Inner {
    /// `UpdateService.SimpleUpdate`.
    pub fn simple_update(self: &Arc<Self>, body: Value) -> Response {
        let mut patch = Patch::new(body);
        let (uri, protocol) = (patch.text("ImageURI"), patch.text("TransferProtocol"));
        let apply = apply_time(patch.text("@Redfish.OperationApplyTime").as_deref());
        for field in ["Targets", "Username", "Password", "ForceUpdate", "Stage", "LocalImage", "ExcludeTargets"] {
            patch.value(field);
        }
        let wrong = patch.rest();
        if !wrong.is_empty() {
            return complaints(StatusCode::BAD_REQUEST, &wrong);
        }
        let apply = match apply {
            Ok(apply) => apply,
            Err(message) => return complaints(StatusCode::BAD_REQUEST, &[message]),
        };
        let Some(uri) = uri else {
            let text = "The action UpdateService.SimpleUpdate requires the parameter ImageURI to be present in the request body.";
            return complain(StatusCode::BAD_REQUEST, "ActionParameterMissing", text);
        };
        let uri = match protocol {
            Some(protocol) if !uri.contains("://") => format!("{}://{uri}", protocol.to_lowercase()),
            Some(_) | None => uri,
        };
        if !uri.starts_with("http://") && !uri.starts_with("https://") {
            return complaints(StatusCode::BAD_REQUEST, &[Message::bad_value(&uri.chars().take(200).collect::<String>(), "ImageURI")]);
        }
        self.begin(apply, |inner, id| {
            tokio::spawn(async move {
                let file = fetch(&uri).await;
                inner.shared.board().take_update_file(id, file, clock::now());
                // The keeper follows it from here.
                drop(inner.shared.board());
            });
        })
    }

    /// A push to `MultipartHttpPushUri` (DSP0266, section 12.5): parameters and the package.
    pub async fn multipart_update(self: &Arc<Self>, request: Request<'_>) -> Response {
        let mut http = HttpRequest::new(Body::from(request.raw.clone()));
        *http.headers_mut() = request.headers.clone();
        DefaultBodyLimit::max(BODY_CAP).apply(&mut http);
        let Ok(mut parts) = Multipart::from_request(http, &()).await else {
            return complain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HeaderInvalid", "An update is pushed as multipart/form-data.");
        };
        let (mut apply, mut package) = (Ok(ApplyTime::Immediate), None);
        loop {
            let part = match parts.next_field().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => {
                    return complain(
                        StatusCode::BAD_REQUEST,
                        "UnrecognizedRequestBody",
                        &format!("The multipart body cannot be read: {error}."),
                    );
                }
            };
            let name = part.name().unwrap_or_default().to_owned();
            let Ok(bytes) = part.bytes().await else {
                return complain(StatusCode::BAD_REQUEST, "UnrecognizedRequestBody", "A part of the multipart body ends too early.");
            };
            match name.as_str() {
                "UpdateParameters" => {
                    let parameters: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                    apply = apply_time(parameters.get("@Redfish.OperationApplyTime").and_then(Value::as_str));
                }
                "UpdateFile" => package = Some(bytes),
                _ => {}
            }
        }
        let (Ok(apply), Some(package)) = (apply, package) else {
            return complain(
                StatusCode::BAD_REQUEST,
                "PropertyMissing",
                "The multipart body needs the parts UpdateParameters and UpdateFile.",
            );
        };
        self.begin(apply, |inner, id| inner.shared.board().take_update_file(id, Ok(package.to_vec()), clock::now()))
    }

    /// 202 with the task, and what makes the file come in.
    fn begin(self: &Arc<Self>, apply: ApplyTime, load: impl FnOnce(Arc<Self>, u32)) -> Response {
        if self.shared.faults().accepts_and_does_nothing {
            return reply::success();
        }
        let begun = self.shared.board().begin_update(apply, clock::now());
        let id = match begun {
            Ok(id) => id,
            Err(why) => return complain(StatusCode::SERVICE_UNAVAILABLE, "ResourceInUse", &format!("An update is under way: {why}.")),
        };
        load(Arc::clone(self), id);
        let body = self.with_view(|view| view.board.updates.iter().find(|u| u.id == id).map(|u| view.task(u))).unwrap_or_else(|| json!({}));
        let mut response = reply::json_reply(StatusCode::ACCEPTED, &body);
        reply::set(&mut response, header::LOCATION.as_str(), &monitor_path(id));
        reply::set(&mut response, header::RETRY_AFTER.as_str(), "2");
        response
    }
}

fn apply_time(word: Option<&str>) -> Result<ApplyTime, Message> {
    match word {
        None | Some("Immediate") => Ok(ApplyTime::Immediate),
        Some("OnReset") => Ok(ApplyTime::OnReset),
        Some(other) => Err(Message::not_in_list(other, "@Redfish.OperationApplyTime")),
    }
}

/// Fetches a package; `Err` is what the task says about it.
async fn fetch(uri: &str) -> Result<Vec<u8>, String> {
    let failed = |e: reqwest::Error| format!("The package cannot be fetched: {e}.");
    let client = super::events::http_client().map_err(failed)?;
    let mut response = client.get(uri).timeout(FETCH_WITHIN).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut out = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if out.len() + chunk.len() > BODY_CAP {
            return Err("The package is larger than this service takes.".into());
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}
