//! The controls of a running simulated rack: who holds the token in its control file can make things happen to machines.
//!
//! It listens on loopback only. `GET /machines` lists the rack, `GET /machines/WHICH/parts` what can break there, and
//! `POST /machines/WHICH/faults` takes a [`Strike`].

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clock;
use crate::domain::power::PowerState;
use crate::sim::bmc::Strike;
use crate::sim::fleet::{self, Fleet};

/// Name of the control file in a demo's state directory.
pub const FILE: &str = "sim.json";

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot open the controls of the simulated rack: {0}")]
    Listen(io::Error),
    #[error("cannot write {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// Where the controls are and the word that opens them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Access {
    pub url: String,
    pub token: String,
}

/// One machine of the rack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineLine {
    pub name: String,
    pub serial: String,
    pub bmc: String,
    pub power: PowerState,
    /// The last line on its console.
    pub console: String,
}

/// What can be broken or can drift in one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Breakable {
    pub id: String,
    pub name: String,
    /// Kind of the part, or of the sensor.
    pub kind: String,
    /// How it is: health of a part, reading of a sensor.
    pub now: String,
}

struct Controls {
    fleet: Arc<Fleet>,
    token: String,
}

/// Opens the controls and writes `file` (mode 0600). They are there until the set is dropped.
///
/// # Errors
/// When no port can be bound or the file cannot be written.
pub async fn start(fleet: Arc<Fleet>, file: &Path) -> Result<JoinSet<()>, ControlError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(ControlError::Listen)?;
    let address = listener.local_addr().map_err(ControlError::Listen)?;
    let access = Access { url: format!("http://{address}"), token: clock::fresh_token() };
    write_private(file, &access).map_err(|source| ControlError::File { path: file.to_owned(), source })?;
    let app = Router::new()
        .route("/machines", get(list))
        .route("/machines/{which}/parts", get(parts))
        .route("/machines/{which}/faults", post(strike))
        .with_state(Arc::new(Controls { fleet, token: access.token }));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::warn!(%error, "The controls of the simulated rack stopped");
        }
    });
    Ok(tasks)
}

fn write_private(file: &Path, access: &Access) -> io::Result<()> {
    let text = serde_json::to_string(access).map_err(io::Error::other)?;
    let mut out = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(file)?;
    out.write_all(text.as_bytes())
}

impl Controls {
    /// `Err` answers who has no token.
    fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        match given {
            Some(token) if token == self.token => Ok(()),
            Some(_) | None => Err((StatusCode::UNAUTHORIZED, "the token is not the one in the rack's control file".into())),
        }
    }
}

async fn list(State(controls): State<Arc<Controls>>, headers: HeaderMap) -> Result<Json<Vec<MachineLine>>, (StatusCode, String)> {
    controls.admit(&headers)?;
    let consoles = controls.fleet.consoles();
    let lines = controls.fleet.listings().zip(consoles).map(|(listing, (_, power, console))| MachineLine {
        name: fleet::name(listing.number),
        serial: listing.serial.to_string(),
        bmc: listing.bmc.clone(),
        power,
        console,
    });
    Ok(Json(lines.collect()))
}

async fn parts(
    State(controls): State<Arc<Controls>>,
    UrlPath(which): UrlPath<String>,
    headers: HeaderMap,
) -> Result<Json<Vec<Breakable>>, (StatusCode, String)> {
    controls.admit(&headers)?;
    let bmc = controls.fleet.bmc(&which).map_err(|why| (StatusCode::NOT_FOUND, why))?;
    Ok(Json(bmc.breakables()))
}

async fn strike(
    State(controls): State<Arc<Controls>>,
    UrlPath(which): UrlPath<String>,
    headers: HeaderMap,
    strike: Json<Strike>,
) -> Response {
    if let Err(refusal) = controls.admit(&headers) {
        return refusal.into_response();
    }
    match controls.fleet.strike(&which, &strike) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, why).into_response(),
    }
}
