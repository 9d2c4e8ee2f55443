//! What firmware, iPXE and the agent fetch: scripts, loaders, kernel, ramdisk, images. Plain HTTP, nothing secret.
//! Files are named by a fixed list or by hash; no path from the network reaches the file system.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Extensions, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tower_http::services::ServeFile;

use crate::app::boot::{Desk, DeskError, ScriptQuery};
use crate::domain::boot::BootStage;
use crate::domain::id::{Mac, Serial, Sha256, SystemUuid};
use crate::http::error::{Path, Problem, Query};
use crate::http::frame::Peer;

/// What the boot routes serve from.
#[derive(Clone)]
pub struct BootRoutes {
    pub desk: Desk,
    /// Holds `vmlinuz` and `ramdisk.zst`.
    pub boot_dir: Arc<PathBuf>,
    /// Holds images, each under its SHA-256.
    pub artifact_dir: Arc<PathBuf>,
}

/// `/boot/*`.
pub fn router(routes: BootRoutes) -> Router {
    Router::new()
        .route("/boot/script.ipxe", get(script))
        .route("/boot/autoexec.ipxe", get(autoexec))
        .route("/boot/file/{name}", get(file))
        .route("/boot/file/{folder}/{name}", get(file_in_folder))
        .route("/boot/kernel", get(kernel))
        .route("/boot/ramdisk", get(ramdisk))
        .route("/boot/image/{sha256}", get(image))
        .with_state(routes)
}

/// As iPXE fills them in; what it does not know is empty or the literal `${name}`.
#[derive(Deserialize)]
struct Asked {
    mac: String,
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    serial: String,
    #[serde(default)]
    platform: String,
    #[serde(default)]
    arch: String,
}

async fn script(State(routes): State<BootRoutes>, Query(asked): Query<Asked>, extensions: Extensions) -> Response {
    let Ok(mac) = asked.mac.parse::<Mac>() else {
        return Problem::new(StatusCode::BAD_REQUEST, "bad_mac", "the query names no MAC address").into_response();
    };
    let query = ScriptQuery {
        mac,
        uuid: asked.uuid.parse::<SystemUuid>().ok(),
        serial: asked.serial.parse::<Serial>().ok(),
        platform: asked.platform,
        arch: asked.arch,
    };
    match routes.desk.script(&query, Peer::of(&extensions)).await {
        Ok(script) => text(script),
        Err(e @ DeskError::Platform { .. }) => Problem::new(StatusCode::NOT_FOUND, "no_such_platform", e.to_string()).into_response(),
        Err(e @ DeskError::Store(_)) => {
            tracing::error!(%mac, error = &e as &dyn std::error::Error, "a boot script could not be made");
            Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
    }
}

fn text(script: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], script).into_response()
}

fn peer(request: &Request) -> Option<std::net::Ipv4Addr> {
    match Peer::of(request.extensions()) {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

async fn autoexec(State(routes): State<BootRoutes>, request: Request) -> Response {
    small_file(&routes, peer(&request), None, "autoexec.ipxe")
}

async fn file(State(routes): State<BootRoutes>, Path(name): Path<String>, request: Request) -> Response {
    small_file(&routes, peer(&request), None, &name)
}

async fn file_in_folder(State(routes): State<BootRoutes>, Path((folder, name)): Path<(String, String)>, request: Request) -> Response {
    small_file(&routes, peer(&request), folder.parse().ok(), &name)
}

fn small_file(routes: &BootRoutes, peer: Option<std::net::Ipv4Addr>, mac: Option<Mac>, name: &str) -> Response {
    match routes.desk.file(peer, mac, name) {
        // EDK2 takes a network boot program by its name's ending or by this type (UEFI 2.10, 24.7.2.2).
        Some(bytes) if name.ends_with(".efi") => ([(header::CONTENT_TYPE, "application/efi")], bytes).into_response(),
        Some(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        None => Problem::new(StatusCode::NOT_FOUND, "no_such_boot_file", "there is no boot file of this name").into_response(),
    }
}

#[derive(Deserialize)]
struct By {
    #[serde(default)]
    mac: String,
}

async fn kernel(State(routes): State<BootRoutes>, Query(by): Query<By>, request: Request) -> Response {
    boot_file(&routes, &by, request, "vmlinuz", BootStage::Kernel).await
}

async fn ramdisk(State(routes): State<BootRoutes>, Query(by): Query<By>, request: Request) -> Response {
    boot_file(&routes, &by, request, "ramdisk.zst", BootStage::Ramdisk).await
}

async fn boot_file(routes: &BootRoutes, by: &By, request: Request, name: &str, stage: BootStage) -> Response {
    let path = routes.boot_dir.join(name);
    let response = serve(path, request).await;
    if response.status() == StatusCode::NOT_FOUND {
        tracing::warn!(file = name, "a machine asked for a boot file that is not there; make it with pxe/build and hostler netboot setup");
        return Problem::new(StatusCode::NOT_FOUND, "no_ramdisk", format!("{name} is not set up"))
            .hint("make it with pxe/build, then hostler netboot setup --pxe DIR")
            .into_response();
    }
    if let Ok(mac) = by.mac.parse::<Mac>()
        && response.status().is_success()
    {
        let bytes = response.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).unwrap_or("?").to_owned();
        routes.desk.fetched(mac, stage, format!("{name}, {bytes} bytes"));
    }
    response
}

/// An image by its hash, with Range (RFC 9110, section 14).
async fn image(State(routes): State<BootRoutes>, Path(sha256): Path<Sha256>, request: Request) -> Response {
    let response = serve(routes.artifact_dir.join(sha256.to_string()), request).await;
    if response.status() == StatusCode::NOT_FOUND {
        return Problem::new(StatusCode::NOT_FOUND, "no_such_image", "there is no image with this hash").into_response();
    }
    response
}

async fn serve(path: PathBuf, request: Request) -> Response {
    match ServeFile::new(path).try_call(request).await {
        Ok(response) => response.into_response(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => StatusCode::NOT_FOUND.into_response(),
        Err(e) => {
            tracing::error!(error = %e, "a boot file could not be read");
            Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
    }
}
