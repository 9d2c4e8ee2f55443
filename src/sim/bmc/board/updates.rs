//! How firmware updates move on.

use crate::domain::hardware_log::LogSeverity;
use crate::domain::time::Timestamp;
use crate::sim::bmc::board::firmware::{Applies, ApplyTime, FLASH, FLASH_IN_POST, FirmwareFile, RESTART, Stage, Update, VERIFY};
use crate::sim::bmc::board::{Board, Effect, Host};

/// Tasks that are kept after they ended.
const TASKS_KEPT: usize = 20;

impl Board {
    /// A new update whose file is not there yet; gives its task's id. `Err` while another one runs.
    pub fn begin_update(&mut self, apply: ApplyTime, now: Timestamp) -> Result<u32, String> {
        let running = |u: &&Update| !u.stage.is_over() && !matches!(u.stage, Stage::WaitingForReset { .. });
        if let Some(other) = self.updates.iter().find(running) {
            return Err(format!("task {} is still running", other.id));
        }
        self.last_update += 1;
        self.updates.push(Update {
            id: self.last_update,
            stage: Stage::Fetching,
            file: None,
            apply,
            began: now,
            ended: None,
            messages: vec![("Update.1.1.TransferringToComponent", "The update package is being received.".into())],
            will_fail: std::mem::take(&mut self.next_update_fails),
        });
        while self.updates.len() > TASKS_KEPT {
            self.updates.remove(0);
        }
        Ok(self.last_update)
    }

    /// The file of an update has arrived, or not. A wrong file ends the update.
    pub fn take_update_file(&mut self, id: u32, file: Result<Vec<u8>, String>, now: Timestamp) {
        let read = file.and_then(|bytes| FirmwareFile::read(&bytes)).and_then(|file| self.fits(file));
        let until = now.plus(self.pace.real(VERIFY));
        let Some(update) = self.updates.iter_mut().find(|u| u.id == id && u.stage == Stage::Fetching) else { return };
        match read {
            Ok(file) => {
                update.messages.push(("Update.1.1.VerifyingAtComponent", format!("The package for {} is being verified.", file.component)));
                update.file = Some(file);
                update.stage = Stage::Verifying { until };
            }
            Err(why) => {
                update.messages.push(("Update.1.1.TransferFailed", why));
                update.stage = Stage::Failed;
                update.ended = Some(now);
            }
        }
    }

    fn fits(&self, file: FirmwareFile) -> Result<FirmwareFile, String> {
        if file.model != self.model {
            return Err(format!("The package is for {} and this is a {}.", file.model, self.model));
        }
        if !self.components.iter().any(|c| c.id == file.component) {
            return Err(format!("This machine has no component {}.", file.component));
        }
        Ok(file)
    }

    /// All tasks are forgotten, as some BMCs do when they restart. What was being flashed goes on.
    pub fn forget_tasks(&mut self) {
        self.updates.retain(|u| !u.stage.is_over());
        // The client's URI leads nowhere: the work goes on under another number.
        for update in &mut self.updates {
            self.last_update += 1;
            update.id = self.last_update;
        }
    }

    /// The mains are gone: what was being written is torn, what had not begun is gone.
    pub(super) fn tear_updates(&mut self, now: Timestamp) {
        for update in self.updates.iter_mut().filter(|u| !u.stage.is_over()) {
            let writing = match update.stage {
                Stage::Flashing { .. } | Stage::FlashingInPost { .. } | Stage::Restarting { .. } => true,
                Stage::Fetching | Stage::Verifying { .. } => false,
                // Staged in flash: it survives.
                Stage::WaitingForReset { .. } => continue,
                Stage::Completed | Stage::Failed => continue,
            };
            if writing && let Some(file) = &update.file {
                for component in self.components.iter_mut().filter(|c| c.id == file.component) {
                    component.torn = true;
                }
            }
            update.messages.push(("Update.1.1.ApplyFailed", "Power was lost.".into()));
            update.stage = Stage::Failed;
            update.ended = Some(now);
        }
    }

