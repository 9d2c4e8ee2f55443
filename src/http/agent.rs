//! The agent protocol (`wire::agent`) and the calls of deployed systems, thin over [`Intake`]. For the provisioning network:
//! bodies are capped before they are parsed.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRef, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use crate::app::intake::{Intake, IntakeError, Session};
use crate::domain::id::TaskId;
use crate::domain::inventory::Inventory;
use crate::http::error::{Json, Path, Problem, Query};
use crate::http::frame::Peer;
use crate::wire::agent::{Hello, LogBatch, Refusal, TaskProgress, TaskResult};

/// 512 disks and 1024 PCI devices as JSON stay below this.
const INVENTORY_BYTES: usize = 2 << 20;
const LOG_BYTES: usize = 1 << 20;
const RESULT_BYTES: usize = 1 << 20;
/// cloud-init's phone_home form: host keys and names.
const PHONE_BYTES: usize = 64 << 10;

/// `/agent/v1/*` and `/phone-home/{token}`.
pub fn router(intake: Intake) -> Router {
    Router::new()
        .route("/agent/v1/hello", post(hello).layer(DefaultBodyLimit::max(INVENTORY_BYTES)))
        .route("/agent/v1/task", get(task))
        .route("/agent/v1/task/{id}/progress", post(progress))
        .route("/agent/v1/task/{id}/result", post(result).layer(DefaultBodyLimit::max(RESULT_BYTES)))
        .route("/agent/v1/inventory", post(inventory).layer(DefaultBodyLimit::max(INVENTORY_BYTES)))
        .route("/agent/v1/log", post(log).layer(DefaultBodyLimit::max(LOG_BYTES)))
        .route("/phone-home/{token}", post(phone_home).layer(DefaultBodyLimit::max(PHONE_BYTES)))
        .with_state(intake)
}

/// The agent behind a request, by its bearer token.
struct Agent(Session);

impl<S: Send + Sync> FromRequestParts<S> for Agent
where
    Intake: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let token = parts.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        let Some(token) = token else { return Err(answer(IntakeError::Unauthorized)) };
        Intake::from_ref(state).session(token).await.map(Self).map_err(answer)
    }
}

fn answer(e: IntakeError) -> Response {
    match e {
        IntakeError::Refused(error) => (StatusCode::FORBIDDEN, axum::Json(Refusal { error })).into_response(),
        IntakeError::Unauthorized => Problem::new(StatusCode::UNAUTHORIZED, "agent_session_over", e.to_string()).into_response(),
        IntakeError::Gone => Problem::new(StatusCode::GONE, "task_withdrawn", e.to_string()).into_response(),
        IntakeError::Store(cause) => {
            tracing::error!(error = &cause as &dyn std::error::Error, "an agent's request failed");
            Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
    }
}

async fn hello(State(intake): State<Intake>, extensions: Extensions, Json(hello): Json<Hello>) -> Response {
    match intake.hello(hello, Peer::of(&extensions)).await {
        Ok(welcome) => axum::Json(welcome).into_response(),
        Err(e) => {
            tracing::info!(why = %e, "an agent's hello was refused");
            answer(e)
        }
    }
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default)]
    wait_secs: u64,
}

async fn task(State(intake): State<Intake>, Agent(session): Agent, Query(wait): Query<Wait>) -> Response {
    match intake.next_task(&session, Duration::from_secs(wait.wait_secs)).await {
        Ok(Some(task)) => axum::Json(task).into_response(),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(e) => answer(e),
    }
}

async fn progress(State(intake): State<Intake>, Agent(session): Agent, Path(id): Path<TaskId>, Json(body): Json<TaskProgress>) -> Response {
    match intake.progress(&session, id, body).await {
        Ok(reply) => axum::Json(reply).into_response(),
        Err(e) => answer(e),
    }
}

async fn result(State(intake): State<Intake>, Agent(session): Agent, Path(id): Path<TaskId>, Json(body): Json<TaskResult>) -> Response {
    done(intake.result(&session, id, body).await)
}

async fn inventory(State(intake): State<Intake>, Agent(session): Agent, Json(body): Json<Inventory>) -> Response {
    done(intake.inventory(&session, body).await)
}

async fn log(State(intake): State<Intake>, Agent(session): Agent, Json(body): Json<LogBatch>) -> Response {
    intake.log(&session, body);
    StatusCode::NO_CONTENT.into_response()
}

fn done(outcome: Result<(), IntakeError>) -> Response {
    match outcome {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(e) => answer(e),
    }
}

/// cloud-init posts a form. The same answer for every token: this path tells nothing.
async fn phone_home(State(intake): State<Intake>, Path(token): Path<String>, body: Bytes) -> Response {
    match intake.phone_home(&token, &String::from_utf8_lossy(&body)).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(e) => answer(e),
    }
}
