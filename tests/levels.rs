//! Holds the level table of docs/ARCHITECTURE.md: one crate gives no walls, so this test is the wall.
//!
//! Every `crate::module` path in `src/` (code and tests, not comments) must point downhill, and the pure levels must not
//! name the crates they are kept apart from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module, what it may import beside itself, and crates it must not name.
struct Room {
    name: &'static str,
    may_import: &'static [&'static str],
    never: &'static [&'static str],
}

const IO: &[&str] =
    &["tokio", "reqwest", "sqlx", "axum", "askama", "rand", "std::net::UdpSocket", "std::net::TcpStream", "std::fs", "std::time::Instant"];
const FACES: &[&str] = &["axum", "askama", "utoipa"];
const ALL: &[&str] = &["*"];

/// Level by level. `clock` (the one reader of wall clock and random source) is for level 3 and up and for the agent.
const ROOMS: &[Room] = &[
    // level 0
    Room { name: "domain", may_import: &[], never: IO },
    // level 1: bytes and types, no sockets
    Room { name: "wire", may_import: &["domain"], never: IO },
    // level 2: pure
    Room { name: "decide", may_import: &["domain", "wire"], never: IO },
    // beside the levels
    Room { name: "clock", may_import: &["domain"], never: &["tokio", "sqlx", "axum"] },
    // level 3: each with its own I/O, never each other
    Room { name: "store", may_import: &["domain", "wire", "decide", "clock"], never: FACES },
    Room { name: "bmc", may_import: &["domain", "wire", "decide", "clock"], never: &["sqlx", "axum", "askama"] },
    Room { name: "artifact", may_import: &["domain", "wire", "decide", "clock"], never: &["sqlx", "axum", "askama"] },
    Room { name: "secret", may_import: &["domain", "wire", "decide", "clock"], never: &["sqlx", "axum", "askama", "reqwest"] },
    Room { name: "notify", may_import: &["domain", "wire", "decide", "clock"], never: &["sqlx", "axum", "askama"] },
    // level 4
    Room {
        name: "engine",
        may_import: &["domain", "wire", "decide", "clock", "store", "bmc", "artifact", "secret", "notify"],
        never: &["sqlx", "axum", "askama"],
    },
    Room {
        name: "netboot",
        may_import: &["domain", "wire", "decide", "clock", "store", "bmc", "artifact", "secret", "notify"],
        never: &["sqlx", "axum", "askama"],
    },
    // level 5
    Room {
        name: "app",
        may_import: &["domain", "wire", "decide", "clock", "store", "bmc", "artifact", "secret", "notify", "engine", "netboot"],
        never: &["sqlx", "axum", "askama"],
    },
    // level 6: `wire` for the agent's bodies
    Room { name: "http", may_import: &["domain", "wire", "clock", "app"], never: &["sqlx"] },
    // level 7
    Room { name: "server", may_import: ALL, never: &[] },
    Room { name: "cli", may_import: ALL, never: &["sqlx"] },
    Room { name: "sim", may_import: ALL, never: &["sqlx"] },
    Room { name: "main", may_import: ALL, never: &[] },
    // side: the ramdisk's program
    Room { name: "agent", may_import: &["domain", "wire", "clock"], never: &["sqlx", "axum", "askama"] },
    Room { name: "bin", may_import: &["agent", "domain", "wire", "clock"], never: &["sqlx", "axum", "askama"] },
];

/// A path that is let through although its module is not in the row: (file's module, path prefix, why).
const EXCEPTIONS: &[(&str, &str, &str)] = &[("sim", "agent::link", "a simulated machine's agent speaks the real agent's protocol code")];

