//! Firmware as wanted state: baselines, who fits them, and campaigns.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{App, AppError, Deed, Result, need};
use crate::clock;
use crate::decide::campaign::{compliance, waves};
use crate::domain::access::{Actor, Role};
use crate::domain::bmc_features::FirmwareItem;
use crate::domain::campaign::{Baseline, Campaign, CampaignState, Compliance, Gate, Target, TargetState, Window};
use crate::domain::id::{CampaignId, MachineId, Sha256};
use crate::domain::machine::Machine;
use crate::domain::time::Timestamp;
use crate::store::sheets::Sheet;

const MAX_TEXT: usize = 200;
const MAX_CANARY: u32 = 100;

/// One line of a model's baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BaselineView {
    pub model: String,
    pub component: String,
    pub version: String,
    pub sha256: Sha256,
    pub file_name: String,
    pub size_bytes: u64,
    pub set_by: String,
    pub set_at: Timestamp,
}

/// A line of a baseline with a file on the service's own computer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBaseline {
    /// As the BMC tells it.
    pub model: String,
    /// Id or name in the BMC's firmware inventory.
    pub component: String,
    pub version: String,
    /// Absolute path of the update file; it is copied.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Digest that the file must have.
    pub sha256: Sha256,
}

/// How one machine stands to one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComplianceView {
    pub machine: MachineId,
    pub name: String,
    pub model: String,
    pub component: String,
    pub wanted: String,
    pub runs: Option<String>,
    /// `fits`, `differs` or `unknown`: not known is not fine.
    pub is: String,
    /// Why it is not known.
    pub why: Option<String>,
}

/// A campaign to begin.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCampaign {
    pub model: String,
    pub component: String,
    /// Machines of the first wave; one failure among them halts. 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<u32>,
    /// Failures in a ring that do not halt yet; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_failures: Option<u32>,
    /// Rest after each wave; 600 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_secs: Option<u64>,
    /// Minutes of the UTC day in which machines are begun, for example 1320 and 240.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_from_minute: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_to_minute: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CampaignView {
    #[schema(value_type = String)]
    pub id: CampaignId,
    /// `running`, `paused`, `halted`, `done` or `aborted`.
    pub state: String,
    pub why: String,
    pub baseline: BaselineView,
    pub created_by: String,
    pub created_at: Timestamp,
    pub machines: Vec<TargetView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetView {
    pub machine: MachineId,
    pub name: String,
    /// 0 is the canary.
    pub wave: u32,
    /// `waiting`, `under_way`, `done`, `failed` or `skipped`.
    pub state: String,
    pub version_before: Option<String>,
    pub note: String,
}

impl From<Baseline> for BaselineView {
    fn from(b: Baseline) -> Self {
        let Baseline { model, component, version, sha256, file_name, size_bytes, set_by, set_at } = b;
        Self { model, component, version, sha256, file_name, size_bytes, set_by, set_at }
    }
}

fn model_of(machine: &Machine) -> Option<&str> {
    machine.bmc.as_ref()?.identity.model.as_deref()
}

fn word(state: &TargetState) -> &'static str {
    match state {
        TargetState::Waiting => "waiting",
        TargetState::Ready | TargetState::Begun | TargetState::Following { .. } | TargetState::Proving { .. } => "under_way",
        TargetState::Done => "done",
        TargetState::Failed => "failed",
        TargetState::Skipped => "skipped",
    }
}

