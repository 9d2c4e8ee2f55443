//! The power switch of a machine without metal: pressed by its BMC's front, watched by what happens inside.

use tokio::sync::watch;

use crate::domain::power::{PowerAction, PowerState};

/// How it stands now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    pub on: bool,
    /// Raised by everything that ends what runs: off, cycle, reset.
    pub turn: u64,
    /// Raised by the ACPI power button.
    pub button: u64,
    /// What runs stopped where it was, until the next turn.
    pub hung: bool,
}

#[derive(Debug, Default)]
pub struct PowerSwitch {
    state: watch::Sender<Switch>,
}

impl PowerSwitch {
    /// Changes power. Like a real chassis, "on" leaves a running machine alone, and "off" one that is off.
    pub fn press(&self, action: PowerAction) {
        self.state.send_if_modified(|switch| {
            let before = *switch;
            match action {
                PowerAction::On if !switch.on => *switch = Switch { on: true, turn: switch.turn + 1, hung: false, ..*switch },
                PowerAction::Off if switch.on => *switch = Switch { on: false, turn: switch.turn + 1, hung: false, ..*switch },
                PowerAction::Cycle | PowerAction::Reset if switch.on => *switch = Switch { turn: switch.turn + 1, hung: false, ..*switch },
                PowerAction::Soft if switch.on => switch.button += 1,
                PowerAction::On | PowerAction::Off | PowerAction::Cycle | PowerAction::Reset | PowerAction::Soft => {}
            }
            *switch != before
        });
    }

    /// What runs stops where it is; a machine that is off has nothing that could.
    pub fn hang(&self) {
        self.state.send_if_modified(|switch| {
            let begins = switch.on && !switch.hung;
            switch.hung |= switch.on;
            begins
        });
    }

    pub fn state(&self) -> PowerState {
        if self.state.borrow().on { PowerState::On } else { PowerState::Off }
    }

    pub fn watch(&self) -> watch::Receiver<Switch> {
        self.state.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_leaves_a_running_machine_alone_and_off_one_that_is_off() {
        let switch = PowerSwitch::default();
        let watch = switch.watch();
        for action in [PowerAction::Off, PowerAction::Cycle, PowerAction::Reset, PowerAction::Soft] {
            switch.press(action);
            assert_eq!(*watch.borrow(), Switch::default(), "{action:?}");
        }
        switch.press(PowerAction::On);
        let on = *watch.borrow();
        switch.press(PowerAction::On);
        assert_eq!((*watch.borrow(), on.turn), (on, 1));
        switch.press(PowerAction::Reset);
        assert_eq!(*watch.borrow(), Switch { turn: 2, ..on });
        switch.press(PowerAction::Soft);
        assert_eq!((*watch.borrow(), switch.state()), (Switch { turn: 2, button: 1, ..on }, PowerState::On));
    }
}