#[test]
fn imports_run_downhill() {
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let shown = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        let Some(module) = module_of(&file) else { continue };
        let Some(room) = ROOMS.iter().find(|r| r.name == module) else {
            wrong.push(format!("{shown}: module `{module}` has no row in tests/levels.rs"));
            continue;
        };
        let text = code_only(&fs::read_to_string(&file).expect("a source file is readable"));
        for (line, path) in crate_paths(&text) {
            let target = path.split("::").next().unwrap_or_default();
            let allowed = target == room.name
                || room.may_import.contains(&"*")
                || room.may_import.contains(&target)
                || EXCEPTIONS.iter().any(|(from, prefix, _)| *from == room.name && path.starts_with(prefix));
            // Macros that a module exports live at the crate's root.
            let is_macro = text.lines().nth(line - 1).is_some_and(|l| l.contains(&format!("crate::{target}!")));
            if target.is_empty() {
                wrong.push(format!("{shown}:{line}: write full paths, not `crate::{{..}}`"));
            } else if !allowed && !is_macro {
                wrong.push(format!("{shown}:{line}: `{}` must not import `crate::{path}`", room.name));
            }
        }
        // A module's tests may read fixtures; what it must not name counts for its code.
        let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (n, line) in product.lines().enumerate() {
            for never in room.never {
                if names_crate(line, never) {
                    wrong.push(format!("{shown}:{}: `{}` must not name `{never}`", n + 1, room.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports run uphill:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_crate_has_a_level() {
    let lib = code_only(&fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs is readable"));
    let declared: BTreeSet<&str> = lib
        .lines()
        .filter_map(|l| l.trim().strip_prefix("pub mod ").or_else(|| l.trim().strip_prefix("mod "))?.strip_suffix(';'))
        .collect();
    let without: Vec<&&str> = declared.iter().filter(|m| !ROOMS.iter().any(|r| r.name == **m)).collect();
    assert!(without.is_empty(), "modules without a level: {without:?}");
}

#[test]
fn the_reader_sees_code_and_not_comments_or_strings() {
    let text = code_only("use crate::a::B; // crate::c\n/* crate::d */ let x = \"crate::e\"; /// [`crate::f`]\nfn g() { crate::h::i() }");
    let seen: Vec<(usize, String)> = crate_paths(&text);
    assert_eq!(seen, [(1, "a::B".to_owned()), (3, "h::i".to_owned())]);
}

#[test]
fn no_file_names_a_path_of_somebodys_machine() {
    let own = root().display().to_string();
    // Split so that this file does not name them itself.
    let words = [
        own.as_str(),
        concat!("/wo", "rk/"),
        concat!("/fa", "rm/"),
        concat!("/root/", "wt"),
        concat!("lab", "venv"),
        concat!("/ho", "me/"),
    ];
    let mut wrong = Vec::new();
    for file in all_files(root()) {
        let Ok(text) = fs::read_to_string(&file) else { continue }; // not text
        for (n, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|w| line.contains(**w)) {
                wrong.push(format!("{}:{}: names {word}", file.strip_prefix(root()).unwrap_or(&file).display(), n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "paths of a machine:\n{}", wrong.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The first directory or file name below `src/`; `None` for lib.rs, which is the module list itself.
fn module_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix(root().join("src")).ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then(|| name.to_owned())
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    all_files(dir).into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs")).collect()
}

/// All files below `dir`, sorted, without what builds and version control leave.
fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).expect("a readable directory").filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if matches!(name, "target" | "out" | ".git" | "__pycache__") || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(all_files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The text with comments and string contents blanked out, lines kept.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |i| i + 2)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |i| i + 5)
        } else if c == '"' {
            string_len(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.extend(rest[..skip].chars().filter(|c| *c == '\n'));
        rest = &rest[skip..];
    }
    out
}

/// Length of a string literal with its quotes.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return i + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Every `crate::...` path (in the binaries also `hostler::...`) with its line, the word itself left off.
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for word in ["crate::", "hostler::"] {
            for (at, _) in line.match_indices(word) {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                    continue;
                }
                let path: String = line[at + word.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
                found.push((n + 1, path.trim_end_matches(':').to_owned()));
            }
        }
    }
    found
}

/// Whether a line of code uses `name::` as a path's first part.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '.');
        starts && (after.starts_with("::") || (name.contains("::") && !after.starts_with(|c: char| c.is_alphanumeric())))
    })
}
