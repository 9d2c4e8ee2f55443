//! The REST API under `/api/v1`, described by OpenAPI 3.1 at `/api/v1/openapi.json`.

pub mod access;
pub mod bmc;
pub mod events;
pub mod firmware;
pub mod health;
pub mod images;
pub mod machines;
pub mod observe;
pub mod racks;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::auth;
use crate::http::error::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "Hostler", description = "Bare-metal provisioning and maintenance. Errors are RFC 9457 problem details."),
    components(schemas(Problem)),
    security(("token" = []), ("session" = []))
)]
struct Document;

/// A page of a list: ask for the rest with `cursor`.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct List<T> {
    pub items: Vec<T>,
    /// Send as `cursor` to get what follows; absent on the last page.
    pub next: Option<String>,
    /// How many fit the filter, over all pages.
    pub total: usize,
}

/// Routes and their description.
pub(crate) fn open_api() -> OpenApiRouter<App> {
    let mut document = Document::openapi();
    let schemes = document.components.get_or_insert_default();
    schemes.add_security_scheme("token", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    schemes.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(auth::SESSION_COOKIE))));
    OpenApiRouter::with_openapi(document).merge(health::router()).nest(
        "/api/v1",
        machines::router()
            .merge(bmc::router())
            .merge(observe::router())
            .merge(images::router())
            .merge(firmware::router())
            .merge(racks::router())
            .merge(events::router())
            .merge(access::router()),
    )
}

/// The API with its gate and its document.
pub fn router(app: &App) -> Router {
    let (router, document) = open_api().split_for_parts();
    let document: Arc<str> = document.to_pretty_json().unwrap_or_default().into();
    router
        .route("/api/v1/openapi.json", axum::routing::get(move || describe(document.clone())))
        .layer(axum::middleware::from_fn_with_state(app.clone(), auth::gate))
        .with_state(app.clone())
}

async fn describe(document: Arc<str>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}

/// The app of a request.
pub(crate) type TheApp = State<App>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_in_the_table_and_the_table_holds_no_other() {
        let (_, document) = open_api().split_for_parts();
        let document = serde_json::to_value(&document).unwrap();
        let mut described = BTreeSet::from([("GET".to_owned(), "/api/v1/openapi.json".to_owned())]);
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                described.insert((method.to_uppercase(), path.clone()));
            }
        }
        let table: BTreeSet<_> = auth::ROUTES.iter().map(|(m, p, _)| ((*m).to_owned(), (*p).to_owned())).collect();
        assert_eq!(described, table);
        assert_eq!(table.len(), auth::ROUTES.len(), "a route stands in the table twice");
    }

    #[test]
    fn the_document_is_openapi_3_1_and_every_reference_leads_somewhere() {
        let (_, document) = open_api().split_for_parts();
        let document = serde_json::to_value(&document).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let text = document.to_string();
        for name in text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }
}
