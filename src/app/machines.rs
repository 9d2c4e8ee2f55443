//! Machines: find, list, show; accept, deploy, release, retry, abort, forget.

use std::collections::HashMap;

use crate::app::view::{BootView, EventView, Lens, LogLineView, MachineDetail, MachineView, RunView};
use crate::app::{App, AppError, Deed, Result, need};
use crate::clock;
use crate::decide::access::can;
use crate::decide::workflow;
use crate::domain::access::{Actor, Role};
use crate::domain::id::{MachineId, Name, RunId};
use crate::domain::machine::{DeploySpec, Fault, Lifecycle, Machine, Verb, Want};
use crate::domain::place::RackName;
use crate::domain::time::Timestamp;
use crate::domain::work::{Run, RunState};
use crate::engine::alerts;
use crate::store::StoreError;
use crate::store::events::EventFilter;

/// A change that lost the race is tried again this often: each time it reads the machine anew.
const TRIES: u32 = 5;
/// Runs, boots, events and log lines in a machine's detail.
const DETAIL_RUNS: u32 = 10;
const DETAIL_BOOTS: u32 = 5;
const DETAIL_EVENTS: u32 = 100;
const DETAIL_LOG: u32 = 200;
const MAX_SSH_KEYS: usize = 64;
const MAX_SSH_KEY: usize = 16 << 10;
/// cloud-init data sources on metal carry far less; larger documents belong into the image.
const MAX_USER_DATA: usize = 256 << 10;

/// Which machines to list. Empty lists do not restrict.
#[derive(Clone, Debug, Default)]
pub struct MachineFilter {
    pub states: Vec<Lifecycle>,
    pub rack: Option<RackName>,
    pub image: Option<Name>,
    /// Part of a name, serial, MAC or BMC address; lower case counts the same.
    pub text: Option<String>,
    /// Only machines whose run failed or that are out of use.
    pub faulty: bool,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Ask for the rest with this.
    pub next: Option<String>,
    /// How many fit the filter.
    pub total: usize,
}

impl MachineFilter {
    fn fits(&self, m: &Machine) -> bool {
        let text_fits = |needle: &str| {
            let needle = needle.to_lowercase();
            m.name.as_str().contains(&needle)
                || m.serial.as_ref().is_some_and(|s| s.as_str().to_lowercase().contains(&needle))
                || m.macs.iter().any(|mac| mac.to_string().contains(&needle))
                || m.bmc.as_ref().is_some_and(|b| b.address.to_string().contains(&needle))
        };
        (self.states.is_empty() || self.states.contains(&m.lifecycle))
            && self.rack.as_ref().is_none_or(|r| m.place.as_ref().is_some_and(|p| p.rack == *r))
            && self.image.as_ref().is_none_or(|i| m.image.as_ref() == Some(i))
            && self.text.as_deref().is_none_or(text_fits)
            && (!self.faulty || m.fault.is_some() || m.lifecycle == Lifecycle::Quarantined)
    }
}

/// A machine with its current run, as every decision needs it.
struct Read {
    machine: Machine,
    run: Option<Run>,
}

impl App {
    /// The one machine that `text` names: id, name, serial or MAC.
    ///
    /// # Errors
    /// `NotFound`, or `Ambiguous` when several share it.
    pub async fn find_machine(&self, text: &str) -> Result<MachineId> {
        let mut found = self.store().find_machines(text).await?;
        match found.len() {
            0 => Err(AppError::NotFound { what: "machine", text: text.chars().take(80).collect() }),
            1 => Ok(found.remove(0).id),
            _ => {
                let candidates = found.iter().take(10).map(|m| format!("{} ({})", m.name, m.id)).collect::<Vec<_>>().join(", ");
                Err(AppError::Ambiguous { text: text.chars().take(80).collect(), candidates })
            }
        }
    }

