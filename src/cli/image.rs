//! `hostler image` and `hostler racks`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;

use crate::app::images::ImageView;
use crate::app::racks::{ImportReport, RackView};
use crate::cli::client::Client;
use crate::cli::image_source::{self, ImageBytes, open_file};
use crate::cli::{CliError, Result, output};
use crate::domain::boot::Arch;
use crate::domain::id::{Name, Sha256};
use crate::domain::power::FirmwareKind;

#[derive(Subcommand)]
pub(super) enum ImageVerb {
    /// Images that can be deployed
    List,
    /// Take in a raw disk (also .zst, .gz) or qcow2 image: a file, an http(s) URL, or an entry of a catalogue
    Import {
        /// File or URL; with --catalogue, the name of an entry
        source: String,
        /// Name of the image here
        #[arg(long, required_unless_present = "catalogue")]
        name: Option<Name>,
        #[arg(long, default_value = "x86_64", conflicts_with = "catalogue")]
        arch: Arch,
        /// Digest that the file must have; required for a URL
        #[arg(long, conflicts_with = "catalogue")]
        sha256: Option<Sha256>,
        /// The account that cloud-init gives the SSH keys to
        #[arg(long, default_value = crate::app::images::DEFAULT_USER, conflicts_with = "catalogue")]
        user: String,
        /// bios, uefi or bios,uefi [default: as the partition table says]
        #[arg(long, value_delimiter = ',', conflicts_with = "catalogue")]
        boots_on: Vec<FirmwareKind>,
        /// Catalogue (TOML) that says where the image is and what it must be
        #[arg(long, value_name = "FILE")]
        catalogue: Option<PathBuf>,
    },
    /// Make an image by its recipe, as root, and take it in
    Build {
        /// An entry of the catalogue that has a recipe
        name: Name,
        #[arg(long, value_name = "FILE", default_value = "images/catalogue.toml")]
        catalogue: PathBuf,
        /// Where the image file is made and stays
        #[arg(long, value_name = "DIR", default_value = "target/images")]
        out: PathBuf,
        /// Make the file only
        #[arg(long)]
        no_import: bool,
    },
    /// Remove an image; machines that run it keep running
    Remove { name: Name },
}

#[derive(Subcommand)]
pub(super) enum RackVerb {
    /// Racks, and what has not turned up
    List,
    /// Import a packing list (CSV: serial, mac, bmc, user, password, rack, u, name); all of it or nothing
    Import { file: PathBuf },
}

pub(super) async fn run_image(client: &Client, verb: ImageVerb) -> Result<()> {
    match verb {
        ImageVerb::List => {
            let images: Vec<ImageView> = client.get(&["images"], &[]).await?;
            if client.json {
                output::json(&images);
                return Ok(());
            }
            let rows = images.iter().map(|i| {
                vec![
                    i.name.to_string(),
                    i.arch.to_string(),
                    i.format.to_string(),
                    output::bytes(i.size_bytes),
                    output::bytes(i.raw_size_bytes),
                    firmware_list(&i.boots_on, ","),
                    i.machines.to_string(),
                    output::ago(i.imported_at),
                ]
            });
            output::table(&["name", "arch", "format", "size", "on disk", "boots on", "machines", "imported"], rows.collect());
            Ok(())
        }
        ImageVerb::Import { source, name, catalogue: Some(catalogue), .. } => {
            let entry_name: Name = source
                .parse()
                .map_err(|e| CliError::Usage { what: format!("{source:?} is not an image's name: {e}"), hint: String::new() })?;
            import_entry(client, &catalogue, &entry_name, name).await
        }
        ImageVerb::Import { source, name: Some(name), arch, sha256, user, boots_on, catalogue: None } => {
            if image_source::is_url(&source) && sha256.is_none() {
                return Err(CliError::Usage {
                    what: "what comes over a network is taken only with its digest".to_owned(),
                    hint: "add --sha256 as the image's publisher tells it".to_owned(),
                });
            }
            let mut query = vec![("name", name.to_string()), ("arch", arch.to_string()), ("default_user", user)];
            query.extend(sha256.map(|d| ("sha256", d.to_string())));
            query.extend((!boots_on.is_empty()).then(|| ("boots_on", firmware_list(&boots_on, ","))));
            let bytes =
                if image_source::is_url(&source) { image_source::open_url(&source).await? } else { open_file(Path::new(&source)).await? };
            tell(client, &upload(client, bytes, &query).await?);
            Ok(())
        }
        ImageVerb::Import { name: None, catalogue: None, .. } => {
            Err(CliError::Usage { what: "an image needs a name".to_owned(), hint: "add --name NAME".to_owned() })
        }
        ImageVerb::Build { name, catalogue, out, no_import } => {
            let (entry, dir) = image_source::entry(&catalogue, &name)?;
            let made = image_source::build(&entry, &dir, &out).await?;
            if no_import {
                eprintln!("{name} lies in {}; hostler image import --catalogue {} {name} takes it in.", out.display(), made.display());
                return Ok(());
            }
            import_entry(client, &made, &name, None).await
        }
        ImageVerb::Remove { name } => client.tell(Method::DELETE, &["images", name.as_str()], None::<&()>).await,
    }
}

