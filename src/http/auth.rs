//! Who asks, and whether the route is theirs. One table holds the role of every API route; a route that is not in it is
//! closed.

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::app::{App, AppError};
use crate::domain::access::{Actor, ActorVia, Role};
use crate::http::error::Problem;

pub const SESSION_COOKIE: &str = "hostler_session";
/// Mutating requests of a browser session repeat the session's token here.
pub const X_CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone who reaches the port.
    Open,
    /// This role or a higher one.
    From(Role),
    /// Any browser session, whose use case tells one's own account from others; else this role or a higher one.
    SessionOrFrom(Role),
}

use Access::{From as Needs, Open, SessionOrFrom};
use Role::{Admin, Operator, Tech, Viewer};

/// Every API route with its access. The test `every_route_is_in_the_table` holds both sides equal.
pub const ROUTES: &[(&str, &str, Access)] = &[
    ("GET", "/healthz", Open),
    ("GET", "/readyz", Open),
    ("GET", "/version", Open),
    ("GET", "/api/v1/openapi.json", Open),
    ("GET", "/metrics", Needs(Viewer)),
    ("GET", "/metrics/machines", Needs(Viewer)),
    ("GET", "/api/v1/me", Needs(Viewer)),
    ("GET", "/api/v1/machines", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}", Needs(Viewer)),
    ("DELETE", "/api/v1/machines/{machine}", Needs(Operator)),
    ("POST", "/api/v1/machines/{machine}/accept", Needs(Tech)),
    ("POST", "/api/v1/machines/{machine}/deploy", Needs(Operator)),
    ("POST", "/api/v1/machines/{machine}/release", Needs(Operator)),
    ("POST", "/api/v1/machines/{machine}/retry", Needs(Operator)),
    ("POST", "/api/v1/machines/{machine}/abort", Needs(Operator)),
    ("GET", "/api/v1/machines/{machine}/power", Needs(Tech)),
    ("POST", "/api/v1/machines/{machine}/power", Needs(Tech)),
    ("PUT", "/api/v1/machines/{machine}/bmc", Needs(Admin)),
    ("GET", "/api/v1/machines/{machine}/sensors", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/sensors/{sensor}/samples", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/parts", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/logs", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/firmware", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/bios", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/capabilities", Needs(Viewer)),
    ("GET", "/api/v1/evidence/{hash}", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/led", Needs(Viewer)),
    ("POST", "/api/v1/machines/{machine}/led", Needs(Tech)),
    ("DELETE", "/api/v1/machines/{machine}/led", Needs(Tech)),
    ("POST", "/api/v1/machines/{machine}/bmc/reset", Needs(Operator)),
    ("POST", "/api/v1/machines/{machine}/bmc/raw", Needs(Admin)),
    ("GET", "/api/v1/firmware/baselines", Needs(Viewer)),
    ("PUT", "/api/v1/firmware/baselines", Needs(Admin)),
    ("GET", "/api/v1/firmware/compliance", Needs(Viewer)),
    ("GET", "/api/v1/firmware/campaigns", Needs(Viewer)),
    ("POST", "/api/v1/firmware/campaigns", Needs(Operator)),
    ("GET", "/api/v1/firmware/campaigns/{campaign}", Needs(Viewer)),
    ("POST", "/api/v1/firmware/campaigns/{campaign}/pause", Needs(Operator)),
    ("POST", "/api/v1/firmware/campaigns/{campaign}/resume", Needs(Operator)),
    ("POST", "/api/v1/firmware/campaigns/{campaign}/abort", Needs(Operator)),
    ("GET", "/api/v1/images", Needs(Viewer)),
    ("POST", "/api/v1/images", Needs(Operator)),
    ("POST", "/api/v1/images/from-file", Needs(Admin)),
    ("GET", "/api/v1/images/{image}", Needs(Viewer)),
    ("DELETE", "/api/v1/images/{image}", Needs(Operator)),
    ("GET", "/api/v1/racks", Needs(Viewer)),
    ("POST", "/api/v1/racks/import", Needs(Operator)),
    ("GET", "/api/v1/machines/{machine}/events", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/boots", Needs(Viewer)),
    ("GET", "/api/v1/machines/{machine}/log", Needs(Viewer)),
    ("GET", "/api/v1/runs/{run}", Needs(Viewer)),
    ("GET", "/api/v1/boots/strays", Needs(Viewer)),
    ("GET", "/api/v1/events", Needs(Viewer)),
    ("GET", "/api/v1/tokens", Needs(Admin)),
    ("POST", "/api/v1/tokens", Needs(Admin)),
    ("DELETE", "/api/v1/tokens/{token}", Needs(Admin)),
    ("GET", "/api/v1/users", Needs(Admin)),
    ("POST", "/api/v1/users", Needs(Admin)),
    ("DELETE", "/api/v1/users/{user}", Needs(Admin)),
    ("PUT", "/api/v1/users/{user}/password", SessionOrFrom(Admin)),
];

/// The access of a route by method and matched path; `None` is closed.
fn access_of(method: &Method, path: &str) -> Option<Access> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    ROUTES.iter().find(|(m, p, _)| *m == method && *p == path).map(|(_, _, access)| *access)
}

/// The one who sent a request, proven.
#[derive(Clone, Debug)]
pub struct Caller {
    pub actor: Actor,
    /// The session's CSRF token, for forms; absent for API tokens.
    pub csrf: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| AppError::Unauthenticated.into())
    }
}

