//! `/api/v1/machines` and `/api/v1/runs`.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::machines::MachineFilter;
use crate::app::view::{BootView, EventView, LogLineView, MachineDetail, MachineView, RunView};
use crate::domain::id::{Name, RunId};
use crate::domain::inventory::DiskRef;
use crate::domain::machine::{DeploySpec, Lifecycle};
use crate::http::api::{List, TheApp};
use crate::http::auth::Caller;
use crate::http::error::{Json, Path, Problem, Query, Result};

/// Machines on one page of a list, unless asked otherwise, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
const LINES: u32 = 200;
const MOST_LINES: u32 = 5000;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, forget))
        .routes(routes!(accept))
        .routes(routes!(deploy))
        .routes(routes!(release))
        .routes(routes!(retry))
        .routes(routes!(abort))
        .routes(routes!(events))
        .routes(routes!(boots))
        .routes(routes!(log))
        .routes(routes!(run))
        .routes(routes!(stray_boots))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Lifecycle states, comma-separated: `ready,active`.
    state: Option<String>,
    /// Rack name.
    rack: Option<String>,
    /// Image on the disk.
    image: Option<String>,
    /// Part of a name, serial, MAC or BMC address.
    q: Option<String>,
    /// Only machines with a fault or out of use.
    #[serde(default)]
    faulty: bool,
    /// Machines on this page, 1 to 1000; 100 if absent.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

impl ListQuery {
    fn filter(&self) -> Result<MachineFilter> {
        let bad = |what: &str, why: String| Problem::new(StatusCode::BAD_REQUEST, "bad_query", format!("{what}: {why}"));
        let states = match self.state.as_deref() {
            None => Vec::new(),
            Some(list) => list
                .split(',')
                .map(|s| s.trim().parse::<Lifecycle>())
                .collect::<std::result::Result<_, _>>()
                .map_err(|e| bad("state", e))?,
        };
        Ok(MachineFilter {
            states,
            rack: self
                .rack
                .as_deref()
                .map(str::parse)
                .transpose()
                .map_err(|e: crate::domain::place::BadRackName| bad("rack", e.to_string()))?,
            image: self
                .image
                .as_deref()
                .map(str::parse)
                .transpose()
                .map_err(|e: crate::domain::id::BadName| bad("image", e.to_string()))?,
            text: self.q.clone().filter(|q| !q.trim().is_empty()),
            faulty: self.faulty,
        })
    }
}

/// How to set up the system after its image is on disk.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    pub image: Name,
    /// The machine's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// Public keys, one line each.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// cloud-init user data, passed through unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// cloud-init network config, passed through unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_config: Option<String>,
    /// The disk to write; chosen by rule when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskRef>,
}

