//! The image catalogue: TOML files that name images, where their bytes come from and what those must be.
//!
//! ```toml
//! [[image]]
//! name = "debian-12"                 # a DNS label
//! title = "Debian 12 (bookworm)"
//! arch = "x86_64"                    # or aarch64
//! file = "debian-12.raw.zst"         # beside the catalogue; or url = "https://..", or build = "debian-12/build"
//! format = "raw.zst"                 # raw, raw.zst, raw.gz or qcow2; held against the file's own header
//! size_bytes = 215000000             # of the file; required with file and url, as is sha256
//! sha256 = "..."
//! raw_sha256 = "..."                 # of the unpacked disk; optional, as is raw_size_bytes
//! boots_on = ["bios", "uefi"]
//! default_user = "debian"            # whom cloud-init gives the SSH keys
//! ```

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::artifact::SourceFormat;
use crate::domain::boot::Arch;
use crate::domain::id::{Name, Sha256};
use crate::domain::power::FirmwareKind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    pub images: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Name,
    pub title: String,
    pub arch: Arch,
    pub source: Source,
    pub format: SourceFormat,
    /// Of the file. Always there for files and URLs; a recipe writes its own entry, with a file, when it has run.
    pub size_bytes: Option<u64>,
    pub sha256: Option<Sha256>,
    pub raw_size_bytes: Option<u64>,
    pub raw_sha256: Option<Sha256>,
    pub boots_on: Vec<FirmwareKind>,
    pub default_user: String,
}

/// Where an image's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Relative to the catalogue, and not above it.
    File(PathBuf),
    /// `https:` or `http:`.
    Url(String),
    /// A program beside the catalogue: called with an output directory, it makes the image and a catalogue for it.
    Build(PathBuf),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {message}")]
pub struct CatalogueError {
    pub line: usize,
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    image: Vec<toml::Spanned<Row>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: Name,
    #[serde(default)]
    title: String,
    arch: Arch,
    file: Option<PathBuf>,
    url: Option<String>,
    build: Option<PathBuf>,
    format: SourceFormat,
    size_bytes: Option<u64>,
    sha256: Option<Sha256>,
    raw_size_bytes: Option<u64>,
    raw_sha256: Option<Sha256>,
    boots_on: Vec<FirmwareKind>,
    default_user: String,
}

impl Catalogue {
    /// # Errors
    /// With the line: TOML that is none, an unknown or missing key, a value that cannot be, two images of one name.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let line_of = |at: usize| text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
        let document: Document = toml::from_str(text)
            .map_err(|e| CatalogueError { line: line_of(e.span().map_or(0, |s| s.start)), message: e.message().to_owned() })?;
        let mut images: Vec<Entry> = Vec::new();
        for row in document.image {
            let line = line_of(row.span().start);
            let entry = row.into_inner().check().map_err(|message| CatalogueError { line, message })?;
            if images.iter().any(|e| e.name == entry.name) {
                return Err(CatalogueError { line, message: format!("a second image named {}", entry.name) });
            }
            images.push(entry);
        }
        Ok(Self { images })
    }
}

impl Row {
    fn check(self) -> Result<Entry, String> {
        let source = match (self.file, self.url, self.build) {
            (Some(path), None, None) => Source::File(beside("file", path)?),
            (None, Some(url), None) if url.starts_with("https://") || url.starts_with("http://") => Source::Url(url),
            (None, Some(url), None) => return Err(format!("{url:?} is neither an https: nor an http: URL")),
            (None, None, Some(path)) => Source::Build(beside("build", path)?),
            _ => return Err(format!("image {} needs exactly one of file, url and build", self.name)),
        };
        if !matches!(source, Source::Build(_)) && (self.sha256.is_none() || self.size_bytes.is_none()) {
            return Err(format!("image {} needs sha256 and size_bytes: nothing is taken unchecked", self.name));
        }
        let mut boots_on = self.boots_on;
        boots_on.sort_unstable();
        boots_on.dedup();
        if boots_on.is_empty() {
            return Err(format!("image {} boots on nothing: write boots_on = [\"bios\", \"uefi\"]", self.name));
        }
        let user_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if self.default_user.is_empty() || self.default_user.len() > 32 || !self.default_user.chars().all(user_ok) {
            return Err(format!("{:?} is not a user name", self.default_user));
        }
        Ok(Entry {
            name: self.name,
            title: self.title,
            arch: self.arch,
            source,
            format: self.format,
            size_bytes: self.size_bytes,
            sha256: self.sha256,
            raw_size_bytes: self.raw_size_bytes,
            raw_sha256: self.raw_sha256,
            boots_on,
            default_user: self.default_user,
        })
    }
}

