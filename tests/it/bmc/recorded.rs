//! Serves recorded trees of real servers as they were recorded: what is not in the recording is 404.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hostler::bmc::BmcAccess;
use serde_json::Value;

use super::kit::access;

/// Whether paths in other letters are the same, as on an iLO.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    Exact,
    Any,
}

/// A recorded tree behind a socket.
pub struct Recorded {
    resources: HashMap<String, Value>,
    letters: Letters,
    asked: Mutex<Vec<String>>,
}

impl Recorded {
    /// Unpacks and serves `tests/fixtures/redfish/whole/NAME.tar.gz`.
    pub async fn serve(name: &str, letters: Letters) -> (Arc<Self>, BmcAccess) {
        Self::serve_changed(name, letters, |_| {}).await
    }

    /// The same with changes to the recording.
    pub async fn serve_changed(name: &str, letters: Letters, change: impl FnOnce(&mut BTreeMap<String, Value>)) -> (Arc<Self>, BmcAccess) {
        let dir = tempfile::tempdir().unwrap();
        let archive = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/redfish/whole/{name}.tar.gz"));
        let unpacked = Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(dir.path()).status().unwrap();
        assert!(unpacked.success(), "{}", archive.display());
        let mut tree = BTreeMap::new();
        read_dir(dir.path(), dir.path(), &mut tree);
        change(&mut tree);
        Self::serve_tree(tree, letters).await
    }

    pub async fn serve_tree(tree: BTreeMap<String, Value>, letters: Letters) -> (Arc<Self>, BmcAccess) {
        let resources = tree.into_iter().map(|(path, body)| (key(&path, letters), body)).collect();
        let recorded = Arc::new(Self { resources, letters, asked: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let access = access(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap(), "", "");
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&recorded));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (recorded, access)
    }

    /// Paths asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }

    pub fn get(&self, path: &str) -> Option<&Value> {
        self.resources.get(&key(path, self.letters))
    }

    pub fn paths(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.resources.iter()
    }
}

fn key(path: &str, letters: Letters) -> String {
    let path = path.trim_end_matches('/');
    if letters == Letters::Any { path.to_ascii_lowercase() } else { path.to_owned() }
}

/// Both layouts of recordings: `…/index.json` per resource, and flat files named by the path with underscores.
fn read_dir(root: &Path, dir: &Path, tree: &mut BTreeMap<String, Value>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_dir(root, &path, tree);
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let Ok(body) = serde_json::from_str::<Value>(&std::fs::read_to_string(&path).unwrap_or_default()) else { continue };
        if name == "index.json" {
            let below = path.parent().unwrap().strip_prefix(root).unwrap().to_str().unwrap();
            let below = below.strip_prefix("redfish/v1").unwrap_or(below).trim_start_matches('/');
            tree.insert(format!("/redfish/v1/{below}").trim_end_matches('/').to_owned(), body);
        } else if let Some(flat) = name.strip_prefix("_redfish_v1").and_then(|n| n.strip_suffix(".json")) {
            let own = body.get("@odata.id").and_then(Value::as_str).map(str::to_owned);
            tree.insert(own.unwrap_or_else(|| format!("/redfish/v1{}", flat.replace('_', "/"))).trim_end_matches('/').to_owned(), body);
        }
    }
}

async fn answer(State(recorded): State<Arc<Recorded>>, method: Method, uri: Uri) -> Response {
    recorded.asked.lock().unwrap().push(uri.to_string());
    if method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    // A query is part of a recorded page's name, and otherwise ignored, as simple servers do.
    let whole = recorded.get(&uri.to_string());
    match whole.or_else(|| recorded.get(uri.path())) {
        Some(body) => axum::Json(body).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
