//! Firmware baselines, campaigns and how far each machine of one is.

use std::time::Duration;

use crate::domain::campaign::{Baseline, Campaign, CampaignState, Target};
use crate::domain::id::{CampaignId, MachineId};
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, StoreError, Tx, from_json, in_pool, in_tx, parse, to_json};

/// The right to work on one machine of a campaign until its lease runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetClaim {
    pub campaign: CampaignId,
    pub machine: MachineId,
    pub fence: i64,
}

impl Store {
    pub async fn baselines(&self) -> Result<Vec<Baseline>> {
        let rows: Vec<(String, String)> =
            in_pool!(self, p => sqlx::query_as("SELECT model, doc FROM firmware_baselines ORDER BY model, component").fetch_all(p).await)?;
        rows.into_iter().map(|(model, doc)| from_json("firmware_baselines", &model, &doc)).collect()
    }

    pub async fn campaigns(&self) -> Result<Vec<Campaign>> {
        let rows: Vec<(String, String)> =
            in_pool!(self, p => sqlx::query_as("SELECT id, doc FROM campaigns ORDER BY created_at DESC").fetch_all(p).await)?;
        rows.into_iter().map(|(id, doc)| from_json("campaigns", &id, &doc)).collect()
    }

    pub async fn campaign(&self, id: CampaignId) -> Result<Option<Campaign>> {
        let id = id.to_string();
        let row: Option<(String,)> =
            in_pool!(self, p => sqlx::query_as("SELECT doc FROM campaigns WHERE id = $1").bind(&id).fetch_optional(p).await)?;
        row.map(|(doc,)| from_json("campaigns", &id, &doc)).transpose()
    }

    /// Campaigns in a state.
    pub async fn campaigns_in(&self, state: CampaignState) -> Result<Vec<Campaign>> {
        let rows: Vec<(String, String)> = in_pool!(self, p => sqlx::query_as("SELECT id, doc FROM campaigns WHERE state = $1 ORDER BY created_at")
            .bind(state.to_string()).fetch_all(p).await)?;
        rows.into_iter().map(|(id, doc)| from_json("campaigns", &id, &doc)).collect()
    }

    /// The machines of a campaign, wave by wave.
    pub async fn campaign_targets(&self, id: CampaignId) -> Result<Vec<Target>> {
        let id = id.to_string();
        let rows: Vec<(String,)> = in_pool!(self, p => sqlx::query_as(
            "SELECT doc FROM campaign_targets WHERE campaign_id = $1 ORDER BY wave, machine_id").bind(&id).fetch_all(p).await)?;
        rows.into_iter().map(|(doc,)| from_json("campaign_targets", &id, &doc)).collect()
    }

    pub async fn campaign_target(&self, claim: &TargetClaim) -> Result<Option<Target>> {
        let id = claim.campaign.to_string();
        let row: Option<(String,)> = in_pool!(self, p => sqlx::query_as(
            "SELECT doc FROM campaign_targets WHERE campaign_id = $1 AND machine_id = $2 AND fence = $3")
            .bind(&id).bind(claim.machine.to_string()).bind(claim.fence).fetch_optional(p).await)?;
        row.map(|(doc,)| from_json("campaign_targets", &id, &doc)).transpose()
    }

    /// Claims up to `limit` machines whose turn it is. As with machines, the condition is repeated outside of the sub-select.
    pub async fn claim_due_targets(&self, owner: &str, now: Timestamp, lease: Duration, limit: u32) -> Result<Vec<TargetClaim>> {
        let mut tx = self.begin().await?;
        let rows: Vec<(String, String, i64)> = in_tx!(tx, c => sqlx::query_as(
            "UPDATE campaign_targets SET lease_owner = $1, lease_until = $2, fence = fence + 1
             WHERE (campaign_id, machine_id) IN (SELECT campaign_id, machine_id FROM campaign_targets
                WHERE due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3) ORDER BY due_at LIMIT $4)
               AND due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3)
             RETURNING campaign_id, machine_id, fence")
            .bind(owner).bind(now.plus(lease).0).bind(now.0).bind(i64::from(limit)).fetch_all(c).await)?;
        tx.commit().await?;
        rows.into_iter()
            .map(|(campaign, machine, fence)| {
                let (campaign, machine) =
                    (parse("campaign_targets", &campaign, &campaign)?, parse("campaign_targets", &machine, &machine)?);
                Ok(TargetClaim { campaign, machine, fence })
            })
            .collect()
    }
}