    /// Machines by name, from after `cursor` on.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn machines(&self, actor: &Actor, filter: &MachineFilter, cursor: Option<&str>, limit: usize) -> Result<Page<MachineView>> {
        need(actor, Role::Viewer)?;
        let mut machines = self.store().machines().await?;
        // The engines collate names differently.
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        machines.retain(|m| filter.fits(m));
        let total = machines.len();
        let runs = self.store().current_runs().await?;
        let lens = self.lens().await?;
        let mut items: Vec<MachineView> = Vec::new();
        let mut next = None;
        for m in machines.iter().filter(|m| cursor.is_none_or(|c| m.name.as_str() > c)) {
            if items.len() == limit {
                next = items.last().map(|m| m.name.to_string());
                break;
            }
            items.push(lens.machine(m, runs.get(&m.id)));
        }
        Ok(Page { items, next, total })
    }

    /// Everything about one machine.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn machine(&self, actor: &Actor, id: MachineId) -> Result<MachineDetail> {
        need(actor, Role::Viewer)?;
        let Read { machine, run } = self.read(id).await?;
        let lens = self.lens().await?;
        let store = self.store();
        let runs = store.runs(id, DETAIL_RUNS).await?;
        let boots = store.boots(id, DETAIL_BOOTS).await?;
        let events = store.events(EventFilter { machine: Some(id), ..EventFilter::default() }, DETAIL_EVENTS).await?;
        let (inventory, inventory_at) = store.inventory(id).await?.unzip();
        Ok(MachineDetail {
            machine: lens.machine(&machine, run.as_ref()),
            current_run: run.as_ref().map(|r| lens.run(r)),
            runs: runs.iter().map(|r| lens.run(r)).collect(),
            boots: boots.into_iter().map(|b| BootView::of(b, lens.now)).collect(),
            events: events.into_iter().map(EventView::from).collect(),
            agent_log: self.agent_log(actor, id, DETAIL_LOG).await?,
            inventory,
            inventory_at,
            bmc: machine.bmc.map(Into::into),
            written_disks: machine.written_disks,
        })
    }

    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn run(&self, actor: &Actor, id: RunId) -> Result<RunView> {
        need(actor, Role::Viewer)?;
        let run = self.store().run(id).await?.ok_or_else(|| AppError::NotFound { what: "run", text: id.to_string() })?;
        Ok(self.lens().await?.run(&run))
    }

    /// The newest boots of a machine, newest first.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn boots(&self, actor: &Actor, id: MachineId, limit: u32) -> Result<Vec<BootView>> {
        need(actor, Role::Viewer)?;
        let now = clock::now();
        Ok(self.store().boots(id, limit).await?.into_iter().map(|b| BootView::of(b, now)).collect())
    }

    /// Boots of MACs that belong to no machine yet, newest first.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn stray_boots(&self, actor: &Actor, limit: u32) -> Result<Vec<BootView>> {
        need(actor, Role::Viewer)?;
        let now = clock::now();
        Ok(self.store().stray_boots(limit).await?.into_iter().map(|b| BootView::of(b, now)).collect())
    }

    /// The newest lines of the agent's log, oldest first.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn agent_log(&self, actor: &Actor, id: MachineId, limit: u32) -> Result<Vec<LogLineView>> {
        need(actor, Role::Viewer)?;
        let lines = self.store().agent_log(id, limit).await?;
        Ok(lines.into_iter().map(|l| LogLineView { at: l.at, uptime_secs: l.uptime_secs, level: l.level, text: l.text }).collect())
    }

    /// Machines by state, every state named.
    ///
    /// # Errors
    /// The store's.
    pub async fn count_by_lifecycle(&self) -> Result<Vec<(Lifecycle, u64)>> {
        let counted: HashMap<Lifecycle, u64> = self.store().count_by_lifecycle().await?.into_iter().collect();
        Ok(Lifecycle::ALL.into_iter().map(|l| (l, counted.get(&l).copied().unwrap_or(0))).collect())
    }

    /// Accepts a discovered machine: from now on its disks may be written by runs that people ask for.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Refused`.
    pub async fn accept(&self, actor: &Actor, id: MachineId) -> Result<MachineView> {
        need(actor, Role::Tech)?;
        self.change(actor, id, Verb::Accept, "machine.accepted", serde_json::Value::Null, |m, now| {
            m.want = Want::Enroll;
            m.accepted_at = Some(now);
            format!("{} accepted {}; its inventory is taken next.", actor.name, m.name)
        })
        .await
    }

    /// Asks for an image on a ready machine.
    ///
    /// # Errors
    /// `Invalid` for an unknown image or one that cannot boot there, `Refused` when the machine is not ready.
    pub async fn deploy(&self, actor: &Actor, id: MachineId, spec: DeploySpec) -> Result<MachineView> {
        need(actor, Role::Operator)?;
        check_spec(&spec)?;
        let Read { machine, run } = self.read(id).await?;
        allowed(&machine, run.as_ref(), Verb::Deploy)?;
        let image =
            self.store().image(&spec.image).await?.ok_or_else(|| AppError::NotFound { what: "image", text: spec.image.to_string() })?;
        if let Some(arch) = machine.arch
            && arch != image.arch
        {
            return Err(AppError::Refused {
                code: "image_wrong_arch",
                what: format!("the image {} is for {}; {} is {arch}", image.name, image.arch, machine.name),
                hint: "choose an image of the machine's architecture".to_owned(),
            });
        }
        if let Some(firmware) = machine.firmware
            && !image.boots_on.contains(&firmware)
        {
            let boots_on = image.boots_on.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            return Err(AppError::Refused {
                code: "image_wrong_firmware",
                what: format!("the image {} boots on {boots_on}; {} boots in {firmware} mode", image.name, machine.name),
                hint: "choose another image, or change the boot mode in the machine's setup and let it boot the ramdisk again".to_owned(),
            });
        }
        if let Some(disk) = &spec.disk {
            let inventory = self.store().inventory(id).await?.map(|(i, _)| i).unwrap_or_default();
            if !inventory.fixed_disks().any(|d| disk.matches(d)) {
                return Err(AppError::invalid(
                    format!("{} has no {disk} in its inventory", machine.name),
                    "name a disk by the serial or WWN and the size that the machine's page shows",
                ));
            }
        }
        // User data may hold secrets: the audit log says that there was some, not what.
        let detail = serde_json::json!({
            "image": spec.image, "hostname": spec.hostname, "ssh_keys": spec.ssh_keys.len(), "user_data": spec.user_data.is_some(),
            "network_config": spec.network_config.is_some(), "disk": spec.disk,
        });
        self.change(actor, id, Verb::Deploy, "machine.deploy_asked", detail, |m, _| {
            m.want = Want::Deploy(Box::new(spec.clone()));
            m.fault = None;
            format!("{} asked for {} on {}.", actor.name, spec.image, m.name)
        })
        .await
    }

    /// Asks for the machine's disks to be wiped and the machine to become ready again.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Refused`.
    pub async fn release(&self, actor: &Actor, id: MachineId) -> Result<MachineView> {
        need(actor, Role::Operator)?;
        let mut tries = 0;
        loop {
            let Read { mut machine, run } = self.read(id).await?;
            allowed(&machine, run.as_ref(), Verb::Release)?;
            let now = clock::now();
            let mut tx = self.store().begin().await?;
            if let Some(run) = run.filter(|r| r.state == RunState::Failed) {
                tx.end_run(run.id, id, RunState::Aborted, now).await?;
                tx.withdraw_tasks(id, now).await?;
                machine.current_run = None;
                let text = format!("{} gave up the {} run and released {}.", actor.name, run.kind, machine.name);
                alerts::close_run(&mut tx, &machine, run.id, &text, now).await?;
            }
            machine.want = Want::Release;
            machine.fault = None;
            let text = format!("{} released {}: its disks are wiped and read back.", actor.name, machine.name);
            self.machine_deed(actor, now, "machine.release_asked", &machine, serde_json::Value::Null, text).record(&mut tx).await?;
            match tx.update_machine(&machine, Some(now)).await {
                Ok(()) => tx.commit().await?,
                Err(StoreError::Conflict) if tries < TRIES => {
                    tries += 1;
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            return self.machine_row(id).await;
        }
    }

    /// Lets a failed run go on at the step that failed, or at the boot before it when its agent is gone.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Refused`.
    pub async fn retry(&self, actor: &Actor, id: MachineId) -> Result<MachineView> {
        need(actor, Role::Operator)?;
        let mut tries = 0;
        loop {
            let Read { mut machine, run } = self.read(id).await?;
            allowed(&machine, run.as_ref(), Verb::Retry)?;
            let Some(run) = run else { return Err(AppError::Contended) };
            let now = clock::now();
            let agent_alive = match self.store().newest_agent_session(id).await? {
                Some(session) => now.since(session.last_seen_at) < AGENT_SILENT_AFTER,
                None => false,
            };
            let Some(from) = workflow::resume_from(&run, agent_alive) else { return Err(AppError::Contended) };
            let mut tx = self.store().begin().await?;
            tx.withdraw_tasks(id, now).await?;
            tx.reset_steps_from(run.id, from).await?;
            tx.set_run_state(run.id, id, RunState::Running).await?;
            machine.fault = None;
            let step = run.steps.iter().find(|s| s.index == from).map_or("its first step".to_owned(), |s| s.kind.to_string());
            let text = format!("{} retries the {} run of {} from {step} on.", actor.name, run.kind, machine.name);
            alerts::run_retried(&mut tx, &machine, run.id, &text, now).await?;
            let mut deed = self.machine_deed(actor, now, "run.retried", &machine, serde_json::json!({ "from": step }), text);
            deed.run = Some(run.id);
            deed.record(&mut tx).await?;
            match tx.update_machine(&machine, Some(now)).await {
                Ok(()) => tx.commit().await?,
                Err(StoreError::Conflict) if tries < TRIES => {
                    tries += 1;
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            return self.machine_row(id).await;
        }
    }

    /// Gives up the current run. The machine goes back to where it was if nothing was written, else out of use.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Refused`.
    pub async fn abort(&self, actor: &Actor, id: MachineId) -> Result<MachineView> {
        need(actor, Role::Operator)?;
        let mut tries = 0;
        loop {
            let Read { mut machine, run } = self.read(id).await?;
            allowed(&machine, run.as_ref(), Verb::Abort)?;
            let Some(run) = run else { return Err(AppError::Contended) };
            let now = clock::now();
            let lifecycle = workflow::after_abort(&machine, run.kind);
            machine.want = Want::Nothing;
            machine.current_run = None;
            machine.boot_intent = None;
            machine.lifecycle = lifecycle;
            machine.lifecycle_since = now;
            machine.fault = (lifecycle == Lifecycle::Quarantined).then(|| Fault {
                code: format!("{}_aborted", run.kind),
                what: format!("{} gave up the {} run; the disks of {} may hold part of a system", actor.name, run.kind, machine.name),
                remedy: format!("release it, which wipes its disks: hostler machine release {}", machine.name),
                at: now,
                run: Some(run.id),
            });
            let mut tx = self.store().begin().await?;
            tx.end_run(run.id, id, RunState::Aborted, now).await?;
            tx.withdraw_tasks(id, now).await?;
            let text = format!("{} gave up the {} run of {}; it is {lifecycle} now.", actor.name, run.kind, machine.name);
            alerts::close_run(&mut tx, &machine, run.id, &text, now).await?;
            if let Some(fault) = &machine.fault {
                tx.put_notice(&alerts::quarantined(&machine, fault, now)).await?;
            }
            let mut deed = self.machine_deed(actor, now, "run.aborted", &machine, serde_json::Value::Null, text);
            deed.run = Some(run.id);
            deed.record(&mut tx).await?;
            match tx.update_machine(&machine, Some(now)).await {
                Ok(()) => tx.commit().await?,
                Err(StoreError::Conflict) if tries < TRIES => {
                    tries += 1;
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            return self.machine_row(id).await;
        }
    }

    /// Drops the record of a machine. Touches nothing on the machine; its events stay.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Refused` while a run works on it.
    pub async fn forget(&self, actor: &Actor, id: MachineId) -> Result<()> {
        need(actor, Role::Operator)?;
        for _ in 0..=TRIES {
            let Read { machine, run } = self.read(id).await?;
            allowed(&machine, run.as_ref(), Verb::Forget)?;
            let now = clock::now();
            let detail = serde_json::json!({
                "serial": machine.serial, "uuid": machine.uuid, "macs": machine.macs, "lifecycle": machine.lifecycle, "written_disks": machine.written_disks,
            });
            let mut text = format!("{} forgot {}.", actor.name, machine.name);
            if !machine.written_disks.is_empty() {
                text.push_str(&format!(" Its {} written disks were not wiped.", machine.written_disks.len()));
            }
            let mut tx = self.store().begin().await?;
            // A run that started since the look above raised the revision.
            match tx.lock_machine(id, machine.rev).await {
                Ok(()) => {}
                Err(StoreError::Conflict) => continue,
                Err(e) => return Err(e.into()),
            }
            alerts::close_all(&mut tx, &machine, machine.current_run, &text, now).await?;
            tx.delete_machine(id).await?;
            self.machine_deed(actor, now, "machine.forgotten", &machine, detail, text).record(&mut tx).await?;
            return Ok(tx.commit().await?);
        }
        Err(AppError::Contended)
    }

    /// One row of the list, for answers.
    pub(crate) async fn machine_row(&self, id: MachineId) -> Result<MachineView> {
        let Read { machine, run } = self.read(id).await?;
        let lens: Lens = self.lens().await?;
        Ok(lens.machine(&machine, run.as_ref()))
    }

    async fn read(&self, id: MachineId) -> Result<Read> {
        let machine = self.store().machine(id).await?.ok_or_else(|| AppError::NotFound { what: "machine", text: id.to_string() })?;
        let run = match machine.current_run {
            Some(run) => self.store().run(run).await?,
            None => None,
        };
        Ok(Read { machine, run })
    }

    /// Checks the verb, applies `edit`, writes machine, audit line and event in one transaction; reads again and retries
    /// when someone else was faster.
    async fn change(
        &self,
        actor: &Actor,
        id: MachineId,
        verb: Verb,
        kind: &'static str,
        detail: serde_json::Value,
        edit: impl Fn(&mut Machine, Timestamp) -> String,
    ) -> Result<MachineView> {
        let mut tries = 0;
        loop {
            let Read { mut machine, run } = self.read(id).await?;
            allowed(&machine, run.as_ref(), verb)?;
            let now = clock::now();
            let text = edit(&mut machine, now);
            let mut tx = self.store().begin().await?;
            self.machine_deed(actor, now, kind, &machine, detail.clone(), text).record(&mut tx).await?;
            match tx.update_machine(&machine, Some(now)).await {
                Ok(()) => tx.commit().await?,
                Err(StoreError::Conflict) if tries < TRIES => {
                    tries += 1;
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            return self.machine_row(id).await;
        }
    }

    pub(crate) fn machine_deed<'a>(
        &self,
        actor: &'a Actor,
        at: Timestamp,
        kind: &'static str,
        m: &Machine,
        detail: serde_json::Value,
        text: String,
    ) -> Deed<'a> {
        Deed { actor, at, kind, machine: Some(m.id), run: None, object: format!("machine {} {}", m.name, m.id), detail, text }
    }
}

/// An agent polls every 25 s; silent for longer than three of those it counts as gone.
const AGENT_SILENT_AFTER: std::time::Duration = std::time::Duration::from_secs(75);

pub(crate) fn allowed(machine: &Machine, run: Option<&Run>, verb: Verb) -> Result<()> {
    can(machine, run, verb).map_err(|reason| AppError::Refused { code: "not_now", what: reason.why, hint: reason.hint })
}

/// Bounds of what a deployment may carry.
fn check_spec(spec: &DeploySpec) -> Result<()> {
    if spec.ssh_keys.len() > MAX_SSH_KEYS || spec.ssh_keys.iter().any(|k| k.len() > MAX_SSH_KEY) {
        return Err(AppError::invalid(
            format!("at most {MAX_SSH_KEYS} SSH keys of {MAX_SSH_KEY} bytes each"),
            "put further keys into user data",
        ));
    }
    for key in &spec.ssh_keys {
        let mut words = key.split_whitespace();
        let looks_right =
            words.next().is_some_and(|kind| kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-"))
                && words.next().is_some_and(|body| body.starts_with("AAAA"))
                && !key.trim().contains(char::is_control);
        if !looks_right {
            return Err(AppError::invalid(
                "an SSH key is one line like \"ssh-ed25519 AAAA… name\"",
                "give the public key, the file that ends in .pub",
            ));
        }
    }
    for (what, text) in [("user data", &spec.user_data), ("network config", &spec.network_config)] {
        if text.as_ref().is_some_and(|t| t.len() > MAX_USER_DATA) {
            return Err(AppError::TooLarge { what: format!("the {what} is larger than {} KiB", MAX_USER_DATA >> 10) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(keys: &[&str]) -> DeploySpec {
        DeploySpec {
            image: "debian-12".parse().unwrap(),
            hostname: None,
            ssh_keys: keys.iter().map(|k| (*k).to_owned()).collect(),
            user_data: None,
            network_config: None,
            disk: None,
        }
    }

    #[test]
    fn an_ssh_key_is_one_line_of_a_public_key() {
        assert!(check_spec(&spec(&["ssh-ed25519 AAAAC3Nza kim@desk"])).is_ok());
        assert!(check_spec(&spec(&[])).is_ok());
        for bad in ["", "-----BEGIN OPENSSH PRIVATE KEY-----", "ssh-ed25519", "ssh-ed25519 AAAA\nroot: x", "hello AAAA"] {
            assert!(check_spec(&spec(&[bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn user_data_is_bounded() {
        let mut s = spec(&[]);
        s.user_data = Some("x".repeat(MAX_USER_DATA + 1));
        assert!(matches!(check_spec(&s), Err(AppError::TooLarge { .. })));
    }
}
