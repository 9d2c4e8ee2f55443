//! Logging in and out.

use std::net::IpAddr;

use askama::Template;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::app::AppError;
use crate::clock;
use crate::domain::secret::Secret;
use crate::http::auth;
use crate::http::frame::Peer;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::shell::{self, PageError, Person, User, sentence};
use crate::http::ui::text::Text;

/// Holds the login form's own token: there is no session yet that could (login CSRF).
const LOGIN_COOKIE: &str = "hostler_login";

#[derive(Template)]
#[template(path = "ui/login.html")]
struct LoginPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    error: Option<Text>,
    csrf: &'a str,
    next: &'a str,
    name: Text,
}

#[derive(Deserialize)]
pub struct NextQuery {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub struct LoginForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    password: String,
}

/// A path of ours to go to after the login, and nothing else: no other host, no scheme, no backslash that browsers read
/// as a slash, no tab or line end that they drop (`/<tab>/host` is `//host` to them).
fn way_back(next: &str) -> &str {
    let ours = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains(|c: char| c == '\\' || c.is_control())
        && !next.starts_with("/login")
        && !next.starts_with("/logout")
        && !next.starts_with("/ui/");
    if ours { next } else { "/machines" }
}

/// `GET /login`.
pub async fn form(State(ui): State<Ui>, headers: HeaderMap, Query(query): Query<NextQuery>) -> Response {
    let next = way_back(&query.next);
    if let Ok(Some(_)) = auth::authenticate(&ui.app, &headers).await {
        return Redirect::to(next).into_response();
    }
    login_page(StatusCode::OK, None, next, "")
}

fn login_page(status: StatusCode, error: Option<&str>, next: &str, name: &str) -> Response {
    let csrf = clock::fresh_token();
    let page = LoginPage {
        assets: &HREFS,
        user: None,
        at: "",
        error: error.map(|e| Text::new(&sentence(e))),
        csrf: &csrf,
        next,
        name: Text::new(name),
    };
    let mut response = shell::page_with(status, &page);
    set_cookie(&mut response, &format!("{LOGIN_COOKIE}={csrf}; Path=/login; HttpOnly; SameSite=Strict"));
    response
}

fn set_cookie(response: &mut Response, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The address a request came from.
pub struct From(IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for From {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(Peer::of(&parts.extensions)))
    }
}

/// `POST /login`.
pub async fn log_in(State(ui): State<Ui>, From(from): From, headers: HeaderMap, axum::Form(form): axum::Form<LoginForm>) -> Response {
    let next = way_back(&form.next);
    let sent = cookie(&headers, LOGIN_COOKIE).is_some_and(|c| c.len() == 64 && bool::from(c.as_bytes().ct_eq(form.csrf.as_bytes())));
    if !sent {
        return login_page(
            StatusCode::FORBIDDEN,
            Some("this form was open for too long, or cookies are off; please try again"),
            next,
            &form.user,
        );
    }
    let old = auth::session_cookie(&headers);
    match ui.app.login(&form.user, Secret::new(form.password), from, old).await {
        Ok(session) => {
            let mut response = Redirect::to(next).into_response();
            set_cookie(&mut response, &auth::begin_cookie(session.token.expose(), false));
            set_cookie(&mut response, &format!("{LOGIN_COOKIE}=; Path=/login; HttpOnly; SameSite=Strict; Max-Age=0"));
            response
        }
        Err(e @ (AppError::BadLogin | AppError::LoginPaused { .. })) => {
            let status = if matches!(e, AppError::BadLogin) { StatusCode::UNAUTHORIZED } else { StatusCode::TOO_MANY_REQUESTS };
            login_page(status, Some(&e.to_string()), next, &form.user)
        }
        Err(e) => PageError::of(e.into(), None).into_response(),
    }
}

#[derive(Deserialize)]
pub struct CsrfForm {
    #[serde(default)]
    csrf: String,
}

/// `POST /logout`.
///
/// # Errors
/// 403 for a form that is not ours, the app's.
pub async fn log_out(
    State(ui): State<Ui>,
    person: Person,
    headers: HeaderMap,
    axum::Form(form): axum::Form<CsrfForm>,
) -> Result<Response, PageError> {
    person.check(&form.csrf, &headers)?;
    if let Some(token) = auth::session_cookie(&headers) {
        ui.app.logout(token).await.map_err(|e| PageError::app(e, &person))?;
    }
    let mut response = Redirect::to("/login").into_response();
    set_cookie(&mut response, &auth::end_cookie());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_login_nobody_is_sent_to_another_site() {
        for bad in [
            "",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/login?next=/",
            "javascript:alert(1)",
            "/a\r\nSet-Cookie: x",
            "/\t/evil.example",
            "/\u{0}/evil.example",
        ] {
            assert_eq!(way_back(bad), "/machines", "{bad}");
        }
        assert_eq!(way_back("/machines/x?said=y"), "/machines/x?said=y");
    }
}
