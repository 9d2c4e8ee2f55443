//! What a firmware campaign does next. Pure: the campaign, its machines and the time in, a decision with its sentence out.

use std::time::Duration;

use crate::domain::bmc_features::FirmwareItem;
use crate::domain::campaign::{Baseline, Campaign, CampaignState, Compliance, Target, TargetState};
use crate::domain::id::MachineId;
use crate::domain::time::{Timestamp, spoken};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Nothing,
    /// The machines of this wave get their turn.
    StartWave(u32),
    Halt,
    Finish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub next: Next,
    pub why: String,
}

fn rest(why: impl Into<String>) -> Decision {
    Decision { next: Next::Nothing, why: why.into() }
}

/// The wave of each machine: the canary, then rings that double, so that a bad file meets few machines before it is seen.
pub fn waves(machines: &[MachineId], canary: u32) -> Vec<(MachineId, u32)> {
    let (mut out, mut left, mut size, mut wave) = (Vec::new(), machines, canary.max(1) as usize, 0);
    while !left.is_empty() {
        let (now, later) = left.split_at(size.min(left.len()));
        out.extend(now.iter().map(|m| (*m, wave)));
        (left, wave, size) = (later, wave + 1, if wave == 0 { (canary.max(1) as usize) * 4 } else { size * 2 });
    }
    out
}

/// Decides about a campaign.
pub fn decide(campaign: &Campaign, targets: &[Target], now: Timestamp) -> Decision {
    match campaign.state {
        CampaignState::Running => {}
        CampaignState::Paused | CampaignState::Halted | CampaignState::Done | CampaignState::Aborted => return rest(campaign.why.clone()),
    }
    let begun = targets.iter().filter(|t| t.state != TargetState::Waiting).map(|t| t.wave).max();
    let Some(wave) = begun else {
        return start(campaign, targets, 0, now);
    };
    let failed = targets.iter().filter(|t| t.state == TargetState::Failed).count();
    let allowed = if wave == 0 { 0 } else { campaign.gate.ring_failures } + campaign.accepted_failures;
    if failed > allowed as usize {
        let named = targets.iter().find(|t| t.state == TargetState::Failed).map(|t| t.note.clone()).unwrap_or_default();
        let which = if wave == 0 { "the canary".to_owned() } else { format!("ring {wave}") };
        return Decision { next: Next::Halt, why: format!("Halted at {which}: {failed} failed, {allowed} may ({named}).") };
    }
    let under_way = targets.iter().filter(|t| t.wave == wave && !t.state.is_over()).count();
    if under_way > 0 {
        return rest(format!("Wave {wave}: {under_way} under way."));
    }
    let ended = targets.iter().filter(|t| t.wave == wave).filter_map(|t| t.ended_at).max();
    let soak = Duration::from_secs(campaign.gate.soak_secs);
    if !targets.iter().any(|t| t.state == TargetState::Waiting) {
        let done = targets.iter().filter(|t| t.state == TargetState::Done).count();
        return Decision {
            next: Next::Finish,
            why: format!("Done: {done} of {} brought to {}.", targets.len(), campaign.baseline.version),
        };
    }
    if let Some(left) = ended.and_then(|at| soak.checked_sub(now.since(at))).filter(|l| !l.is_zero()) {
        return rest(format!("Wave {wave} is through; the next begins in {} if nothing shows until then.", spoken(left)));
    }
    start(campaign, targets, wave + 1, now)
}

fn start(campaign: &Campaign, targets: &[Target], wave: u32, now: Timestamp) -> Decision {
    if campaign.window.is_some_and(|w| !w.holds(now)) {
        return rest(format!("Wave {wave} waits for its window."));
    }
    let count = targets.iter().filter(|t| t.wave == wave).count();
    if count == 0 && !targets.iter().any(|t| t.state == TargetState::Waiting) {
        return Decision { next: Next::Finish, why: "Done: there is no machine in it.".to_owned() };
    }
    Decision { next: Next::StartWave(wave), why: format!("Wave {wave} begins with {count} machines.") }
}

/// The item of an inventory that a baseline is about.
pub fn item<'a>(baseline: &Baseline, inventory: &'a [FirmwareItem]) -> Option<&'a FirmwareItem> {
    let named = |i: &&FirmwareItem| i.source.rsplit('/').next() == Some(baseline.component.as_str()) || i.name == baseline.component;
    inventory.iter().filter(named).find(|i| i.in_use != Some(false))
}

