//! The images page.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::app::images::ImageView;
use crate::domain::power::FirmwareKind;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::shell::{self, Frame, PageError, Person, User};
use crate::http::ui::text::{Ago, Text, decimal_bytes};

struct ImageLine {
    name: Text,
    sha256: String,
    short: String,
    arch: String,
    boots_on: String,
    size: String,
    format: String,
    raw_size: String,
    user: Text,
    at: Ago,
    machines: usize,
}

impl ImageLine {
    fn of(i: &ImageView) -> Self {
        let sha256 = i.sha256.to_string();
        let boots_on = i.boots_on.iter().map(|f| match f {
            FirmwareKind::Bios => "BIOS",
            FirmwareKind::Uefi => "UEFI",
        });
        Self {
            name: Text::from(&i.name),
            short: sha256.chars().take(12).collect(),
            sha256,
            arch: i.arch.to_string(),
            boots_on: boots_on.collect::<Vec<_>>().join(", "),
            size: decimal_bytes(i.size_bytes),
            format: i.format.to_string(),
            raw_size: decimal_bytes(i.raw_size_bytes),
            user: Text::new(&i.default_user),
            at: Ago(i.imported_at),
            machines: i.machines,
        }
    }
}

#[derive(Template)]
#[template(path = "ui/images.html")]
struct ImagesPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    images: Vec<ImageLine>,
}

/// `GET /images`.
///
/// # Errors
/// The app's, as a page.
pub async fn list(State(ui): State<Ui>, person: Person) -> Result<Response, PageError> {
    let images = ui.app.images(&person.actor).await.map_err(|e| PageError::app(e, &person))?;
    let frame = Frame::of(&person, "images");
    Ok(shell::page(&ImagesPage { assets: &HREFS, user: frame.user, at: frame.at, images: images.iter().map(ImageLine::of).collect() })
        .into_response())
}