/// Imports an entry of a catalogue under its own name or another.
async fn import_entry(client: &Client, catalogue: &Path, name: &Name, as_name: Option<Name>) -> Result<()> {
    let (entry, dir) = image_source::entry(catalogue, name)?;
    let bytes = image_source::open_entry(&entry, &dir).await?;
    let mut query = vec![
        ("name", as_name.unwrap_or(entry.name).to_string()),
        ("arch", entry.arch.to_string()),
        ("default_user", entry.default_user),
        ("boots_on", firmware_list(&entry.boots_on, ",")),
    ];
    query.extend(entry.sha256.map(|d| ("sha256", d.to_string())));
    tell(client, &upload(client, bytes, &query).await?);
    Ok(())
}

fn firmware_list(kinds: &[FirmwareKind], between: &str) -> String {
    kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

fn tell(client: &Client, image: &ImageView) {
    if client.json {
        output::json(image);
    } else {
        let boots_on = firmware_list(&image.boots_on, " and ");
        eprintln!("{}: {} on disk, boots on {boots_on}.", image.name, output::bytes(image.raw_size_bytes));
    }
}

async fn upload(client: &Client, bytes: ImageBytes, query: &[(&str, String)]) -> Result<ImageView> {
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(bytes.size).with_style(style)
    } else {
        ProgressBar::hidden()
    };
    bar.enable_steady_tick(Duration::from_millis(250));
    let counter = bar.clone();
    let image = client.upload(&["images"], query, bytes.pieces, bytes.size, move |sent| counter.inc(sent)).await;
    bar.finish_and_clear();
    image
}

pub(super) async fn run_racks(client: &Client, verb: RackVerb) -> Result<()> {
    match verb {
        RackVerb::List => {
            let racks: Vec<RackView> = client.get(&["racks"], &[]).await?;
            if client.json {
                output::json(&racks);
                return Ok(());
            }
            let rows = racks.iter().flat_map(|r| {
                r.slots.iter().map(|s| {
                    let seen = if s.expected_only { "not turned up" } else { "seen" };
                    vec![
                        r.rack.as_ref().map_or("-", |r| r.as_str()).to_owned(),
                        output::or_dash(s.u),
                        s.name.to_string(),
                        output::or_dash(s.serial.as_ref()),
                        s.lifecycle.to_string(),
                        seen.to_owned(),
                    ]
                })
            });
            output::table(&["rack", "u", "machine", "serial", "state", "seen"], rows.collect());
            Ok(())
        }
        RackVerb::Import { file } => {
            let text = std::fs::read_to_string(&file)
                .map_err(|e| CliError::Usage { what: format!("cannot read {}: {e}", file.display()), hint: String::new() })?;
            let report: ImportReport = client.post_text(&["racks", "import"], "text/csv", text).await?;
            if client.json {
                output::json(&report);
                return Ok(());
            }
            eprintln!("{} new, {} changed, {} as before.", report.created.len(), report.updated.len(), report.unchanged);
            if !report.not_turned_up.is_empty() {
                eprintln!("Not turned up yet: {}.", report.not_turned_up.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
            }
            Ok(())
        }
    }
}
