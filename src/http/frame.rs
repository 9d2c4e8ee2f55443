//! What surrounds every request: its id, a time limit, one log line, safe headers, and problem details for whatever error
//! some layer answered without a word.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::error::Problem;

/// Handlers answer within this; streams (SSE, images) count until their first byte only.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Body of a request unless a route says otherwise.
pub const BODY_LIMIT: usize = 2 << 20;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Peer {
    /// The peer of a request; a request without one was not made over a socket (a test).
    pub fn of(extensions: &axum::http::Extensions) -> IpAddr {
        extensions.get::<Self>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |p| p.0.ip().to_canonical())
    }
}

/// The id of a request, for its problem details and log lines.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// The template of the route that took the request, filled in once it is known.
#[derive(Clone, Default)]
struct Route(Arc<OnceLock<String>>);

async fn note_route(request: Request, next: Next) -> Response {
    if let (Some(route), Some(path)) = (request.extensions().get::<Route>(), request.extensions().get::<MatchedPath>()) {
        route.0.get_or_init(|| path.as_str().to_owned());
    }
    next.run(request).await
}

/// Puts the frame around a router.
pub fn wrap(router: Router) -> Router {
    router
        .route_layer(axum::middleware::from_fn(note_route))
        .fallback(|| async { Problem::of_status(StatusCode::NOT_FOUND) })
        .method_not_allowed_fallback(|| async { Problem::of_status(StatusCode::METHOD_NOT_ALLOWED) })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_LIMIT))
        .layer(axum::middleware::from_fn(frame))
}

async fn frame(mut request: Request, next: Next) -> Response {
    let id = hex::encode(crate::clock::random::<8>());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    request.extensions_mut().insert(RequestId(id.clone()));
    let began = Instant::now();
    let unbounded = takes_its_time(&uri);
    let for_person = asks_for_page(&request);
    let route = Route::default();
    request.extensions_mut().insert(route.clone());
    // No text of ours holds a NUL, and PostgreSQL refuses it.
    let handled = async {
        match ["path", "query"].into_iter().zip([Some(uri.path()), uri.query()]).find(|(_, text)| text.is_some_and(|t| t.contains("%00"))) {
            Some((part, _)) => {
                Problem::new(StatusCode::BAD_REQUEST, &format!("bad_{part}"), format!("the {part} holds a NUL character")).into_response()
            }
            None => next.run(request).await,
        }
    };
    let response = if unbounded {
        handled.await
    } else {
        match tokio::time::timeout(ANSWER_WITHIN, handled).await {
            Ok(response) => response,
            Err(_) => {
                let problem =
                    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_slow", format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
                problem.hint("the service is overloaded; try again").into_response()
            }
        }
    };
    let problem = response.extensions().get::<Problem>().cloned();
    let mut response = finish(response, &id);
    if for_person && is_problem(&response) {
        let status = response.status();
        response = crate::http::ui::problem_page(problem.unwrap_or_else(|| Problem::of_status(status)));
    }
    safe_headers(&mut response);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    // The route, not the path: a path may hold a secret (the phone-home token). Queries, bodies and headers are not logged.
    let (status, millis) = (response.status().as_u16(), began.elapsed().as_millis());
    let route = route.0.get().map_or("no route", String::as_str);
    if response.status().is_server_error() {
        tracing::error!(request_id = %id, %method, route, status, millis, "request failed");
    } else {
        tracing::debug!(request_id = %id, %method, route, status, millis, "request");
    }
    response
}

/// Uploads last as long as their bytes arrive; their own code bounds the silence.
fn takes_its_time(uri: &Uri) -> bool {
    uri.path().starts_with("/api/v1/images")
}

/// A browser that follows a link or sends a form, rather than a program: its errors are pages.
fn asks_for_page(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"));
    accepts && !["/api/", "/ui/", "/agent/", "/boot/"].iter().any(|p| request.uri().path().starts_with(p))
}

fn is_problem(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == "application/problem+json")
}

/// Writes problem details, the request id included, for every error that is not a page.
fn finish(response: Response, id: &str) -> Response {
    if let Some(problem) = response.extensions().get::<Problem>() {
        let mut problem = problem.clone();
        problem.request_id = Some(id.to_owned());
        let mut rendered = problem.render();
        // What a layer added on the way (Allow, Retry-After, Set-Cookie) stays.
        for (name, value) in response.headers() {
            if !rendered.headers().contains_key(name) && name != header::CONTENT_LENGTH {
                rendered.headers_mut().append(name, value.clone());
            }
        }
        return rendered;
    }
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|t| t.starts_with("text/html") || t.starts_with("application/"));
    if is_page || status == StatusCode::RANGE_NOT_SATISFIABLE {
        return response;
    }
    let mut problem = Problem::of_status(status);
    problem.request_id = Some(id.to_owned());
    let mut rendered = problem.render();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow.clone());
    }
    rendered
}

/// Scripts and styles only from here, no frames, no sniffing, nothing of ours in other sites' referrers.
fn safe_headers(response: &mut Response) {
    const HEADERS: [(HeaderName, &str); 5] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
}
