//! Boots of addresses that belong to no machine: what asks for an address, and how far it comes.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::app::AppError;
use crate::clock;
use crate::domain::access::Actor;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::live;
use crate::http::ui::page::{BootLines, Strays};
use crate::http::ui::shell::{self, Frame, PageError, Person, User};

const SHOWN: u32 = 50;

#[derive(Template)]
#[template(path = "ui/boots.html")]
struct StraysPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    section: String,
    since: String,
}

/// The page's one live section.
///
/// # Errors
/// The app's.
pub async fn section(ui: &Ui, actor: &Actor) -> Result<String, AppError> {
    let now = clock::now();
    let boots = ui.app.stray_boots(actor, SHOWN).await?;
    let boots = boots.iter().map(|b| BootLines::of(b, b.diagnosis.is_some(), now)).collect();
    Strays { boots }.render().map_err(|e| AppError::Internal(format!("the stray boots cannot be rendered: {e}")))
}

/// `GET /boots`.
///
/// # Errors
/// The app's, as a page.
pub async fn show(State(ui): State<Ui>, person: Person) -> Result<Response, PageError> {
    let section = section(&ui, &person.actor).await.map_err(|e| PageError::app(e, &person))?;
    let frame = Frame::of(&person, "boots");
    let since = format!("{:x}", live::hash_of(&section));
    Ok(shell::page(&StraysPage { assets: &HREFS, user: frame.user, at: frame.at, section, since }).into_response())
}
