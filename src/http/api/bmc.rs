//! `/api/v1/machines/{machine}/power` and `/bmc`.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::bmc::{BmcChange, PowerReading, PowerResult};
use crate::app::view::BmcView;
use crate::domain::bmc::BmcAddress;
use crate::domain::power::PowerAction;
use crate::domain::secret::Secret;
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Json, Path, Problem, Result};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read_power, power)).routes(routes!(set_bmc))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerBody {
    pub action: PowerAction,
}

/// What to change; what is absent stays. A new address needs the password again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BmcBody {
    #[serde(default)]
    address: Option<BmcAddress>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    password: Option<String>,
    /// Forget the pinned certificate; the next contact pins what it sees.
    #[serde(default)]
    repin: bool,
}

/// Asks the BMC for the power state now.
#[utoipa::path(get, path = "/machines/{machine}/power", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    responses((status = OK, body = PowerReading), (status = "4XX", body = Problem), (status = BAD_GATEWAY, body = Problem)))]
async fn read_power(State(app): TheApp, caller: Caller, Path(machine): Path<String>) -> Result<Json<PowerReading>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.read_power(&caller.actor, id).await?))
}

/// Changes power through the BMC and watches a few seconds for the effect.
#[utoipa::path(post, path = "/machines/{machine}/power", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    request_body = PowerBody, responses((status = OK, body = PowerResult), (status = "4XX", body = Problem), (status = BAD_GATEWAY, body = Problem)))]
async fn power(State(app): TheApp, caller: Caller, Path(machine): Path<String>, Json(body): Json<PowerBody>) -> Result<Json<PowerResult>> {
    let id = app.find_machine(&machine).await?;
    Ok(Json(app.power(&caller.actor, id, body.action).await?))
}

/// Sets or changes address, user and password of the machine's BMC.
#[utoipa::path(put, path = "/machines/{machine}/bmc", tag = "machines", params(("machine" = String, Path, description = "id, name, serial or MAC")),
    request_body = BmcBody, responses((status = OK, body = BmcView), (status = "4XX", body = Problem)))]
async fn set_bmc(State(app): TheApp, caller: Caller, Path(machine): Path<String>, Json(body): Json<BmcBody>) -> Result<Json<BmcView>> {
    let id = app.find_machine(&machine).await?;
    let change = BmcChange { address: body.address, user: body.user, password: body.password.map(Secret::new), repin: body.repin };
    Ok(Json(app.set_bmc(&caller.actor, id, change).await?))
}
