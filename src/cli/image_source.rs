//! Where `hostler image` gets an image's bytes: a file, a URL, a catalogue's entry, a recipe that makes it.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use crate::artifact::catalogue::{Catalogue, Entry, Source};
use crate::cli::{CliError, Result};
use crate::domain::id::Name;

/// A server that sends nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(15);

pub type Pieces = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// The bytes of an image on their way, and how many there will be.
pub struct ImageBytes {
    pub pieces: Pieces,
    pub size: u64,
}

/// Whether the words name a URL and not a file.
pub fn is_url(source: &str) -> bool {
    source.starts_with("https://") || source.starts_with("http://")
}

pub async fn open_file(path: &Path) -> Result<ImageBytes> {
    let unreadable = |e: std::io::Error| usage(format!("cannot read {}: {e}", path.display()), "");
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let size = file.metadata().await.map_err(unreadable)?.len();
    Ok(ImageBytes { pieces: Box::pin(tokio_util::io::ReaderStream::with_capacity(file, 256 << 10)), size })
}

/// Fetches with this command's own rights and network, not the service's: what it may reach is what its user may reach.
pub async fn open_url(url: &str) -> Result<ImageBytes> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(SILENCE)
        .build()
        .map_err(|e| failed(format!("cannot set up the HTTP client: {e}"), ""))?;
    let answer = client.get(url).send().await.map_err(|e| failed(format!("{url} cannot be fetched: {}", innermost(&e)), ""))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(failed(format!("{url} answered {status}"), "look the address up again"));
    }
    let Some(size) = answer.content_length() else {
        return Err(failed(format!("{url} does not say how long the image is"), "download it and import the file"));
    };
    Ok(ImageBytes { pieces: Box::pin(answer.bytes_stream().map_err(std::io::Error::other)), size })
}

/// One entry of a catalogue, with the directory that its files lie in.
pub fn entry(catalogue: &Path, name: &Name) -> Result<(Entry, PathBuf)> {
    let text = std::fs::read_to_string(catalogue)
        .map_err(|e| usage(format!("cannot read the catalogue {}: {e}", catalogue.display()), "name it with --catalogue FILE"))?;
    let read = Catalogue::parse(&text).map_err(|e| usage(format!("{}: {e}", catalogue.display()), "images/README.md explains the keys"))?;
    let known = read.images.iter().map(|e| e.name.to_string()).collect::<Vec<_>>().join(", ");
    let Some(entry) = read.images.into_iter().find(|e| e.name == *name) else {
        return Err(usage(format!("{} has no image {name}", catalogue.display()), &format!("it has: {known}")));
    };
    Ok((entry, catalogue.parent().unwrap_or(Path::new("")).to_owned()))
}

pub async fn open_entry(entry: &Entry, dir: &Path) -> Result<ImageBytes> {
    let bytes = match &entry.source {
        Source::File(path) => open_file(&dir.join(path)).await?,
        Source::Url(url) => open_url(url).await?,
        Source::Build(_) => {
            return Err(usage(
                format!("the image {} is made by a recipe", entry.name),
                &format!("sudo hostler image build {} makes and imports it", entry.name),
            ));
        }
    };
    // Told before the first byte is sent; the digest is the service's to check.
    match entry.size_bytes {
        Some(expected) if expected != bytes.size => Err(failed(
            format!("the image {} is {} bytes long, the catalogue says {expected}", entry.name, bytes.size),
            "get it again, or correct the catalogue's size_bytes and sha256",
        )),
        Some(_) | None => Ok(bytes),
    }
}

/// Runs an entry's recipe and returns the catalogue that it wrote. The recipe's own words go to the terminal.
pub async fn build(entry: &Entry, dir: &Path, out: &Path) -> Result<PathBuf> {
    let Source::Build(recipe) = &entry.source else {
        return Err(usage(
            format!("the image {} is not made by a recipe", entry.name),
            "import it: hostler image import --catalogue FILE NAME",
        ));
    };
    let program = dir.join(recipe);
    let run = tokio::process::Command::new(&program).arg(out).stdin(Stdio::null()).status().await;
    let status = run.map_err(|e| failed(format!("cannot run {}: {e}", program.display()), ""))?;
    if !status.success() {
        return Err(failed(format!("{} ended with {status}", program.display()), "its last lines say why; recipes need root"));
    }
    Ok(out.join(format!("{}.toml", entry.name)))
}

fn usage(what: String, hint: &str) -> CliError {
    CliError::Usage { what, hint: hint.to_owned() }
}

fn failed(what: String, hint: &str) -> CliError {
    CliError::Failed { what, hint: hint.to_owned() }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        why = inner.to_string();
        source = inner.source();
    }
    why
}
