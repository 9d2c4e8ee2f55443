//! What every page shares: who is logged in, the frame, errors as pages.

use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};

use crate::app::AppError;
use crate::clock;
use crate::domain::access::Actor;
use crate::http::auth::{self, Caller};
use crate::http::error::Problem;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::text::{Text, stamp};
use crate::http::ui::words::Tone;

/// Who looks at a page, as its frame shows them.
#[derive(Clone)]
pub struct User {
    pub name: Text,
    pub role: String,
    pub csrf: String,
}

/// The frame around a page; templates read its fields by these names.
pub struct Frame {
    pub user: Option<User>,
    pub at: &'static str,
}

impl Frame {
    pub fn of(person: &Person, at: &'static str) -> Self {
        Self { user: Some(person.user()), at }
    }
}

/// A line on top of a page about what was just done.
pub struct Flash {
    pub tone: Tone,
    pub text: Text,
}

/// The one who is logged in; else the way to the login page.
pub struct Person {
    pub actor: Actor,
    pub csrf: String,
    caller: Caller,
}

impl Person {
    pub fn user(&self) -> User {
        User { name: Text::new(&self.actor.name), role: self.actor.role.to_string(), csrf: self.csrf.clone() }
    }

    /// Whether a form was sent from one of our pages.
    ///
    /// # Errors
    /// 403.
    pub fn check(&self, csrf: &str, headers: &HeaderMap) -> Result<(), PageError> {
        auth::check_csrf(&self.caller, Some(csrf), headers).map_err(|p| PageError::of(p, Some(self)))
    }
}

impl FromRequestParts<Ui> for Person {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, ui: &Ui) -> Result<Self, Response> {
        match auth::authenticate(&ui.app, &parts.headers).await {
            Ok(Some(caller)) => Ok(Self { actor: caller.actor.clone(), csrf: caller.csrf.clone().unwrap_or_default(), caller }),
            Ok(None) => Err(to_login(&parts.uri)),
            Err(problem) => Err(PageError::of(problem, None).into_response()),
        }
    }
}

/// To the login page, and back here afterwards. A form that was sent is lost, so its page is where it goes back to.
fn to_login(uri: &Uri) -> Response {
    let next: String = url_encoded(uri.path_and_query().map_or("/", |p| p.as_str()));
    Redirect::to(&format!("/login?next={next}")).into_response()
}

/// Percent-encodes for a query value (RFC 3986 unreserved characters stay).
pub fn url_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// Renders a page: times filled in, not kept by any cache, with our clock beside it so that the browser can count on.
pub fn page(template: &impl Template) -> Response {
    page_with(StatusCode::OK, template)
}

pub fn page_with(status: StatusCode, template: &impl Template) -> Response {
    let now = clock::now();
    match template.render() {
        Ok(html) => html_response(status, stamp(&html, now), now.0 / 1000),
        Err(e) => {
            tracing::error!(error = &e as &dyn std::error::Error, "a page could not be rendered");
            html_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "<!doctype html><title>Hostler</title><p>The page could not be rendered. The service's log says why.".to_owned(),
                0,
            )
        }
    }
}

fn html_response(status: StatusCode, html: String, now_millis: i64) -> Response {
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&format!("now;desc=\"{now_millis}\"")) {
        headers.insert("server-timing", value);
    }
    response
}

/// An error as a page a person can act on.
pub struct PageError {
    problem: Box<Problem>,
    user: Option<User>,
}

impl PageError {
    pub fn of(problem: Problem, person: Option<&Person>) -> Self {
        Self { problem: Box::new(problem), user: person.map(Person::user) }
    }

    pub fn app(error: AppError, person: &Person) -> Self {
        Self::of(error.into(), Some(person))
    }
}

#[derive(Template)]
#[template(path = "ui/error.html")]
struct ErrorPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    code: String,
    title: &'static str,
    detail: Text,
    hint: Option<Text>,
    back: &'static str,
    back_word: &'static str,
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let status = self.problem.status();
        let title = match status {
            StatusCode::NOT_FOUND => "Not here",
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::UNAUTHORIZED => "Please log in",
            StatusCode::CONFLICT => "Not possible now",
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => "That does not work",
            StatusCode::PAYLOAD_TOO_LARGE => "Too large",
            _ => "Something failed",
        };
        let (back, back_word) = if status == StatusCode::UNAUTHORIZED { ("/login", "Log in") } else { ("/machines", "To the machines") };
        let page = ErrorPage {
            assets: &HREFS,
            user: self.user,
            at: "",
            code: format!("{} {}", status.as_u16(), self.problem.code),
            title,
            detail: Text::new(&sentence(&self.problem.detail)),
            hint: self.problem.hint.as_deref().map(|h| Text::new(&sentence(h))),
            back,
            back_word,
        };
        page_with(status, &page)
    }
}

/// Starts with a capital, unless its first word is a name (`r12-u07`), and ends with a full stop.
pub fn sentence(text: &str) -> String {
    let text = text.trim();
    let is_word = text.split_whitespace().next().is_some_and(|w| w.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '\'' | ',')));
    let mut chars = text.chars();
    let mut out: String = match chars.next() {
        Some(c) if is_word => c.to_uppercase().chain(chars).collect(),
        Some(_) | None => text.to_owned(),
    };
    if !out.is_empty() && !out.ends_with(['.', '!', '?', ':']) {
        out.push('.');
    }
    out
}

/// A problem as a page, for a browser that asked for a path or a method we do not have.
pub fn problem_page(mut problem: Problem) -> Response {
    if problem.status() == StatusCode::NOT_FOUND {
        // The hint for programs, where the API is described, is none for people.
        problem.hint = None;
    }
    PageError { problem: Box::new(problem), user: None }.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_after_a_login_is_one_query_value() {
        assert_eq!(url_encoded("/machines?q=a&b=<"), "%2Fmachines%3Fq%3Da%26b%3D%3C");
    }

    #[test]
    fn errors_read_as_sentences() {
        assert_eq!(sentence("no machine is known as \"x\""), "No machine is known as \"x\".");
        assert_eq!(sentence("Done."), "Done.");
        assert_eq!(sentence("r12-u07 does not answer"), "r12-u07 does not answer.");
    }
}
