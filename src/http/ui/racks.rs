//! Importing a packing list: what is about to arrive.

use askama::Template;
use axum::extract::{Multipart, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::app::AppError;
use crate::app::error::Flaw;
use crate::app::racks::ImportReport;
use crate::http::error::Problem;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::shell::{self, Frame, PageError, Person, User, sentence};
use crate::http::ui::text::Text;

const COLUMNS: &str = "serial,mac,bmc,user,password,rack,u,name";
const EXAMPLE: &str = "serial,mac,bmc,user,password,rack,u\nHST7K01Q,52:54:00:12:00:01,10.12.0.1,admin,secret,r12,1\nHST7K02Q,52:54:00:12:00:02,10.12.0.2,admin,secret,r12,2";

#[derive(Template)]
#[template(path = "ui/import.html")]
struct ImportPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    csrf: &'a str,
    done: Option<String>,
    error: Option<(Text, Option<Text>)>,
    flaws: Vec<Text>,
    csv: &'a str,
    columns: &'static str,
    example: &'static str,
}

fn flaw_line(f: &Flaw) -> Text {
    let line = f.line.map(|l| format!("Line {l}")).unwrap_or_default();
    let field = f.field.as_ref().map(|n| format!(", {n}")).unwrap_or_default();
    Text::new(&format!("{line}{field}: {}", f.message))
}

fn report_words(r: &ImportReport) -> String {
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let mut out =
        format!("{} machine{} announced, {} updated, {} unchanged.", r.created.len(), s(r.created.len()), r.updated.len(), r.unchanged);
    if !r.not_turned_up.is_empty() {
        out.push_str(&format!(" {} of the list not seen yet.", r.not_turned_up.len()));
    }
    out
}

fn render(person: &Person, status: StatusCode, done: Option<String>, error: Option<&AppError>, csv: &str) -> Response {
    let flaws = match error {
        Some(AppError::Invalid { flaws, .. }) => flaws.iter().map(flaw_line).collect(),
        Some(_) | None => Vec::new(),
    };
    let frame = Frame::of(person, "import");
    let page = ImportPage {
        assets: &HREFS,
        user: frame.user,
        at: frame.at,
        csrf: &person.csrf,
        done,
        error: error.map(|e| (Text::new(&sentence(&e.to_string())), e.hint().map(|h| Text::new(&sentence(&h))))),
        flaws,
        csv,
        columns: COLUMNS,
        example: EXAMPLE,
    };
    shell::page_with(status, &page)
}

/// `GET /racks/import`.
pub async fn form(person: Person) -> Response {
    render(&person, StatusCode::OK, None, None, "")
}

/// `POST /racks/import`: a file or pasted text.
///
/// # Errors
/// 403 for a form that is not ours, 413 for one that is too large, the app's.
pub async fn import(State(ui): State<Ui>, person: Person, headers: HeaderMap, mut sent: Multipart) -> Result<Response, PageError> {
    let unread =
        |e: axum::extract::multipart::MultipartError| PageError::of(Problem::new(e.status(), "bad_form", e.body_text()), Some(&person));
    let (mut csrf, mut file, mut pasted) = (String::new(), String::new(), String::new());
    while let Some(field) = sent.next_field().await.map_err(unread)? {
        let into = match field.name() {
            Some("csrf") => &mut csrf,
            Some("file") => &mut file,
            Some("csv") => &mut pasted,
            Some(_) | None => continue,
        };
        *into = field.text().await.map_err(unread)?;
    }
    person.check(&csrf, &headers)?;
    let text = if file.trim().is_empty() { &pasted } else { &file };
    match ui.app.import_packing_list(&person.actor, text).await {
        Ok(report) => Ok(render(&person, StatusCode::OK, Some(report_words(&report)), None, "")),
        // A pasted list may hold passwords; its sender typed them a moment ago and gets them back to be corrected.
        Err(e @ AppError::Invalid { .. }) => Ok(render(&person, StatusCode::UNPROCESSABLE_ENTITY, None, Some(&e), &pasted)),
        Err(e @ AppError::Refused { .. }) => Ok(render(&person, StatusCode::CONFLICT, None, Some(&e), &pasted)),
        Err(e) => Err(PageError::app(e, &person)),
    }
}
