//! A recorded Redfish tree, read whole: whatever path a client asks for is a key in a map, never a file name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::sim::bmc::redfish::tree::ROOT;

/// Largest file, and all of them together.
const FILE_CAP: u64 = 16 << 20;
const TREE_CAP: u64 = 512 << 20;
const FILES_CAP: usize = 200_000;
/// Folders in folders.
const DEPTH_CAP: usize = 40;

#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is larger than a recorded tree can be", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} has no recorded Redfish tree: no redfish/v1/**/index.json, no **/index.json and no _redfish_v1_*.json with a service root", path.display())]
    NoTree { path: PathBuf },
}

/// Resources by path without a trailing slash.
#[derive(Debug, Default)]
pub struct Recording {
    pub resources: BTreeMap<String, Value>,
    /// Files that were no JSON object, by the path they would have had.
    pub unreadable: Vec<String>,
}

impl Recording {
    /// Reads a folder, or a `.tar` or `.tar.gz` of one, in any of the three layouts.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or has no service root.
    pub fn read(path: &Path) -> Result<Self, RecordingError> {
        let fail = |source| RecordingError::Io { path: path.to_owned(), source };
        let mut files = Files::default();
        if path.is_dir() {
            files.add_folder(path, Path::new(""), 0).map_err(fail)?;
        } else {
            let mut file = File::open(path).map_err(fail)?;
            let mut magic = [0; 2];
            let gzip = file.read(&mut magic).map_err(fail)? == 2 && magic == [0x1f, 0x8b];
            let file = File::open(path).map_err(fail)?;
            if gzip {
                files.add_archive(tar::Archive::new(GzDecoder::new(file))).map_err(fail)?;
            } else {
                files.add_archive(tar::Archive::new(file)).map_err(fail)?;
            }
        }
        if files.full {
            return Err(RecordingError::TooLarge { path: path.to_owned() });
        }
        let recording = files.recording();
        if recording.resources.contains_key(ROOT) { Ok(recording) } else { Err(RecordingError::NoTree { path: path.to_owned() }) }
    }

    pub fn get(&self, path: &str) -> Option<&Value> {
        self.resources.get(path)
    }
}

/// JSON files by their names in the folder or archive.
#[derive(Default)]
struct Files {
    list: Vec<(PathBuf, Vec<u8>)>,
    bytes: u64,
    full: bool,
}

impl Files {
    fn add(&mut self, name: &Path, reader: impl Read) -> io::Result<()> {
        if name.extension().is_none_or(|e| e != "json") || self.full {
            return Ok(());
        }
        let mut bytes = Vec::new();
        reader.take(FILE_CAP + 1).read_to_end(&mut bytes)?;
        self.bytes += bytes.len() as u64;
        self.full = bytes.len() as u64 > FILE_CAP || self.bytes > TREE_CAP || self.list.len() >= FILES_CAP;
        self.list.push((name.to_owned(), bytes));
        Ok(())
    }

    /// Links are not followed: they could lead out of the folder.
    fn add_folder(&mut self, folder: &Path, name: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_CAP {
            return Ok(());
        }
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, name.join(entry.file_name()));
            if kind.is_dir() {
                self.add_folder(&entry.path(), &name, depth + 1)?;
            } else if kind.is_file() {
                self.add(&name, File::open(entry.path())?)?;
            }
        }
        Ok(())
    }

    fn add_archive<R: Read>(&mut self, mut archive: tar::Archive<R>) -> io::Result<()> {
        for entry in archive.entries()? {
            let entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = entry.path()?.into_owned();
                self.add(&name, entry)?;
            }
        }
        Ok(())
    }

    fn recording(self) -> Recording {
        let mut out = Recording::default();
        let names: Vec<Vec<String>> = self.list.iter().map(|(name, _)| segments(name)).collect();
        // What is above the tree: `redfish/v1` in some recordings, a folder of any name in others.
        let root = |tail: &[&str]| {
            names
                .iter()
                .filter(|n| n.len() >= tail.len() && n[n.len() - tail.len()..].iter().zip(tail).all(|(a, b)| a == b))
                .min_by_key(|n| n.len())
                .map(|n| n.len() - tail.len())
        };
        let above = root(&["redfish", "v1", "index.json"]).map(|n| n + 2).or_else(|| root(&["index.json"]));
        for ((_, bytes), name) in self.list.iter().zip(&names) {
            let body: Option<Value> =
                serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).ok().filter(Value::is_object);
            let file = name.last().map_or("", String::as_str);
            let path = match above {
                _ if file.starts_with("_redfish_v1") => flat(file, body.as_ref()),
                Some(above) if file == "index.json" && name.len() > above => {
                    let inside = &name[above..name.len() - 1];
                    std::iter::once(ROOT).chain(inside.iter().map(String::as_str)).collect::<Vec<_>>().join("/")
                }
                Some(_) | None => continue,
            };
            match body {
                Some(body) => {
                    out.resources.insert(path, body);
                }
                None => out.unreadable.push(path),
            }
        }
        out
    }
}

