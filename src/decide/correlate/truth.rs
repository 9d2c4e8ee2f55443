//! What a silent BMC or a silent system means, by who else is silent.

use serde::{Deserialize, Serialize};

use crate::domain::power::PowerState;

/// Whether something is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    Up,
    Down,
    /// Never heard: there is no agent, or nobody was asked. Not the same as down.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    Well,
    /// The BMC alone is sick: at most its own reset, through the system.
    BmcSick,
    ManagementNetwork,
    /// Power, board, or unplugged: hands.
    Dead,
    /// A whole rack or network is gone: held.
    RackLost,
    /// The machine itself: its ladder.
    MachineFault,
    /// Network, switch, image or DHCP of the systems: held. The BMCs work, so a careless automation would now restart a rack
    /// for a switch's fault.
    SystemsNetwork,
    /// Somebody or something switched it off: explained first, never switched on without a cause.
    SwitchedOff,
    /// Not enough is known to do anything but look.
    Unclear,
}

impl Meaning {
    /// Whether a ladder may go beyond what disturbs nobody.
    pub fn may_interrupt(self) -> bool {
        match self {
            Self::Well | Self::MachineFault => true,
            Self::BmcSick
            | Self::ManagementNetwork
            | Self::Dead
            | Self::RackLost
            | Self::SystemsNetwork
            | Self::SwitchedOff
            | Self::Unclear => false,
        }
    }

    pub fn sentence(self) -> &'static str {
        match self {
            Self::Well => "BMC and system answer.",
            Self::BmcSick => "The system answers and its BMC does not: the BMC alone is sick, the machine is left alone.",
            Self::ManagementNetwork => "This BMC and its neighbours' are silent while the systems work: the management network.",
            Self::Dead => "BMC and system are silent while the neighbours are well: power, board, or unplugged. Someone has to look.",
            Self::RackLost => "BMCs and systems are silent all around: rack power, or the whole network.",
            Self::MachineFault => "The system is silent, its BMC says it is on, and the neighbours are well: the machine itself.",
            Self::SystemsNetwork => "The neighbours' systems are silent too while the BMCs work: a switch, the image, or DHCP.",
            Self::SwitchedOff => "The BMC says it is off: it is explained first, and not switched on without a cause.",
            Self::Unclear => "Too little is heard to say what it is.",
        }
    }
}

/// The table. `neighbours`: the BMCs and the systems that share switch and power with it.
pub fn meaning(bmc: Sight, system: Sight, neighbour_bmcs: Sight, neighbour_systems: Sight, power: Option<PowerState>) -> Meaning {
    match (bmc, system) {
        (Sight::Up, Sight::Up) => Meaning::Well,
        (Sight::Down, Sight::Up) => match neighbour_bmcs {
            Sight::Down => Meaning::ManagementNetwork,
            Sight::Up | Sight::Never => Meaning::BmcSick,
        },
        (Sight::Down, Sight::Down) => match neighbour_bmcs {
            Sight::Up => Meaning::Dead,
            Sight::Down => Meaning::RackLost,
            Sight::Never => Meaning::Unclear,
        },
        (Sight::Up, Sight::Down | Sight::Never) if power == Some(PowerState::Off) => Meaning::SwitchedOff,
        (Sight::Up, Sight::Down) => match neighbour_systems {
            Sight::Down => Meaning::SystemsNetwork,
            Sight::Up | Sight::Never if power == Some(PowerState::On) => Meaning::MachineFault,
            Sight::Up | Sight::Never => Meaning::Unclear,
        },
        (Sight::Up, Sight::Never) => Meaning::Well,
        (Sight::Down, Sight::Never) => match neighbour_bmcs {
            Sight::Down => Meaning::ManagementNetwork,
            Sight::Up | Sight::Never => Meaning::Unclear,
        },
        (Sight::Never, _) => Meaning::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_written() {
        use Sight::{Down, Never, Up};
        let on = Some(PowerState::On);
        for (bmc, system, bmcs, systems, power, want) in [
            (Down, Up, Up, Up, on, Meaning::BmcSick),
            (Down, Up, Down, Up, on, Meaning::ManagementNetwork),
            (Down, Down, Up, Up, on, Meaning::Dead),
            (Down, Down, Down, Down, on, Meaning::RackLost),
            (Up, Down, Up, Up, on, Meaning::MachineFault),
            (Up, Down, Up, Down, on, Meaning::SystemsNetwork),
            (Up, Down, Up, Up, Some(PowerState::Off), Meaning::SwitchedOff),
            (Up, Down, Up, Up, None, Meaning::Unclear),
            (Down, Never, Up, Never, on, Meaning::Unclear),
            (Up, Up, Down, Down, on, Meaning::Well),
        ] {
            assert_eq!(meaning(bmc, system, bmcs, systems, power), want);
        }
    }

    #[test]
    fn only_a_fault_of_the_machine_itself_may_interrupt_it() {
        use Sight::{Down, Never, Up};
        for bmc in [Up, Down, Never] {
            for bmcs in [Up, Down, Never] {
                for systems in [Up, Down, Never] {
                    let m = meaning(bmc, Down, bmcs, systems, Some(PowerState::On));
                    assert_eq!(m.may_interrupt(), bmc == Up && systems != Down, "{bmc:?} {bmcs:?} {systems:?}");
                }
            }
        }
    }
}
