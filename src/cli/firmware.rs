//! `hostler firmware`: what models should run, who does, and campaigns that bring machines there.

use std::path::PathBuf;

use clap::Subcommand;

use crate::app::campaigns::{BaselineView, CampaignView, ComplianceView, NewBaseline, NewCampaign};
use crate::cli::client::Client;
use crate::cli::output::{self, or_dash};
use crate::cli::{Result, output::bytes};
use crate::domain::id::{CampaignId, Sha256};

const BASE: &str = "firmware";

#[derive(Subcommand)]
pub(super) enum Verb {
    /// What each model should run
    Baselines,
    /// Set what a component of a model should run, with the file that brings it there; nothing is flashed by it
    Set {
        /// Model as the BMC tells it
        #[arg(long)]
        model: String,
        /// Id or name in the BMC's firmware inventory
        #[arg(long)]
        component: String,
        /// The version that the file brings
        #[arg(long)]
        new_version: String,
        /// Update file on the service's computer
        #[arg(long)]
        file: PathBuf,
        /// Digest that the file must have
        #[arg(long)]
        sha256: Sha256,
    },
    /// How each machine stands to its model's baseline
    Compliance,
    /// Campaigns, newest first
    Campaigns,
    /// Bring every accepted machine of a model to its baseline: a canary first, then rings
    Start {
        #[arg(long)]
        model: String,
        #[arg(long)]
        component: String,
        /// Machines of the first wave; one failure among them halts the campaign [default: 1]
        #[arg(long)]
        canary: Option<u32>,
        /// Failures in a ring that do not halt it yet [default: 0]
        #[arg(long)]
        ring_failures: Option<u32>,
        /// Seconds of rest after each wave [default: 600]
        #[arg(long)]
        soak_secs: Option<u64>,
    },
    /// One campaign with its machines
    Show { campaign: CampaignId },
    /// Begin no further machine; what is under way ends
    Pause { campaign: CampaignId },
    /// Go on after a pause or a halt; the failures seen are accepted by it
    Resume { campaign: CampaignId },
    /// End a campaign for good
    Abort { campaign: CampaignId },
}

pub(super) async fn run(client: &Client, verb: Verb) -> Result<()> {
    match verb {
        Verb::Baselines => {
            let list: Vec<BaselineView> = client.get(&[BASE, "baselines"], &[]).await?;
            if client.json {
                output::json(&list);
            } else {
                let rows = list
                    .into_iter()
                    .map(|b| vec![b.model, b.component, b.version, b.file_name, bytes(b.size_bytes), b.sha256.to_string(), b.set_by]);
                output::table(&["model", "component", "version", "file", "size", "sha256", "set by"], rows.collect());
            }
        }
        Verb::Set { model, component, new_version: version, file, sha256 } => {
            let path = std::path::absolute(&file).unwrap_or(file);
            let new = NewBaseline { model, component, version, path, sha256 };
            let set: BaselineView = client.put(&[BASE, "baselines"], &new).await?;
            if client.json {
                output::json(&set);
            } else {
                output::line(&format!("{} of {} should run {}.", set.component, set.model, set.version));
            }
        }
        Verb::Compliance => {
            let list: Vec<ComplianceView> = client.get(&[BASE, "compliance"], &[]).await?;
            if client.json {
                output::json(&list);
            } else {
                let rows = list.into_iter().map(|c| vec![c.name, c.model, c.component, c.wanted, or_dash(c.runs), c.is, or_dash(c.why)]);
                output::table(&["machine", "model", "component", "wanted", "runs", "is", "why"], rows.collect());
            }
        }
        Verb::Campaigns => {
            let list: Vec<CampaignView> = client.get(&[BASE, "campaigns"], &[]).await?;
            if client.json {
                output::json(&list);
            } else {
                let rows = list.into_iter().map(|c| {
                    let b = c.baseline;
                    vec![c.id.to_string(), c.state, b.model, b.component, b.version, c.machines.len().to_string(), c.why]
                });
                output::table(&["campaign", "state", "model", "component", "version", "machines", "why"], rows.collect());
            }
        }
        Verb::Start { model, component, canary, ring_failures, soak_secs } => {
            let new = NewCampaign { model, component, canary, ring_failures, soak_secs, window_from_minute: None, window_to_minute: None };
            print(client, &client.post(&[BASE, "campaigns"], Some(&new)).await?);
        }
        Verb::Show { campaign } => print(client, &client.get(&[BASE, "campaigns", &campaign.to_string()], &[]).await?),
        Verb::Pause { campaign } => steer(client, campaign, "pause").await?,
        Verb::Resume { campaign } => steer(client, campaign, "resume").await?,
        Verb::Abort { campaign } => steer(client, campaign, "abort").await?,
    }
    Ok(())
}

async fn steer(client: &Client, campaign: CampaignId, verb: &str) -> Result<()> {
    let view = client.post(&[BASE, "campaigns", &campaign.to_string(), verb], None::<&()>).await?;
    print(client, &view);
    Ok(())
}

fn print(client: &Client, campaign: &CampaignView) {
    if client.json {
        output::json(campaign);
        return;
    }
    let b = &campaign.baseline;
    output::facts(&[
        ("campaign", campaign.id.to_string()),
        ("state", campaign.state.clone()),
        ("why", campaign.why.clone()),
        ("wanted", format!("{} of {} at {}", b.component, b.model, b.version)),
        ("begun by", campaign.created_by.clone()),
    ]);
    let rows = campaign
        .machines
        .iter()
        .map(|t| vec![t.wave.to_string(), t.name.clone(), t.state.clone(), or_dash(t.version_before.as_ref()), t.note.clone()]);
    output::table(&["wave", "machine", "state", "ran", "note"], rows.collect());
}