impl From<DeployBody> for DeploySpec {
    fn from(b: DeployBody) -> Self {
        Self {
            image: b.image,
            hostname: b.hostname,
            ssh_keys: b.ssh_keys,
            user_data: b.user_data,
            network_config: b.network_config,
            disk: b.disk,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LimitQuery {
    /// How many of the newest; 200 if absent, 5000 at most.
    limit: Option<u32>,
}

impl LimitQuery {
    fn lines(&self) -> u32 {
        self.limit.unwrap_or(LINES).clamp(1, MOST_LINES)
    }
}

/// Machines, by name.
#[utoipa::path(get, path = "/machines", tag = "machines", params(ListQuery), responses((status = OK, body = List<MachineView>), (status = "4XX", body = Problem)))]
async fn list(State(app): TheApp, caller: Caller, Query(query): Query<ListQuery>) -> Result<Json<List<MachineView>>> {
    let limit = query.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let page = app.machines(&caller.actor, &query.filter()?, query.cursor.as_deref(), limit).await?;
    Ok(Json(List { items: page.items, next: page.next, total: page.total }))
}

/// Everything about one machine.
#[utoipa::path(get, path = "/machines/{machine}", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = MachineDetail), (status = "4XX", body = Problem)))]
async fn show(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<MachineDetail>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.machine(&caller.actor, id).await?))
}

/// Drops the record. Touches nothing on the machine; if it shows up again it is discovered anew.
#[utoipa::path(delete, path = "/machines/{machine}", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = NO_CONTENT), (status = "4XX", body = Problem)))]
async fn forget(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<StatusCode> {
    let id = app.find_machine(&machine).await?;
    app.forget(&caller.actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts a discovered machine; its inventory is taken next.
#[utoipa::path(post, path = "/machines/{machine}/accept", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = ACCEPTED, body = MachineView), (status = "4XX", body = Problem)))]
async fn accept(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<(StatusCode, Json<MachineView>)> {
    let id = app.find_machine(&machine).await?;
    Ok((StatusCode::ACCEPTED, Json(app.accept(&caller.actor, id).await?)))
}

/// Writes an image on a ready machine and boots it.
#[utoipa::path(post, path = "/machines/{machine}/deploy", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    request_body = DeployBody, responses((status = ACCEPTED, body = MachineView), (status = "4XX", body = Problem)))]
async fn deploy(
    State(app): TheApp,
    caller: Caller,
    Path(machine): Path<String>,
    Json(body): Json<DeployBody>,
) -> Result<(StatusCode, Json<MachineView>)> {
    let id = app.find_machine(&machine).await?;
    Ok((StatusCode::ACCEPTED, Json(app.deploy(&caller.actor, id, body.into()).await?)))
}

/// Wipes the machine's disks, reads them back and makes it ready again.
#[utoipa::path(post, path = "/machines/{machine}/release", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = ACCEPTED, body = MachineView), (status = "4XX", body = Problem)))]
async fn release(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<(StatusCode, Json<MachineView>)> {
    let id = app.find_machine(&machine).await?;
    Ok((StatusCode::ACCEPTED, Json(app.release(&caller.actor, id).await?)))
}

/// Lets a failed run go on.
#[utoipa::path(post, path = "/machines/{machine}/retry", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = ACCEPTED, body = MachineView), (status = "4XX", body = Problem)))]
async fn retry(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<(StatusCode, Json<MachineView>)> {
    let id = app.find_machine(&machine).await?;
    Ok((StatusCode::ACCEPTED, Json(app.retry(&caller.actor, id).await?)))
}

/// Gives up the current run.
#[utoipa::path(post, path = "/machines/{machine}/abort", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = ACCEPTED, body = MachineView), (status = "4XX", body = Problem)))]
async fn abort(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<(StatusCode, Json<MachineView>)> {
    let id = app.find_machine(&machine).await?;
    Ok((StatusCode::ACCEPTED, Json(app.abort(&caller.actor, id).await?)))
}

/// The newest events of a machine, oldest first.
#[utoipa::path(get, path = "/machines/{machine}/events", tag = "machines", params(LimitQuery, ("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = Vec<EventView>), (status = "4XX", body = Problem)))]
async fn events(
    State(app): TheApp,
    caller: Caller,
    Path(machine): Path<String>,
    Query(query): Query<LimitQuery>,
) -> Result<Json<Vec<EventView>>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.events(&caller.actor, Some(id), None, None, query.lines()).await?))
}

/// The newest boots of a machine, newest first.
#[utoipa::path(get, path = "/machines/{machine}/boots", tag = "machines", params(LimitQuery, ("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = Vec<BootView>), (status = "4XX", body = Problem)))]
async fn boots(
    State(app): TheApp,
    caller: Caller,
    Path(machine): Path<String>,
    Query(query): Query<LimitQuery>,
) -> Result<Json<Vec<BootView>>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.boots(&caller.actor, id, query.lines()).await?))
}

/// The newest lines of the agent's log, oldest first.
#[utoipa::path(get, path = "/machines/{machine}/log", tag = "machines", params(LimitQuery, ("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = Vec<LogLineView>), (status = "4XX", body = Problem)))]
async fn log(
    State(app): TheApp,
    caller: Caller,
    Path(machine): Path<String>,
    Query(query): Query<LimitQuery>,
) -> Result<Json<Vec<LogLineView>>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.agent_log(&caller.actor, id, query.lines()).await?))
}

/// One run with its steps.
#[utoipa::path(get, path = "/runs/{run}", tag = "machines", params(("run" = RunId, Path)), responses((status = OK, body = RunView), (status = "4XX", body = Problem)))]
async fn run(State(app): TheApp, caller: Caller, Path(run): Path<RunId>) -> Result<Json<RunView>> {
    Ok(Json(app.run(&caller.actor, run).await?))
}

/// Boots of MACs that belong to no machine yet, newest first: packets without an agent behind them.
#[utoipa::path(get, path = "/boots/strays", tag = "machines", params(LimitQuery), responses((status = OK, body = Vec<BootView>), (status = "4XX", body = Problem)))]
async fn stray_boots(State(app): TheApp, caller: Caller, Query(query): Query<LimitQuery>) -> Result<Json<Vec<BootView>>> {
    Ok(Json(app.stray_boots(&caller.actor, query.lines()).await?))
}