impl App {
    /// All lines of all baselines.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn baselines(&self, actor: &Actor) -> Result<Vec<BaselineView>> {
        need(actor, Role::Viewer)?;
        Ok(self.store().baselines().await?.into_iter().map(BaselineView::from).collect())
    }

    /// Sets one line and takes its file in. Nothing is flashed by it.
    ///
    /// # Errors
    /// `Forbidden`; `Invalid` for a file that has another digest or cannot be read.
    pub async fn set_baseline(&self, actor: &Actor, new: NewBaseline) -> Result<BaselineView> {
        // The file is read with the service's own rights.
        need(actor, Role::Admin)?;
        for (name, text) in [("model", &new.model), ("component", &new.component), ("version", &new.version)] {
            if text.trim().is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                return Err(AppError::invalid(format!("the {name} is empty or too long"), "write it as the BMC tells it"));
            }
        }
        let file_name = new.path.file_name().and_then(|n| n.to_str()).map(str::to_owned);
        let (Some(file_name), true) = (file_name, new.path.is_absolute()) else {
            return Err(AppError::invalid("the file's path is not absolute", "give the whole path on the service's computer"));
        };
        let size_bytes = self.inner.artifacts.take_file(&new.path, &new.sha256).await.map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            AppError::invalid(format!("the file {} was not taken: {e}{cause}", new.path.display()), "compare its sha256 with its vendor's")
        })?;
        let now = clock::now();
        let baseline = Baseline {
            model: new.model,
            component: new.component,
            version: new.version,
            sha256: new.sha256,
            file_name,
            size_bytes,
            set_by: actor.name.clone(),
            set_at: now,
        };
        let text = format!("{} set {} of {} to {}.", actor.name, baseline.component, baseline.model, baseline.version);
        let mut tx = self.store().begin().await?;
        tx.put_baseline(&baseline).await?;
        self.firmware_deed(actor, now, "firmware.baseline", &baseline, text).record(&mut tx).await?;
        tx.commit().await?;
        Ok(baseline.into())
    }

    fn firmware_deed<'a>(&self, actor: &'a Actor, at: Timestamp, kind: &'static str, baseline: &Baseline, text: String) -> Deed<'a> {
        let detail = serde_json::json!({ "version": baseline.version, "sha256": baseline.sha256 });
        Deed { actor, at, kind, machine: None, run: None, object: format!("{} {}", baseline.model, baseline.component), detail, text }
    }

    /// How each accepted machine stands to the lines of its model.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn firmware_compliance(&self, actor: &Actor) -> Result<Vec<ComplianceView>> {
        need(actor, Role::Viewer)?;
        let baselines = self.store().baselines().await?;
        let mut out = Vec::new();
        for machine in self.store().machines().await? {
            let Some(model) = model_of(&machine).filter(|m| baselines.iter().any(|b| b.model == *m)) else { continue };
            let inventory: Option<Vec<FirmwareItem>> = self.store().sheet(machine.id, Sheet::Firmware).await?.map(|(items, _)| items);
            for baseline in baselines.iter().filter(|b| b.model == model) {
                let (is, runs, why) = match compliance(baseline, inventory.as_deref()) {
                    Compliance::Fits => ("fits", Some(baseline.version.clone()), None),
                    Compliance::Differs { runs } => ("differs", Some(runs), None),
                    Compliance::Unknown { why } => ("unknown", None, Some(why)),
                };
                out.push(ComplianceView {
                    machine: machine.id,
                    name: machine.name.to_string(),
                    model: model.to_owned(),
                    component: baseline.component.clone(),
                    wanted: baseline.version.clone(),
                    runs,
                    is: is.to_owned(),
                    why,
                });
            }
        }
        Ok(out)
    }

    /// Begins a campaign over every accepted machine of the model.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` without such a line; `Refused` while another campaign of it is not over, or without machines.
    pub async fn start_campaign(&self, actor: &Actor, new: NewCampaign) -> Result<CampaignView> {
        need(actor, Role::Operator)?;
        let baselines = self.store().baselines().await?;
        let baseline = baselines.into_iter().find(|b| b.model == new.model && b.component == new.component);
        let baseline =
            baseline.ok_or_else(|| AppError::NotFound { what: "firmware baseline", text: format!("{} {}", new.model, new.component) })?;
        let same = |c: &Campaign| !c.state.is_over() && c.baseline.model == baseline.model;
        if let Some(other) = self.store().campaigns().await?.into_iter().find(same) {
            return Err(AppError::Refused {
                code: "campaign_under_way",
                what: format!("a campaign of {} is {}", other.baseline.model, other.state),
                hint: format!("end it first: hostler firmware abort {}", other.id),
            });
        }
        let window = match (new.window_from_minute, new.window_to_minute) {
            (None, None) => None,
            (Some(from_minute), Some(to_minute)) if from_minute < 1440 && to_minute < 1440 && from_minute != to_minute => {
                Some(Window { from_minute, to_minute })
            }
            _ => return Err(AppError::invalid("a window has two different minutes of the day, 0 to 1439", "give both")),
        };
        let mut machines = self.store().machines().await?;
        machines.retain(|m| m.accepted_at.is_some() && model_of(m) == Some(baseline.model.as_str()));
        machines.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        if machines.is_empty() {
            let what = format!("no accepted machine is a {}", baseline.model);
            return Err(AppError::Refused { code: "no_machines", what, hint: "look at: hostler firmware compliance".into() });
        }
        let ids: Vec<MachineId> = machines.iter().map(|m| m.id).collect();
        let canary = new.canary.unwrap_or(1).clamp(1, MAX_CANARY);
        let targets: Vec<Target> = waves(&ids, canary).into_iter().map(|(machine, wave)| Target::new(machine, wave)).collect();
        let usual = Gate::default();
        let now = clock::now();
        let campaign = Campaign {
            id: CampaignId(clock::fresh_uuid()),
            state: CampaignState::Running,
            baseline,
            gate: Gate {
                ring_failures: new.ring_failures.unwrap_or(usual.ring_failures),
                soak_secs: new.soak_secs.unwrap_or(usual.soak_secs),
                ..usual
            },
            window,
            why: "It begins.".to_owned(),
            created_by: actor.name.clone(),
            created_at: now,
            accepted_failures: 0,
        };
        let b = &campaign.baseline;
        let text = format!("{} began to bring {} of {} machines ({}) to {}.", actor.name, b.component, targets.len(), b.model, b.version);
        let mut tx = self.store().begin().await?;
        tx.insert_campaign(&campaign, &targets).await?;
        self.firmware_deed(actor, now, "campaign.started", b, text).record(&mut tx).await?;
        tx.commit().await?;
        self.campaign_view(campaign).await
    }

    /// Campaigns, newest first.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn campaigns(&self, actor: &Actor) -> Result<Vec<CampaignView>> {
        need(actor, Role::Viewer)?;
        let mut out = Vec::new();
        for campaign in self.store().campaigns().await? {
            out.push(self.campaign_view(campaign).await?);
        }
        Ok(out)
    }

    /// One campaign with its machines.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound`.
    pub async fn campaign(&self, actor: &Actor, id: CampaignId) -> Result<CampaignView> {
        need(actor, Role::Viewer)?;
        let campaign = self.existing_campaign(id).await?;
        self.campaign_view(campaign).await
    }

    /// Pauses, resumes or aborts. What is under way with a BMC ends; resuming after a halt accepts the failures seen.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound`; `Refused` from a state that does not allow it.
    pub async fn steer_campaign(&self, actor: &Actor, id: CampaignId, to: CampaignState) -> Result<CampaignView> {
        need(actor, Role::Operator)?;
        let mut campaign = self.existing_campaign(id).await?;
        let from = campaign.state;
        let allowed = match to {
            CampaignState::Paused => from == CampaignState::Running,
            CampaignState::Running => matches!(from, CampaignState::Paused | CampaignState::Halted),
            CampaignState::Aborted => !from.is_over(),
            CampaignState::Halted | CampaignState::Done => false,
        };
        if !allowed {
            let what = format!("the campaign is {from}");
            return Err(AppError::Refused { code: "campaign_state", what, hint: format!("look at: hostler firmware show {id}") });
        }
        if from == CampaignState::Halted && to == CampaignState::Running {
            let targets = self.store().campaign_targets(id).await?;
            let failed = targets.iter().filter(|t| t.state == TargetState::Failed).count();
            campaign.accepted_failures = u32::try_from(failed).unwrap_or(u32::MAX);
        }
        let now = clock::now();
        campaign.state = to;
        campaign.why = match to {
            CampaignState::Running => format!("{} let it go on.", actor.name),
            CampaignState::Paused | CampaignState::Halted | CampaignState::Done | CampaignState::Aborted => {
                format!("{} made it {to}.", actor.name)
            }
        };
        let text = format!("The campaign for {} {}: {}", campaign.baseline.model, campaign.baseline.component, campaign.why);
        let mut tx = self.store().begin().await?;
        tx.update_campaign(&campaign, from).await?;
        self.firmware_deed(actor, now, "campaign.steered", &campaign.baseline, text).record(&mut tx).await?;
        tx.commit().await?;
        self.campaign_view(campaign).await
    }

    async fn existing_campaign(&self, id: CampaignId) -> Result<Campaign> {
        self.store().campaign(id).await?.ok_or_else(|| AppError::NotFound { what: "campaign", text: id.to_string() })
    }

    async fn campaign_view(&self, campaign: Campaign) -> Result<CampaignView> {
        let names: std::collections::HashMap<MachineId, String> =
            self.store().machines().await?.into_iter().map(|m| (m.id, m.name.to_string())).collect();
        let machines = self.store().campaign_targets(campaign.id).await?.into_iter().map(|t| TargetView {
            machine: t.machine,
            name: names.get(&t.machine).cloned().unwrap_or_default(),
            wave: t.wave,
            state: word(&t.state).to_owned(),
            version_before: t.version_before,
            note: t.note,
        });
        Ok(CampaignView {
            id: campaign.id,
            state: campaign.state.to_string(),
            why: campaign.why,
            created_by: campaign.created_by,
            created_at: campaign.created_at,
            baseline: campaign.baseline.into(),
            machines: machines.collect(),
        })
    }
}
