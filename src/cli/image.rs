//! `hostler image` and `hostler racks`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;

use crate::app::images::ImageView;
use crate::app::racks::{ImportReport, RackView};
use crate::cli::client::Client;
use crate::cli::{CliError, Result, output};
use crate::domain::boot::Arch;
use crate::domain::id::{Name, Sha256};
use crate::domain::power::FirmwareKind;

#[derive(Subcommand)]
pub(super) enum ImageVerb {
    /// Images that can be deployed
    List,
    /// Take in a raw disk (also .zst, .gz) or qcow2 image
    Import {
        file: PathBuf,
        #[arg(long)]
        name: Name,
        #[arg(long, default_value = "x86_64")]
        arch: Arch,
        /// Digest that the file must have
        #[arg(long)]
        sha256: Option<Sha256>,
        /// The account that cloud-init gives the SSH keys to
        #[arg(long, default_value = crate::app::images::DEFAULT_USER)]
        user: String,
        /// bios, uefi or bios,uefi [default: as the partition table says]
        #[arg(long, value_delimiter = ',')]
        boots_on: Vec<FirmwareKind>,
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
                    i.boots_on.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                    i.machines.to_string(),
                    output::ago(i.imported_at),
                ]
            });
            output::table(&["name", "arch", "format", "size", "on disk", "boots on", "machines", "imported"], rows.collect());
            Ok(())
        }
        ImageVerb::Import { file, name, arch, sha256, user, boots_on } => {
            let mut query = vec![("name", name.to_string()), ("arch", arch.to_string()), ("default_user", user)];
            if let Some(sha256) = sha256 {
                query.push(("sha256", sha256.to_string()));
            }
            if !boots_on.is_empty() {
                query.push(("boots_on", boots_on.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")));
            }
            let image = upload(client, &file, &query).await?;
            if client.json {
                output::json(&image);
            } else {
                eprintln!(
                    "{}: {} on disk, boots on {}.",
                    image.name,
                    output::bytes(image.raw_size_bytes),
                    image.boots_on.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
                );
            }
            Ok(())
        }
        ImageVerb::Remove { name } => client.tell(Method::DELETE, &["images", name.as_str()], None::<&()>).await,
    }
}

async fn upload(client: &Client, file: &PathBuf, query: &[(&str, String)]) -> Result<ImageView> {
    let unreadable = |e: std::io::Error| CliError::Usage { what: format!("cannot read {}: {e}", file.display()), hint: String::new() };
    let open = tokio::fs::File::open(file).await.map_err(unreadable)?;
    let size = open.metadata().await.map_err(unreadable)?.len();
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(size).with_style(style)
    } else {
        ProgressBar::hidden()
    };
    bar.enable_steady_tick(Duration::from_millis(250));
    let counter = bar.clone();
    let image = client.upload(&["images"], query, open, size, move |bytes| counter.inc(bytes)).await;
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
