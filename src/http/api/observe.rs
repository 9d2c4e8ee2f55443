//! `/api/v1/machines/{machine}/sensors`, `/parts`, `/logs` and what else BMCs say; acts on the BMC itself.

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::bmc_acts::{ActResult, RawAnswer};
use crate::app::observe::{BiosView, CapabilitiesView, FirmwareView, LedView, LogsView, PartsView, Resolution, SampleView, SensorsView};
use crate::domain::hardware_log::LogSeverity;
use crate::domain::id::Sha256;
use crate::domain::time::Timestamp;
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Json, Path, Problem, Query, Result};

const ENTRIES: u32 = 100;
const MOST_ENTRIES: u32 = 5000;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sensors))
        .routes(routes!(samples))
        .routes(routes!(parts))
        .routes(routes!(logs))
        .routes(routes!(firmware))
        .routes(routes!(bios))
        .routes(routes!(capabilities))
        .routes(routes!(evidence))
        .routes(routes!(led, led_on, led_off))
        .routes(routes!(reset_bmc))
        .routes(routes!(raw))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SamplesQuery {
    /// 24 hours before `to` if absent.
    from: Option<Timestamp>,
    /// Now if absent.
    to: Option<Timestamp>,
    #[serde(default)]
    #[param(inline)]
    resolution: Resolution,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    /// This severity or a worse one.
    #[param(inline)]
    severity: Option<LogSeverity>,
    /// Part of a message, message id, origin or log name.
    q: Option<String>,
    /// `next` of the answer before: older entries.
    before: Option<uuid::Uuid>,
    /// 100 if absent, 5000 at most.
    limit: Option<u32>,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LedBody {
    /// Seconds until it goes out by itself; 900 if absent, 86400 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_secs: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RawBody {
    /// A path below /redfish/v1, or an IPMI command in hex: `netfn command data…`.
    pub ask: String,
}

/// Sensors with their latest readings, each with its quality and age.
#[utoipa::path(get, path = "/machines/{machine}/sensors", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = SensorsView), (status = "4XX", body = Problem)))]
async fn sensors(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<SensorsView>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.sensors(&caller.actor, id).await?))
}

/// Samples of one sensor, oldest first.
#[utoipa::path(get, path = "/machines/{machine}/sensors/{sensor}/samples", tag = "hardware",
    params(SamplesQuery, ("machine" = String, Path, description = "id, name, serial or MAC"), ("sensor" = u32, Path, description = "the sensor's number")),
    responses((status = OK, body = Vec<SampleView>), (status = "4XX", body = Problem)))]
async fn samples(
    State(app): TheApp,
    caller: Caller,
    Path((machine, sensor)): Path<(String, u32)>,
    Query(query): Query<SamplesQuery>,
) -> Result<Json<Vec<SampleView>>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.samples(&caller.actor, id, sensor, query.from, query.to, query.resolution).await?))
}

/// Parts with serials and places, and what happened to them.
#[utoipa::path(get, path = "/machines/{machine}/parts", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = PartsView), (status = "4XX", body = Problem)))]
async fn parts(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<PartsView>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.parts(&caller.actor, id).await?))
}

/// Entries of the BMC's own logs, newest first.
#[utoipa::path(get, path = "/machines/{machine}/logs", tag = "hardware", params(LogsQuery, ("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = LogsView), (status = "4XX", body = Problem)))]
async fn logs(State(app): TheApp, caller: Caller, Path(machine): Path<String>, Query(query): Query<LogsQuery>) -> Result<Json<LogsView>> {
    let id = app.find_machine(&machine).await?;
    let limit = query.limit.unwrap_or(ENTRIES).clamp(1, MOST_ENTRIES);
    Ok(Json(app.hardware_logs(&caller.actor, id, query.severity, query.q, query.before, limit).await?))
}

/// Firmware by component.
#[utoipa::path(get, path = "/machines/{machine}/firmware", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = FirmwareView), (status = "4XX", body = Problem)))]
async fn firmware(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<FirmwareView>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.firmware(&caller.actor, id).await?))
}

/// BIOS settings with what takes effect at the next boot.
#[utoipa::path(get, path = "/machines/{machine}/bios", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = BiosView), (status = "4XX", body = Problem)))]
async fn bios(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<BiosView>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.bios(&caller.actor, id).await?))
}

/// What the BMC can do and why not, how its polls go, and how much it is asked.
#[utoipa::path(get, path = "/machines/{machine}/capabilities", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = CapabilitiesView), (status = "4XX", body = Problem)))]
async fn capabilities(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<CapabilitiesView>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.capabilities(&caller.actor, id).await?))
}

/// What was read from a BMC, as it was read, by the hash of its text.
#[utoipa::path(get, path = "/evidence/{hash}", tag = "hardware", params(("hash" = Sha256, Path)),
    responses((status = OK, body = Object, content_type = "application/json"), (status = "4XX", body = Problem)))]
async fn evidence(State(app): TheApp, caller: Caller, Path(hash): Path<String>) -> Result<Response> {
    let hash: Sha256 =
        hash.parse().map_err(|_| Problem::new(axum::http::StatusCode::BAD_REQUEST, "bad_hash", "a hash is 64 hexadecimal digits"))?;
    let body = app.evidence(&caller.actor, hash).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The locator LED, if it is lit through Hostler; null if not.
#[utoipa::path(get, path = "/machines/{machine}/led", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = Option<LedView>), (status = "4XX", body = Problem)))]
async fn led(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<Option<LedView>>> {
    crate::app::need(&caller.actor, crate::domain::access::Role::Viewer)?;
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.led(id).await?))
}

/// Lights the locator LED; it goes out by itself.
#[utoipa::path(post, path = "/machines/{machine}/led", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    request_body = LedBody, responses((status = OK, body = LedView), (status = "4XX", body = Problem), (status = BAD_GATEWAY, body = Problem)))]
async fn led_on(State(app): TheApp, caller: Caller, Path(machine): Path<String>, Json(body): Json<LedBody>) -> Result<Json<LedView>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.led_on(&caller.actor, id, body.for_secs.map(Duration::from_secs)).await?))
}

/// Puts the locator LED out.
#[utoipa::path(delete, path = "/machines/{machine}/led", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = ActResult), (status = "4XX", body = Problem), (status = BAD_GATEWAY, body = Problem)))]
async fn led_off(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<ActResult>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.led_off(&caller.actor, id).await?))
}

/// Restarts the BMC itself; the machine runs on.
#[utoipa::path(post, path = "/machines/{machine}/bmc/reset", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = ActResult), (status = "4XX", body = Problem), (status = BAD_GATEWAY, body = Problem)))]
async fn reset_bmc(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<ActResult>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.reset_bmc(&caller.actor, id).await?))
}

/// Asks the BMC something raw. An IPMI command can change anything, so this is for administrators and is recorded.
#[utoipa::path(post, path = "/machines/{machine}/bmc/raw", tag = "hardware", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    request_body = RawBody, responses((status = OK, body = RawAnswer), (status = "4XX", body = Problem), (status = BAD_GATEWAY, body = Problem)))]
async fn raw(State(app): TheApp, caller: Caller, Path(machine): Path<String>, Json(body): Json<RawBody>) -> Result<Json<RawAnswer>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.ask_raw(&caller.actor, id, &body.ask).await?))
}
