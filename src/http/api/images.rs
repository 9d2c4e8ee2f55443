//! `/api/v1/images`.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio_util::io::StreamReader;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::images::{DEFAULT_USER, ImageView, NewImage};
use crate::domain::boot::Arch;
use crate::domain::id::{Name, Sha256};
use crate::domain::power::FirmwareKind;
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Json, Path, Problem, Query, Result};

/// An upload whose sender is silent for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, upload)).routes(routes!(show, remove)).routes(routes!(import_file))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    name: Name,
    /// `x86_64` if absent.
    arch: Option<Arch>,
    /// Digest that the sent bytes must have.
    sha256: Option<Sha256>,
    /// The account that cloud-init gives the SSH keys to; `debian` if absent.
    default_user: Option<String>,
    /// `bios`, `uefi` or `bios,uefi`; as the partition table says if absent.
    boots_on: Option<String>,
}

/// An image file on the service's own computer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Absolute path.
    #[schema(value_type = String)]
    pub path: PathBuf,
    pub name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boots_on: Option<Vec<FirmwareKind>>,
}

fn new_image(
    name: Name,
    arch: Option<Arch>,
    sha256: Option<Sha256>,
    user: Option<String>,
    boots_on: Option<Vec<FirmwareKind>>,
) -> NewImage {
    NewImage { name, arch: arch.unwrap_or(Arch::X86_64), sha256, default_user: user.unwrap_or_else(|| DEFAULT_USER.to_owned()), boots_on }
}

/// Images, by name.
#[utoipa::path(get, path = "/images", tag = "images", responses((status = OK, body = Vec<ImageView>), (status = "4XX", body = Problem)))]
async fn list(State(app): TheApp, caller: Caller) -> Result<Json<Vec<ImageView>>> {
    Ok(Json(app.images(&caller.actor).await?))
}

#[utoipa::path(get, path = "/images/{image}", tag = "images", params(("image" = Name, Path)), responses((status = OK, body = ImageView), (status = "4XX", body = Problem)))]
async fn show(State(app): TheApp, caller: Caller, Path(image): Path<Name>) -> Result<Json<ImageView>> {
    Ok(Json(app.image(&caller.actor, &image).await?))
}

/// Imports the image that the body carries: a raw disk, also packed with zstd or gzip, or qcow2.
#[utoipa::path(post, path = "/images", tag = "images", params(UploadQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = CREATED, body = ImageView), (status = "4XX", body = Problem)))]
async fn upload(State(app): TheApp, caller: Caller, Query(query): Query<UploadQuery>, body: Body) -> Result<(StatusCode, Json<ImageView>)> {
    let boots_on = match query.boots_on.as_deref() {
        None => None,
        Some(list) => Some(
            list.split(',')
                .map(|w| w.trim().parse())
                .collect::<std::result::Result<Vec<FirmwareKind>, String>>()
                .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "bad_query", format!("boots_on: {e}")))?,
        ),
    };
    let new = new_image(query.name, query.arch, query.sha256, query.default_user, boots_on);
    let reader = StreamReader::new(Box::pin(heard(body.into_data_stream())));
    Ok((StatusCode::CREATED, Json(app.import_image(&caller.actor, new, reader).await?)))
}

/// The body's pieces; a sender that falls silent is an error, not a wait without end.
fn heard(body: BodyDataStream) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match tokio::time::timeout(SILENCE, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(e))) => Some((Err(std::io::Error::other(e)), None)),
            Err(_) => Some((Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "nothing came for 60 s")), None)),
        }
    })
}

/// Imports a file of the service's own computer; only for the local command line.
#[utoipa::path(post, path = "/images/from-file", tag = "images", request_body = ImageFile, responses((status = CREATED, body = ImageView), (status = "4XX", body = Problem)))]
async fn import_file(State(app): TheApp, caller: Caller, Json(body): Json<ImageFile>) -> Result<(StatusCode, Json<ImageView>)> {
    let new = new_image(body.name, body.arch, body.sha256, body.default_user, body.boots_on);
    Ok((StatusCode::CREATED, Json(app.import_image_file(&caller.actor, new, &body.path).await?)))
}

/// Removes an image. Machines that run it keep running.
#[utoipa::path(delete, path = "/images/{image}", tag = "images", params(("image" = Name, Path)), responses((status = NO_CONTENT), (status = "4XX", body = Problem)))]
async fn remove(State(app): TheApp, caller: Caller, Path(image): Path<Name>) -> Result<StatusCode> {
    app.remove_image(&caller.actor, &image).await?;
    Ok(StatusCode::NO_CONTENT)
}
