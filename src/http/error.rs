//! Errors as RFC 9457 problem details, whatever part of the server made them.

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::app::AppError;
use crate::app::error::Flaw;

/// An error for a program and for the person behind it (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:hostler:problem:` and the code.
    pub r#type: String,
    /// The same for every problem of this status.
    pub title: String,
    pub status: u16,
    /// What happened, in a sentence.
    pub detail: String,
    /// Stable word for programs.
    pub code: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The id under which the service's log tells more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Every flaw of a refused document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Flaw>,
}

pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("urn:hostler:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            hint: None,
            request_id: None,
            errors: Vec::new(),
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What to say about a status that some layer answered without a word.
    pub fn of_status(status: StatusCode) -> Self {
        let (code, detail, hint) = match status {
            StatusCode::NOT_FOUND => {
                ("no_such_path", "there is nothing at this path", Some("the API is described at /api/v1/openapi.json"))
            }
            StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this path does not take this method", Some("see the Allow header")),
            StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is larger than this path takes", None),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ("unsupported_media_type", "this path takes another content type", Some("send Content-Type: application/json"))
            }
            StatusCode::REQUEST_TIMEOUT => ("request_timeout", "the request took too long to arrive", None),
            StatusCode::URI_TOO_LONG => ("uri_too_long", "the path is too long", None),
            _ if status.is_server_error() => {
                ("internal", "the service failed to answer this", Some("look at the service's log for the request id"))
            }
            _ => ("bad_request", "the request cannot be read", None),
        };
        let problem = Self::new(status, code, detail);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }

    /// The body as sent.
    pub fn render(&self) -> Response {
        let body = serde_json::to_vec(self).unwrap_or_default();
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hostler\""));
        }
        response
    }
}

/// Carries the problem to the frame, which adds the request id and writes it out.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.render();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AppError> for Problem {
    fn from(e: AppError) -> Self {
        let status = match &e {
            AppError::NotFound { .. } => StatusCode::NOT_FOUND,
            AppError::Ambiguous { .. } | AppError::Refused { .. } | AppError::Contended => StatusCode::CONFLICT,
            AppError::Forbidden { .. } => StatusCode::FORBIDDEN,
            AppError::Unauthenticated | AppError::BadLogin => StatusCode::UNAUTHORIZED,
            AppError::LoginPaused { .. } => StatusCode::TOO_MANY_REQUESTS,
            AppError::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            AppError::Bmc { .. } => StatusCode::BAD_GATEWAY,
            AppError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            AppError::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            AppError::Store(_) | AppError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let hint = e.hint();
        let detail = match &e {
            // What the database says is for the log, not for the network.
            AppError::Store(_) | AppError::Internal(_) => {
                tracing::error!(error = &e as &dyn std::error::Error, "a request failed");
                "the service failed to do this".to_owned()
            }
            _ => e.to_string(),
        };
        let mut problem = Self::new(status, e.code(), detail);
        problem.hint = hint;
        if let AppError::Invalid { flaws, .. } = e {
            problem.errors = flaws;
        }
        problem
    }
}

/// `axum::Json` whose rejections are problems.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let (head, body) = request.into_parts();
        let body = Bytes::from_request(Request::from_parts(head.clone(), body), state)
            .await
            .map_err(|rejection| Problem::of_status(rejection.status()))?;
        let nul = holds_nul(&body);
        match axum::Json::<T>::from_request(Request::from_parts(head, body.into()), state).await {
            Ok(_) if nul => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "a text holds a NUL character")),
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(json_problem(&rejection)),
        }
    }
}

/// Whether a JSON text escapes a NUL, which no text of ours holds and PostgreSQL refuses. An even number of backslashes
/// before the `u` is text that looks like it.
fn holds_nul(json: &[u8]) -> bool {
    json.windows(5).enumerate().filter(|(_, w)| w == b"u0000").any(|(at, _)| {
        let backslashes = json[..at].iter().rev().take_while(|b| **b == b'\\').count();
        backslashes % 2 == 1
    })
}

fn json_problem(rejection: &JsonRejection) -> Problem {
    match rejection {
        // `body_text` names the field and the place; it quotes nothing but the field's name.
        JsonRejection::JsonDataError(e) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", e.body_text()),
        JsonRejection::JsonSyntaxError(e) => Problem::new(StatusCode::BAD_REQUEST, "not_json", e.body_text()),
        JsonRejection::MissingJsonContentType(_) => Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        other => Problem::of_status(other.status()),
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// `axum::extract::Query` whose rejections are problems.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(e)) => {
                Err(Problem::new(StatusCode::BAD_REQUEST, "bad_query", e.body_text()))
            }
            Err(other) => Err(Problem::of_status(other.status())),
        }
    }
}

/// `axum::extract::Path` whose rejections are problems.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(e)) => Err(Problem::new(StatusCode::BAD_REQUEST, "bad_path", e.body_text())),
            Err(other) => Err(Problem::of_status(other.status())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_nul_is_found_and_text_that_looks_like_one_is_not() {
        assert!(holds_nul(br#"{"a": "x\u0000y"}"#));
        assert!(holds_nul(br#"{"a": "\\\u0000"}"#));
        assert!(!holds_nul(br#"{"a": "x\\u0000y"}"#));
        assert!(!holds_nul(br#"{"a": "u0000"}"#));
    }
}
