//! The pages for people. Handlers are thin: they ask the app as the person who is logged in, and hand its views to
//! templates. Every page and every action works without JavaScript; scripts add that the page is live.

mod assets;
mod bar;
mod forms;
mod hardware;
mod hwlog;
mod images;
mod list;
mod live;
mod login;
mod machine;
mod observed;
mod page;
mod racks;

mod row;
mod shell;
mod spark;
mod strays;
mod text;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::response::Redirect;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::app::App;
pub use crate::http::ui::shell::problem_page;

/// What the pages' handlers share.
#[derive(Clone)]
pub struct Ui {
    app: App,
    list: Arc<list::ListCache>,
    streams: Arc<Semaphore>,
}

/// Pages, their forms, their streams and their files.
pub fn router(app: App) -> Router {
    let ui = Ui { app, list: Arc::new(list::ListCache::new()), streams: live::places() };
    Router::new()
        .route("/", get(|| async { Redirect::to("/machines") }))
        .route("/static/{digest}/{name}", get(assets::serve))
        .route("/login", get(login::form).post(login::log_in))
        .route("/logout", post(login::log_out))
        .route("/machines", get(list::machines))
        .route("/machines/{machine}", get(machine::show))
        .route("/machines/{machine}/accept", post(forms::accept))
        .route("/machines/{machine}/retry", post(forms::retry))
        .route("/machines/{machine}/deploy", get(forms::deploy_form).post(forms::deploy))
        .route("/machines/{machine}/release", get(forms::ask_release).post(forms::release))
        .route("/machines/{machine}/abort", get(forms::ask_abort).post(forms::abort))
        .route("/machines/{machine}/forget", get(forms::ask_forget).post(forms::forget))
        .route("/machines/{machine}/power", get(forms::ask_power).post(forms::power))
        .route("/machines/{machine}/led", post(hwlog::led))
        .route("/machines/{machine}/logs", get(hwlog::show))
        .route("/machines/{machine}/evidence/{hash}", get(hwlog::evidence))
        .route("/accept", get(forms::ask_accept).post(forms::accept_shown))
        .route("/images", get(images::list))
        .route("/racks/import", get(racks::form).post(racks::import))
        .route("/boots", get(strays::show))
        .route("/ui/events", get(live::events))
        .with_state(ui)
}