/// The plain parts of a name: an archive may say `./a` or `../a`, which is `a` here.
fn segments(name: &Path) -> Vec<String> {
    let plain = |c: Component<'_>| match c {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    };
    name.components().filter_map(plain).collect()
}

/// The path of `_redfish_v1_Systems_1.json`: what it says of itself, since an underscore in the name may be one in the path.
fn flat(file: &str, body: Option<&Value>) -> String {
    let own = body.and_then(|b| b.get("@odata.id")).and_then(Value::as_str).filter(|id| id.starts_with(ROOT));
    match own {
        Some(own) => own.trim_end_matches('/').to_owned(),
        None => file.trim_end_matches(".json").replace('_', "/").trim_end_matches('/').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        dir
    }

    fn paths(dir: &tempfile::TempDir) -> Vec<String> {
        Recording::read(dir.path()).expect("a tree").resources.into_keys().collect()
    }

    #[test]
    fn all_three_layouts_give_the_same_paths() {
        let want = ["/redfish/v1", "/redfish/v1/Systems", "/redfish/v1/Systems/a_b"];
        assert_eq!(
            paths(&folder(&[
                ("x/redfish/v1/index.json", "{}"),
                ("x/redfish/v1/Systems/index.json", "{}"),
                ("x/redfish/v1/Systems/a_b/index.json", "{}"),
                ("x/redfish/index.json", "{}")
            ])),
            want
        );
        assert_eq!(paths(&folder(&[("index.json", "{}"), ("Systems/index.json", "{}"), ("Systems/a_b/index.json", "{}")])), want);
        assert_eq!(
            paths(&folder(&[
                ("_redfish_v1.json", "{}"),
                ("_redfish_v1_Systems.json", "{}"),
                ("_redfish_v1_Systems_a_b.json", r#"{"@odata.id": "/redfish/v1/Systems/a_b/"}"#),
            ])),
            want
        );
    }

    #[test]
    fn a_link_out_of_the_folder_is_not_followed_and_a_folder_without_a_root_is_refused() {
        let (outside, inside) = (folder(&[("index.json", r#"{"secret": 1}"#)]), folder(&[("index.json", "{}")]));
        std::os::unix::fs::symlink(outside.path(), inside.path().join("Systems")).expect("a link");
        assert_eq!(paths(&inside), ["/redfish/v1"]);
        let empty = folder(&[("readme.json", "{}")]);
        assert!(matches!(Recording::read(empty.path()), Err(RecordingError::NoTree { .. })));
    }

    #[test]
    fn an_archive_cannot_name_what_is_outside() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("t.tar");
        let mut builder = tar::Builder::new(File::create(&file).expect("made"));
        let mut add = |name: &str| {
            let mut header = tar::Header::new_gnu();
            // The crate refuses `..` when it writes; a hostile archive has it all the same.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(2);
            header.set_cksum();
            builder.append(&header, &b"{}"[..]).expect("added");
        };
        add("redfish/v1/index.json");
        add("redfish/v1/../../../etc/index.json");
        builder.finish().expect("finished");
        let recording = Recording::read(&file).expect("a tree");
        assert!(recording.resources.keys().all(|k| k.starts_with(ROOT) && !k.contains("..")), "{:?}", recording.resources.keys());
    }
}
