//! `/api/v1/racks`.

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::racks::{ImportReport, RackView};
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Json, Problem, Result};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(import))
}

/// Racks with what stands in them and what has not turned up.
#[utoipa::path(get, path = "/racks", tag = "racks", responses((status = OK, body = Vec<RackView>), (status = "4XX", body = Problem)))]
async fn list(State(app): TheApp, caller: Caller) -> Result<Json<Vec<RackView>>> {
    Ok(Json(app.racks(&caller.actor).await?))
}

/// Imports a packing list, all of it or nothing. Columns: serial, mac, bmc, user, password, rack, u, name.
#[utoipa::path(post, path = "/racks/import", tag = "racks", request_body(content = String, content_type = "text/csv"),
    responses((status = OK, body = ImportReport), (status = "4XX", body = Problem)))]
async fn import(State(app): TheApp, caller: Caller, request: Request) -> Result<Json<ImportReport>> {
    let text = String::from_request(request, &app).await.map_err(|rejection| match rejection.status() {
        StatusCode::BAD_REQUEST => {
            Problem::new(StatusCode::BAD_REQUEST, "not_text", "the packing list is not text in UTF-8").hint("save it as CSV in UTF-8")
        }
        status => Problem::of_status(status),
    })?;
    Ok(Json(app.import_packing_list(&caller.actor, &text).await?))
}
