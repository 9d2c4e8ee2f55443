//! Style, scripts and icon, in the binary. Their address holds a digest of their bytes, so a browser keeps them for good
//! and a new version of Hostler is never shown with old ones.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::Digest;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

struct Asset {
    name: &'static str,
    mime: &'static str,
    bytes: &'static [u8],
    /// Compressed at first use: the scripts and the style go over phone networks too.
    gzip: OnceCell<Option<Vec<u8>>>,
}

impl Asset {
    const fn new(name: &'static str, mime: &'static str, bytes: &'static [u8]) -> Self {
        Self { name, mime, bytes, gzip: OnceCell::const_new() }
    }

    fn digest(&self) -> String {
        hex::encode(&sha2::Sha256::digest(self.bytes)[..6])
    }

    fn href(&self) -> String {
        format!("/static/{}/{}", self.digest(), self.name)
    }
}

static ASSETS: [Asset; 5] = [
    Asset::new("style.css", "text/css; charset=utf-8", include_bytes!("static/style.css")),
    Asset::new("app.js", "text/javascript; charset=utf-8", include_bytes!("static/app.js")),
    Asset::new("htmx.min.js", "text/javascript; charset=utf-8", include_bytes!("static/htmx.min.js")),
    Asset::new("hx-sse.min.js", "text/javascript; charset=utf-8", include_bytes!("static/hx-sse.min.js")),
    Asset::new("icon.svg", "image/svg+xml", include_bytes!("static/icon.svg")),
];

/// Where the pages find them.
pub struct Hrefs {
    pub style: String,
    pub app: String,
    pub htmx: String,
    pub sse: String,
    pub icon: String,
}

pub static HREFS: LazyLock<Hrefs> = LazyLock::new(|| {
    let [style, app, htmx, sse, icon] = &ASSETS;
    Hrefs { style: style.href(), app: app.href(), htmx: htmx.href(), sse: sse.href(), icon: icon.href() }
});

/// `GET /static/{digest}/{name}`.
pub async fn serve(Path((digest, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|a| a.name == name) else { return StatusCode::NOT_FOUND.into_response() };
    // An address of another version may still be in an open page: the bytes now, but not for good.
    let keep = if asset.digest() == digest { "public, max-age=31536000, immutable" } else { "no-store" };
    let takes_gzip = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|c| c.trim().split(';').next() == Some("gzip")));
    let mut response = match asset.gzip.get_or_init(|| compressed(asset.bytes)).await {
        Some(small) if takes_gzip => ([(header::CONTENT_ENCODING, "gzip")], small.as_slice()).into_response(),
        Some(_) | None => asset.bytes.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.mime));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

async fn compressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = async_compression::tokio::write::GzipEncoder::with_quality(Vec::new(), async_compression::Level::Best);
    encoder.write_all(bytes).await.ok()?;
    encoder.shutdown().await.ok()?;
    Some(encoder.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendored_files_are_what_the_notice_says() {
        let notice = include_str!("static/NOTICE");
        for asset in &ASSETS[2..4] {
            assert!(notice.contains(&hex::encode(sha2::Sha256::digest(asset.bytes))), "{}", asset.name);
        }
    }

    #[tokio::test]
    async fn scripts_and_style_together_stay_small() {
        let mut sum = 0;
        for asset in &ASSETS {
            sum += compressed(asset.bytes).await.unwrap().len();
        }
        assert!(sum < 40_000, "{sum} bytes");
    }
}
