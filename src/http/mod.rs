//! The HTTP surfaces. Two routers: the one for people and programs (pages and `/api/v1`), and the one on the provisioning
//! network (`/boot`, `/agent/v1`, `/phone-home`), which serves nothing secret and knows no login.

pub mod agent;
pub mod api;
pub mod auth;
pub mod boot;
pub mod error;
pub mod frame;
pub mod listen;
pub mod ui;

use axum::Router;

use crate::app::App;
use crate::app::intake::Intake;

/// Pages, API, health: the listener for people and programs.
pub fn main_router(app: &App) -> Router {
    let router = api::router(app).merge(ui::router(app.clone()));
    frame::wrap(router)
}

/// Boot files, the agent protocol, calls of deployed systems: the listener on the provisioning network.
pub fn machine_router(intake: Intake, routes: boot::BootRoutes) -> Router {
    frame::wrap(agent::router(intake).merge(boot::router(routes)))
}
