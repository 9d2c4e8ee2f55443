//! Is it alive, is it ready, what is it, how much of it is there.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::metrics::MachineMetricsFilter;
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Json, Problem, Query, Result};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(version))
        .routes(routes!(metrics))
        .routes(routes!(machine_metrics))
}

#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    pub status: String,
}

#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VersionView {
    pub name: String,
    pub version: String,
    /// Newest database migration this program carries.
    pub migration: i64,
    /// Version of the agent protocol.
    pub agent_protocol: u32,
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "service", security(()), responses((status = OK, body = Health)))]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// The service can work: its database answers.
#[utoipa::path(get, path = "/readyz", tag = "service", security(()), responses((status = OK, body = Health), (status = SERVICE_UNAVAILABLE, body = Problem)))]
async fn readyz(State(app): TheApp) -> Result<Json<Health>> {
    match tokio::time::timeout(std::time::Duration::from_secs(5), app.ping()).await {
        Ok(Ok(())) => Ok(Json(Health { status: "ready".to_owned() })),
        Ok(Err(e)) => {
            tracing::error!(error = &e as &dyn std::error::Error, "not ready: the database does not answer");
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database", "the database does not answer"))
        }
        Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database", "the database did not answer within 5 s")),
    }
}

/// Which program this is.
#[utoipa::path(get, path = "/version", tag = "service", security(()), responses((status = OK, body = VersionView)))]
async fn version() -> Json<VersionView> {
    Json(VersionView {
        name: "hostler".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        migration: App::newest_migration(),
        agent_protocol: crate::wire::agent::PROTOCOL,
    })
}

/// Metrics of the fleet for Prometheus (text format 0.0.4).
#[utoipa::path(get, path = "/metrics", tag = "service", responses((status = OK, body = String, content_type = "text/plain")))]
async fn metrics(State(app): TheApp, caller: Caller) -> Result<Response> {
    let mut out = app.fleet_metrics(&caller.actor).await?;
    if let Some(bytes) = resident_bytes() {
        out.push_str("# HELP process_resident_memory_bytes Resident memory.\n# TYPE process_resident_memory_bytes gauge\n");
        out.push_str(&format!("process_resident_memory_bytes {bytes}\n"));
    }
    Ok(text(out))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MachineMetricsQuery {
    /// Only machines of this rack.
    rack: Option<String>,
    /// Only this machine, by name or id.
    machine: Option<String>,
}

/// Metrics of each machine and its sensors for Prometheus (text format 0.0.4).
#[utoipa::path(get, path = "/metrics/machines", tag = "service", params(MachineMetricsQuery),
    responses((status = OK, body = String, content_type = "text/plain"), (status = "4XX", body = Problem)))]
async fn machine_metrics(State(app): TheApp, caller: Caller, Query(query): Query<MachineMetricsQuery>) -> Result<Response> {
    let filter = MachineMetricsFilter { rack: query.rack, machine: query.machine };
    Ok(text(app.machine_metrics(&caller.actor, &filter).await?))
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], body).into_response()
}

/// `VmRSS` of this process (proc(5)).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
