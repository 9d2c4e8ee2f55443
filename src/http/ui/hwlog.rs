//! The page of a machine's hardware log with its filter, the evidence behind an entry, and the locator LED's form.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::app::AppError;
use crate::domain::hardware_log::LogSeverity;
use crate::domain::id::{MachineId, Sha256};
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::machine::find;
use crate::http::ui::observed::EntryLine;
use crate::http::ui::shell::{self, Frame, PageError, Person, User, url_encoded};
use crate::http::ui::text::Text;

/// Entries on one page.
const PAGE: u32 = 200;

#[derive(Deserialize)]
pub struct LogQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    before: String,
}

#[derive(Template)]
#[template(path = "ui/hwlog.html")]
struct LogPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    id: MachineId,
    name: Text,
    q: Text,
    severity: String,
    filtered: bool,
    entries: Vec<EntryLine>,
    older: Option<String>,
}

fn failed(error: AppError, person: &Person) -> Response {
    PageError::app(error, person).into_response()
}

/// `GET /machines/{machine}/logs?q=&severity=`.
///
/// # Errors
/// The app's, as a page.
pub async fn show(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Response> {
    let id = find(&ui, &person, &machine, "/logs").await?;
    let detail = ui.app.machine(&person.actor, id).await.map_err(|e| failed(e, &person))?;
    // A severity or a place that cannot be read is none: the address is a person's to edit.
    let at_least = query.severity.parse::<LogSeverity>().ok();
    let before = query.before.parse::<uuid::Uuid>().ok();
    let text = Some(query.q.clone()).filter(|q| !q.trim().is_empty());
    let view = ui.app.hardware_logs(&person.actor, id, at_least, text.clone(), before, PAGE).await.map_err(|e| failed(e, &person))?;
    let severity = at_least.map(|s| s.to_string()).unwrap_or_default();
    let older = view.next.map(|next| format!("/machines/{id}/logs?q={}&severity={severity}&before={next}", url_encoded(&query.q)));
    let frame = Frame::of(&person, "machines");
    let page = LogPage {
        assets: &HREFS,
        user: frame.user,
        at: frame.at,
        id,
        name: Text::from(&detail.machine.name),
        filtered: text.is_some() || at_least.is_some(),
        q: Text::new(&query.q.chars().take(200).collect::<String>()),
        severity,
        entries: view.items.iter().map(EntryLine::of).collect(),
        older,
    };
    Ok(shell::page(&page))
}

/// `GET /machines/{machine}/evidence/{hash}`: what was read, as JSON text.
///
/// # Errors
/// Not found, as a page.
pub async fn evidence(State(ui): State<Ui>, person: Person, Path((_, hash)): Path<(String, String)>) -> Result<Response, Response> {
    let not_found = || AppError::NotFound { what: "evidence", text: hash.chars().take(80).collect() };
    let hash: Sha256 = hash.parse().map_err(|_| failed(not_found(), &person))?;
    let body = ui.app.evidence(&person.actor, hash).await.map_err(|e| failed(e, &person))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

#[derive(Deserialize)]
pub struct LedForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    action: String,
}

/// `POST /machines/{machine}/led`: `on` lights it for the usual time, anything else puts it out.
///
/// # Errors
/// The app's, as a page.
pub async fn led(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(sent): axum::Form<LedForm>,
) -> Result<Response, Response> {
    person.check(&sent.csrf, &headers).map_err(IntoResponse::into_response)?;
    let id = find(&ui, &person, &machine, "").await?;
    let said = if sent.action == "on" {
        ui.app.led_on(&person.actor, id, None).await.map_err(|e| failed(e, &person))?;
        "led-on"
    } else {
        ui.app.led_off(&person.actor, id).await.map_err(|e| failed(e, &person))?;
        "led-off"
    };
    Ok(Redirect::to(&format!("/machines/{id}?said={said}")).into_response())
}