impl Tx {
    /// Sets a line of a baseline, or replaces the one of that model and component.
    pub async fn put_baseline(&mut self, baseline: &Baseline) -> Result<()> {
        let doc = to_json(baseline)?;
        self.touch(None);
        in_tx!(self, c => sqlx::query(
            "INSERT INTO firmware_baselines (model, component, doc, set_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (model, component) DO UPDATE SET doc = excluded.doc, set_at = excluded.set_at")
            .bind(&baseline.model).bind(&baseline.component).bind(&doc).bind(baseline.set_at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn insert_campaign(&mut self, campaign: &Campaign, targets: &[Target]) -> Result<()> {
        let (id, doc) = (campaign.id.to_string(), to_json(campaign)?);
        self.touch(None);
        in_tx!(self, c => sqlx::query("INSERT INTO campaigns (id, state, doc, created_at) VALUES ($1, $2, $3, $4)")
            .bind(&id).bind(campaign.state.to_string()).bind(&doc).bind(campaign.created_at.0)
            .execute(c).await.map(|_| ()))?;
        for target in targets {
            let doc = to_json(target)?;
            in_tx!(self, c => sqlx::query("INSERT INTO campaign_targets (campaign_id, machine_id, wave, doc, fence) VALUES ($1, $2, $3, $4, 0)")
                .bind(&id).bind(target.machine.to_string()).bind(i64::from(target.wave)).bind(&doc)
                .execute(c).await.map(|_| ()))?;
        }
        Ok(())
    }

    /// Writes a campaign that is still in `from`.
    ///
    /// # Errors
    /// `Conflict` when a person, or another replica, changed its state meanwhile.
    pub async fn update_campaign(&mut self, campaign: &Campaign, from: CampaignState) -> Result<()> {
        let doc = to_json(campaign)?;
        self.touch(None);
        let changed = in_tx!(self, c => sqlx::query("UPDATE campaigns SET state = $3, doc = $4 WHERE id = $1 AND state = $2")
            .bind(campaign.id.to_string()).bind(from.to_string()).bind(campaign.state.to_string()).bind(&doc)
            .execute(c).await.map(|r| r.rows_affected()))?;
        if changed == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Gives a waiting machine its turn.
    pub async fn begin_target(&mut self, campaign: CampaignId, target: &Target, due: Timestamp) -> Result<()> {
        let doc = to_json(target)?;
        self.touch(Some(target.machine));
        in_tx!(self, c => sqlx::query(
            "UPDATE campaign_targets SET doc = $3, due_at = $4 WHERE campaign_id = $1 AND machine_id = $2 AND due_at IS NULL")
            .bind(campaign.to_string()).bind(target.machine.to_string()).bind(&doc).bind(due.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Stores how far a machine is while its claim holds, without giving the claim back.
    ///
    /// # Errors
    /// `Conflict` when the claim was taken over: nothing may be sent.
    pub async fn keep_target(&mut self, claim: &TargetClaim, target: &Target) -> Result<()> {
        let doc = to_json(target)?;
        self.touch(Some(claim.machine));
        let changed = in_tx!(self, c => sqlx::query(
            "UPDATE campaign_targets SET doc = $4 WHERE campaign_id = $1 AND machine_id = $2 AND fence = $3")
            .bind(claim.campaign.to_string()).bind(claim.machine.to_string()).bind(claim.fence).bind(&doc)
            .execute(c).await.map(|r| r.rows_affected()))?;
        if changed == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Stores how far a machine is and gives the claim back. `due`: when it is looked at next.
    ///
    /// # Errors
    /// `Conflict` when the claim was taken over.
    pub async fn rest_target(&mut self, claim: &TargetClaim, target: &Target, due: Option<Timestamp>) -> Result<()> {
        self.keep_target(claim, target).await?;
        in_tx!(self, c => sqlx::query(
            "UPDATE campaign_targets SET due_at = $4, lease_owner = NULL, lease_until = NULL WHERE campaign_id = $1 AND machine_id = $2 AND fence = $3")
            .bind(claim.campaign.to_string()).bind(claim.machine.to_string()).bind(claim.fence).bind(due.map(|d| d.0))
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }
}
