//! The machine page's handler.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::domain::id::MachineId;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::live;
use crate::http::ui::page::Section;
use crate::http::ui::shell::{self, Flash, Frame, PageError, Person, User, url_encoded};
use crate::http::ui::text::Text;
use crate::http::ui::words::Tone;

#[derive(Template)]
#[template(path = "ui/machine.html")]
struct MachinePage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    flash: Option<Flash>,
    id: MachineId,
    name: Text,
    sections: &'a [Section],
    since: String,
}

impl MachinePage<'_> {
    fn section(&self, id: &str) -> &str {
        self.sections.iter().find(|s| s.id == id).map_or("", |s| s.html.as_str())
    }
}

#[derive(Deserialize)]
pub struct SaidQuery {
    #[serde(default)]
    said: String,
}

/// What was just asked for; only these texts can be shown, whatever the address says.
fn flash(said: &str) -> Option<Flash> {
    let text = match said {
        "accept" => "Accepted. Its enrolment starts now.",
        "deploy" => "The installation was asked for and starts now.",
        "release" => "Released. Its disks are wiped and read back.",
        "retry" => "It is tried again.",
        "abort" => "The work was given up.",
        "led-on" => "The locator LED blinks.",
        "led-off" => "The locator LED is out.",
        "power" => "The BMC took the power command, and its effect was seen.",
        "power-unseen" => {
            let text = "The BMC took the power command, but showed no effect within a few seconds. Look at the power state in a moment.";
            return Some(Flash { tone: Tone::Warn, text: Text::new(text) });
        }
        _ => return None,
    };
    Some(Flash { tone: Tone::Ok, text: Text::new(text) })
}

/// Finds a machine by id, or by anything that names one: then the browser is sent to its lasting address.
///
/// # Errors
/// Not found or ambiguous, as a page; or the redirect.
pub async fn find(ui: &Ui, person: &Person, text: &str, tail: &str) -> Result<MachineId, Response> {
    if let Ok(id) = text.parse::<MachineId>() {
        return Ok(id);
    }
    match ui.app.find_machine(text).await {
        Ok(id) => Err(Redirect::permanent(&format!("/machines/{id}{tail}")).into_response()),
        // Several, or none: the list shows what there is.
        Err(crate::app::AppError::Ambiguous { .. }) => Err(Redirect::to(&format!("/machines?q={}", url_encoded(text))).into_response()),
        Err(e) => Err(PageError::app(e, person).into_response()),
    }
}

/// `GET /machines/{machine}`.
///
/// # Errors
/// Not found, as a page.
pub async fn show(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    Query(query): Query<SaidQuery>,
) -> Result<Response, Response> {
    let id = find(&ui, &person, &machine, "").await?;
    let row = ui.app.machine(&person.actor, id).await.map_err(|e| PageError::app(e, &person).into_response())?;
    let sections = live::render(&ui, &row, &person.actor, &person.csrf).await.map_err(|e| PageError::app(e, &person).into_response())?;
    let frame = Frame::of(&person, "machines");
    let page = MachinePage {
        assets: &HREFS,
        user: frame.user,
        at: frame.at,
        flash: flash(&query.said),
        id,
        name: Text::from(&row.machine.name),
        since: live::mark_of(&sections),
        sections: &sections,
    };
    Ok(shell::page(&page).into_response())
}