/// The session cookie of a request.
pub fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(SESSION_COOKIE)?.strip_prefix('='))
        .filter(|token| token.len() == 64)
}

/// `Set-Cookie` that begins a session. It ends with the browser; the server ends it earlier.
pub fn begin_cookie(token: &str, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax{secure}")
}

/// `Set-Cookie` that ends a session.
pub fn end_cookie() -> String {
    format!("{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// Who sent a request with these headers: an API token first, else a session.
///
/// # Errors
/// 401 for a token that is not good; `Ok(None)` when neither was sent or the session ended.
pub async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Option<Caller>, Problem> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value
            .to_str()
            .ok()
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, t)| t.trim());
        let actor = match token {
            Some(token) if (16..=256).contains(&token.len()) => app.actor_of_token(token).await?,
            Some(_) | None => None,
        };
        return match actor {
            Some(actor) => Ok(Some(Caller { actor, csrf: None })),
            None => Err(Problem::new(StatusCode::UNAUTHORIZED, "bad_token", "this API token is not known, or it has expired")
                .hint("make a new one: hostler token create NAME --role ROLE")),
        };
    }
    let Some(cookie) = session_cookie(headers) else { return Ok(None) };
    Ok(app.session(cookie).await?.map(|s| Caller { actor: s.actor, csrf: Some(s.csrf) }))
}

/// Whether a mutating request of a browser session comes from our own pages.
///
/// # Errors
/// 403 `csrf`.
pub fn check_csrf(caller: &Caller, sent: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(expected) = &caller.csrf else { return Ok(()) };
    let same_site = headers.get("sec-fetch-site").and_then(|v| v.to_str().ok()).is_none_or(|site| matches!(site, "same-origin" | "none"));
    let matches = sent.is_some_and(|s| bool::from(s.as_bytes().ct_eq(expected.as_bytes())));
    if same_site && matches {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "csrf", "this request does not come from a page of this service")
        .hint("reload the page and try again; programs use an API token"))
}

fn changes_something(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The gate in front of every API route.
pub async fn gate(State(app): State<App>, path: Option<MatchedPath>, mut request: Request, next: Next) -> Response {
    // No route matched: the router answers 404 by itself, there is nothing to guard.
    let Some(path) = path else { return next.run(request).await };
    let method = request.method().clone();
    let access = access_of(&method, path.as_str());
    if access == Some(Open) {
        return next.run(request).await;
    }
    match admit(&app, access, &method, request.headers()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(app: &App, access: Option<Access>, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    let caller = authenticate(app, headers).await?.ok_or(AppError::Unauthenticated)?;
    if caller.actor.via == ActorVia::Session && changes_something(method) {
        check_csrf(&caller, headers.get(X_CSRF_TOKEN).and_then(|v| v.to_str().ok()), headers)?;
    }
    match access {
        Some(Needs(role)) => crate::app::need(&caller.actor, role)?,
        Some(SessionOrFrom(role)) => match caller.actor.via {
            ActorVia::Session => {}
            ActorVia::Token | ActorVia::Local => crate::app::need(&caller.actor, role)?,
        },
        // A method that the path does not take, or a route that is missing in the table: closed.
        Some(Open) | None => return Err(Problem::of_status(StatusCode::METHOD_NOT_ALLOWED)),
    }
    Ok(caller)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_outside_the_table_is_closed() {
        assert_eq!(access_of(&Method::GET, "/api/v1/secret"), None);
        assert_eq!(access_of(&Method::POST, "/api/v1/me"), None);
        assert_eq!(access_of(&Method::HEAD, "/api/v1/me"), Some(Needs(Viewer)));
    }

    #[test]
    fn nothing_that_changes_a_machine_is_open_to_viewers() {
        for (method, path, access) in ROUTES {
            if *method != "GET" && path.contains("machines") {
                assert!(matches!(access, Needs(role) if *role > Viewer), "{method} {path}");
            }
        }
    }

    #[test]
    fn a_session_cookie_is_found_among_others_and_only_whole() {
        let headers = |value: &str| HeaderMap::from_iter([(header::COOKIE, value.parse().unwrap())]);
        let token = "a".repeat(64);
        assert_eq!(session_cookie(&headers(&format!("x=1; {SESSION_COOKIE}={token}; y=2"))), Some(token.as_str()));
        assert_eq!(session_cookie(&headers(&format!("{SESSION_COOKIE}=short"))), None);
        assert_eq!(session_cookie(&headers(&format!("not{SESSION_COOKIE}={token}"))), None);
    }
}