fn beside(key: &str, path: PathBuf) -> Result<PathBuf, String> {
    let is_plain = |p: &Path| p.components().all(|c| matches!(c, Component::Normal(_))) && p.components().next().is_some();
    if is_plain(&path) { Ok(path) } else { Err(format!("{key} = {path:?} must lie beside the catalogue, without .. or a leading /")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[image]]
name = "debian-12"
title = "Debian 12"
arch = "x86_64"
file = "debian-12.raw.zst"
format = "raw.zst"
size_bytes = 10
sha256 = "09cb81746eb96410ecca83d4532d8f1193db9be5d288d6ab716fac26719cdd4d"
boots_on = ["uefi", "bios"]
default_user = "debian"
"#;

    fn refused(from: &str, to: &str) -> CatalogueError {
        assert!(GOOD.contains(from));
        Catalogue::parse(&GOOD.replace(from, to)).unwrap_err()
    }

    #[test]
    fn a_full_entry_is_read() {
        let catalogue = Catalogue::parse(GOOD).unwrap();
        let [entry] = &catalogue.images[..] else { panic!("one image") };
        assert_eq!(entry.source, Source::File("debian-12.raw.zst".into()));
        assert_eq!(entry.boots_on, [FirmwareKind::Bios, FirmwareKind::Uefi]);
        assert_eq!(Catalogue::parse("").unwrap().images, []);
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let e = refused("title =", "titel =");
        assert_eq!(e.line, 4, "{e}");
        assert!(e.message.contains("titel"), "{e}");
        assert_eq!(Catalogue::parse("\n\nimages = 3\n").unwrap_err().line, 3);
    }

    #[test]
    fn a_bad_value_is_an_error_with_its_line() {
        assert_eq!(refused("x86_64", "vax").line, 5);
        assert_eq!(refused("\"raw.zst\"", "\"vmdk\"").line, 7);
        assert_eq!(refused("09cb", "zz").line, 9);
    }

    #[test]
    fn nothing_is_taken_without_digest_and_size() {
        let e = refused("size_bytes = 10\n", "");
        assert_eq!((e.line, e.message.contains("size_bytes")), (2, true), "{e}");
        assert!(refused("sha256 = \"09cb81746eb96410ecca83d4532d8f1193db9be5d288d6ab716fac26719cdd4d\"\n", "").message.contains("sha256"));
    }

    #[test]
    fn a_file_lies_beside_the_catalogue() {
        for path in ["/etc/shadow", "../up.raw", "a/../../b", ""] {
            refused("file = \"debian-12.raw.zst\"", &format!("file = {path:?}"));
        }
        refused("file = \"debian-12.raw.zst\"", "url = \"file:///etc/shadow\"");
        refused("file =", "url = \"https://host/x\"\nfile =");
    }

    #[test]
    fn two_images_cannot_share_a_name() {
        let e = Catalogue::parse(&format!("{GOOD}{GOOD}")).unwrap_err();
        assert_eq!(e.line, 13, "{e}");
    }

    #[test]
    fn the_shipped_catalogue_is_read_and_its_recipes_exist() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
        let catalogue = Catalogue::parse(&std::fs::read_to_string(dir.join("catalogue.toml")).unwrap()).unwrap();
        assert!(catalogue.images.iter().any(|e| e.name.as_str() == "debian-12"));
        for entry in catalogue.images {
            if let Source::Build(recipe) = entry.source {
                assert!(dir.join(&recipe).is_file(), "{recipe:?}");
            }
        }
    }
}