    pub(super) fn settle_updates(&mut self, now: Timestamp, host: &Host) {
        for n in 0..self.updates.len() {
            // Several stages may be over when nobody looked for long; each begins where the one before ended.
            while let Some(next) = self.next_stage(n, now, host) {
                if let Some(update) = self.updates.get_mut(n) {
                    update.stage = next;
                    if next.is_over() {
                        update.ended = Some(now);
                    }
                }
            }
        }
    }

    /// The stage after the present one of update `n`, when it is over.
    fn next_stage(&mut self, n: usize, now: Timestamp, host: &Host) -> Option<Stage> {
        let update = self.updates.get(n)?;
        let file = update.file.clone()?;
        let (stage, apply, will_fail) = (update.stage, update.apply, update.will_fail);
        let applies = self.components.iter().find(|c| c.id == file.component).map_or(Applies::AtOnce, |c| c.applies);
        let middle = |from: Timestamp, until: Timestamp| from.plus(until.since(from) / 2);
        match stage {
            Stage::Fetching | Stage::Completed | Stage::Failed => None,
            Stage::Verifying { until } if now >= until => {
                if applies == Applies::AtHostReset || (apply == ApplyTime::OnReset && applies == Applies::AtOnce) {
                    self.say(
                        n,
                        "Update.1.1.OperationTransitionedToJob",
                        format!("{} is staged and is applied when the system is reset.", file.component),
                    );
                    Some(Stage::WaitingForReset { boots: host.boots })
                } else {
                    self.say(n, "Update.1.1.InstallingOnComponent", format!("{} is being written.", file.component));
                    Some(Stage::Flashing { from: until, until: until.plus(self.pace.real(FLASH)) })
                }
            }
            Stage::WaitingForReset { boots } if host.boots > boots => {
                self.say(
                    n,
                    "Update.1.1.InstallingOnComponent",
                    format!("{} is being written during the power-on self test.", file.component),
                );
                Some(Stage::FlashingInPost { from: now, until: now.plus(self.pace.real(FLASH_IN_POST)) })
            }
            Stage::Flashing { from, until } | Stage::FlashingInPost { from, until } if will_fail && now >= middle(from, until) => {
                self.say(n, "Update.1.1.ApplyFailed", format!("Writing {} failed; the old version stays.", file.component));
                let text = format!("The firmware update of {} failed.", file.component);
                self.note_bmc(now, LogSeverity::Critical, text, ("Update.1.1.ApplyFailed", vec![file.version, file.component]));
                Some(Stage::Failed)
            }
            Stage::Flashing { until, .. } if now >= until && applies == Applies::WithTheBmc => {
                self.say(n, "Update.1.1.ApplyingOnComponent", "The management controller restarts.".into());
                let away = self.pace.real(RESTART);
                self.effects.push(Effect::Restart(away));
                Some(Stage::Restarting { until: now.plus(away) })
            }
            Stage::Flashing { until, .. } | Stage::FlashingInPost { until, .. } | Stage::Restarting { until } if now >= until => {
                self.install(&file, now);
                self.say(n, "Update.1.1.UpdateSuccessful", format!("{} runs version {}.", file.component, file.version));
                Some(Stage::Completed)
            }
            Stage::Verifying { .. }
            | Stage::Flashing { .. }
            | Stage::WaitingForReset { .. }
            | Stage::FlashingInPost { .. }
            | Stage::Restarting { .. } => None,
        }
    }

    fn say(&mut self, n: usize, id: &'static str, text: String) {
        if let Some(update) = self.updates.get_mut(n) {
            update.messages.push((id, text));
        }
    }

    fn install(&mut self, file: &FirmwareFile, now: Timestamp) {
        for component in self.components.iter_mut().filter(|c| c.id == file.component) {
            component.version = file.version.clone();
            component.torn = false;
        }
        for part in self.parts.iter_mut().filter(|p| p.id == file.component) {
            part.firmware = Some(file.version.clone());
        }
        if file.component == "BIOS" {
            self.effects.push(Effect::BiosVersion(file.version.clone()));
        }
        let text = format!("The firmware of {} is version {} now.", file.component, file.version);
        self.note_bmc(now, LogSeverity::Info, text, ("Update.1.1.UpdateSuccessful", vec![file.component.clone(), file.version.clone()]));
    }
}