/// How an inventory stands to a baseline.
pub fn compliance(baseline: &Baseline, inventory: Option<&[FirmwareItem]>) -> Compliance {
    let Some(inventory) = inventory else { return Compliance::Unknown { why: "its firmware was not read yet".to_owned() } };
    match item(baseline, inventory).map(|i| i.version.as_deref()) {
        None => Compliance::Unknown { why: format!("its BMC lists no component {}", baseline.component) },
        Some(None) => Compliance::Unknown { why: format!("its BMC gives {} no version", baseline.component) },
        Some(Some(version)) if version == baseline.version => Compliance::Fits,
        Some(Some(version)) => Compliance::Differs { runs: version.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::campaign::{Gate, Window};
    use crate::domain::id::{CampaignId, Sha256};

    fn at(secs: i64) -> Timestamp {
        Timestamp((1_790_000_000 + secs) * 1_000_000)
    }

    fn machine(n: u128) -> MachineId {
        MachineId(uuid::Uuid::from_u128(n))
    }

    fn campaign() -> Campaign {
        let baseline = Baseline {
            model: "M".into(),
            component: "BMC".into(),
            version: "2".into(),
            sha256: Sha256([1; 32]),
            file_name: "f.bin".into(),
            size_bytes: 1,
            set_by: "ann".into(),
            set_at: at(0),
        };
        Campaign {
            id: CampaignId(uuid::Uuid::from_u128(9)),
            state: CampaignState::Running,
            baseline,
            gate: Gate { ring_failures: 1, soak_secs: 60, within_secs: 600 },
            window: None,
            why: String::new(),
            created_by: "ann".into(),
            created_at: at(0),
            accepted_failures: 0,
        }
    }

    fn targets(canary: TargetState, ring: TargetState) -> Vec<Target> {
        let of = |n: u128, wave, state: &TargetState| Target {
            state: state.clone(),
            ended_at: state.is_over().then(|| at(0)),
            ..Target::new(machine(n), wave)
        };
        vec![of(1, 0, &canary), of(2, 1, &ring), of(3, 1, &ring)]
    }

    #[test]
    fn a_failed_canary_halts_and_a_ring_may_lose_what_its_gate_allows() {
        let next = |targets: &[Target]| decide(&campaign(), targets, at(100)).next;
        assert_eq!(next(&targets(TargetState::Waiting, TargetState::Waiting)), Next::StartWave(0));
        assert_eq!(next(&targets(TargetState::Failed, TargetState::Waiting)), Next::Halt);
        assert_eq!(next(&targets(TargetState::Done, TargetState::Waiting)), Next::StartWave(1));
        let mut ring = targets(TargetState::Done, TargetState::Done);
        ring[1].state = TargetState::Failed;
        assert_eq!(next(&ring), Next::Finish);
        ring[2].state = TargetState::Failed;
        assert_eq!(next(&ring), Next::Halt);
        let seen = Campaign { accepted_failures: 1, ..campaign() };
        assert_eq!(decide(&seen, &targets(TargetState::Failed, TargetState::Waiting), at(100)).next, Next::StartWave(1));
    }

    #[test]
    fn nothing_begins_while_it_soaks_out_of_its_window_or_when_paused() {
        let through = targets(TargetState::Done, TargetState::Waiting);
        assert_eq!(decide(&campaign(), &through, at(30)).next, Next::Nothing);
        let minute = u16::try_from(at(100).unix_secs().rem_euclid(86_400) / 60).unwrap();
        let later = Campaign { window: Some(Window { from_minute: (minute + 5) % 1440, to_minute: (minute + 10) % 1440 }), ..campaign() };
        assert_eq!(decide(&later, &through, at(100)).next, Next::Nothing);
        let paused = Campaign { state: CampaignState::Paused, ..campaign() };
        assert_eq!(decide(&paused, &through, at(100)).next, Next::Nothing);
    }

    #[test]
    fn rings_grow_and_hold_every_machine_once() {
        let all: Vec<MachineId> = (0..40).map(machine).collect();
        let waves = waves(&all, 2);
        let sizes: Vec<usize> = (0..5).map(|w| waves.iter().filter(|(_, wave)| *wave == w).count()).collect();
        assert_eq!((waves.len(), sizes), (40, vec![2, 8, 16, 14, 0]));
    }

    #[test]
    fn a_component_that_is_not_listed_is_unknown_and_not_compliant() {
        let c = campaign();
        assert!(matches!(compliance(&c.baseline, None), Compliance::Unknown { .. }));
        assert!(matches!(compliance(&c.baseline, Some(&[])), Compliance::Unknown { .. }));
    }
}
