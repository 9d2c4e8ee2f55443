//! `/api/v1/firmware`: baselines, compliance, campaigns.

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::campaigns::{BaselineView, CampaignView, ComplianceView, NewBaseline, NewCampaign};
use crate::domain::campaign::CampaignState;
use crate::domain::id::CampaignId;
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Json, Path, Problem, Result};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(baselines, set_baseline))
        .routes(routes!(compliance))
        .routes(routes!(campaigns, start))
        .routes(routes!(show))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(abort))
}

/// What each model should run.
#[utoipa::path(get, path = "/firmware/baselines", tag = "firmware", responses((status = OK, body = Vec<BaselineView>), (status = "4XX", body = Problem)))]
async fn baselines(State(app): TheApp, caller: Caller) -> Result<Json<Vec<BaselineView>>> {
    Ok(Json(app.baselines(&caller.actor).await?))
}

/// Sets one line and takes its file in. Nothing is flashed by it.
#[utoipa::path(put, path = "/firmware/baselines", tag = "firmware", request_body = NewBaseline,
    responses((status = OK, body = BaselineView), (status = "4XX", body = Problem)))]
async fn set_baseline(State(app): TheApp, caller: Caller, Json(new): Json<NewBaseline>) -> Result<Json<BaselineView>> {
    Ok(Json(app.set_baseline(&caller.actor, new).await?))
}

/// How each machine stands to its model's baseline.
#[utoipa::path(get, path = "/firmware/compliance", tag = "firmware", responses((status = OK, body = Vec<ComplianceView>), (status = "4XX", body = Problem)))]
async fn compliance(State(app): TheApp, caller: Caller) -> Result<Json<Vec<ComplianceView>>> {
    Ok(Json(app.firmware_compliance(&caller.actor).await?))
}

/// Campaigns, newest first.
#[utoipa::path(get, path = "/firmware/campaigns", tag = "firmware", responses((status = OK, body = Vec<CampaignView>), (status = "4XX", body = Problem)))]
async fn campaigns(State(app): TheApp, caller: Caller) -> Result<Json<Vec<CampaignView>>> {
    Ok(Json(app.campaigns(&caller.actor).await?))
}

/// Begins to bring every accepted machine of a model to its baseline, wave by wave.
#[utoipa::path(post, path = "/firmware/campaigns", tag = "firmware", request_body = NewCampaign,
    responses((status = CREATED, body = CampaignView), (status = "4XX", body = Problem)))]
async fn start(State(app): TheApp, caller: Caller, Json(new): Json<NewCampaign>) -> Result<(StatusCode, Json<CampaignView>)> {
    Ok((StatusCode::CREATED, Json(app.start_campaign(&caller.actor, new).await?)))
}

/// One campaign with its machines.
#[utoipa::path(get, path = "/firmware/campaigns/{campaign}", tag = "firmware", params(("campaign" = String, Path)),
    responses((status = OK, body = CampaignView), (status = "4XX", body = Problem)))]
async fn show(State(app): TheApp, caller: Caller, Path(id): Path<CampaignId>) -> Result<Json<CampaignView>> {
    Ok(Json(app.campaign(&caller.actor, id).await?))
}

/// Begins no further machine; what is under way ends.
#[utoipa::path(post, path = "/firmware/campaigns/{campaign}/pause", tag = "firmware", params(("campaign" = String, Path)),
    responses((status = OK, body = CampaignView), (status = "4XX", body = Problem)))]
async fn pause(State(app): TheApp, caller: Caller, Path(id): Path<CampaignId>) -> Result<Json<CampaignView>> {
    Ok(Json(app.steer_campaign(&caller.actor, id, CampaignState::Paused).await?))
}

/// Goes on after a pause or a halt; the failures seen are accepted by it.
#[utoipa::path(post, path = "/firmware/campaigns/{campaign}/resume", tag = "firmware", params(("campaign" = String, Path)),
    responses((status = OK, body = CampaignView), (status = "4XX", body = Problem)))]
async fn resume(State(app): TheApp, caller: Caller, Path(id): Path<CampaignId>) -> Result<Json<CampaignView>> {
    Ok(Json(app.steer_campaign(&caller.actor, id, CampaignState::Running).await?))
}

/// Ends it for good; what is under way ends by itself.
#[utoipa::path(post, path = "/firmware/campaigns/{campaign}/abort", tag = "firmware", params(("campaign" = String, Path)),
    responses((status = OK, body = CampaignView), (status = "4XX", body = Problem)))]
async fn abort(State(app): TheApp, caller: Caller, Path(id): Path<CampaignId>) -> Result<Json<CampaignView>> {
    Ok(Json(app.steer_campaign(&caller.actor, id, CampaignState::Aborted).await?))
}
