//! One line of the machine list.

use askama::Template;

use crate::app::view::MachineView;
use crate::domain::power::PowerState;
use crate::domain::time::{Timestamp, spoken};
use crate::domain::work::RunState;
use crate::http::ui::bar::Bar;
use crate::http::ui::shell::sentence;
use crate::http::ui::text::{Ago, Text, Until};
use crate::http::ui::words::{self, Group, Tone};

#[derive(Template)]
#[template(path = "ui/_row.html")]
pub struct Row {
    pub id: String,
    pub name: Text,
    pub serial: Option<Text>,
    pub product: Option<Text>,
    pub place: Option<Text>,
    pub group: Group,
    pub tone: Tone,
    pub state: &'static str,
    /// The API's word.
    pub lifecycle: String,
    pub doing: Text,
    /// Why a person is needed, and what to do.
    pub trouble: Option<Text>,
    pub hold: Option<Text>,
    pub since: Ago,
    pub usual: Option<String>,
    pub bar: Option<Bar>,
    pub left: Option<Until>,
    pub estimate: bool,
    pub power: &'static str,
    pub power_class: &'static str,
    pub seen: Option<Ago>,
    /// Sorts the list: what needs someone first, then by place and name.
    pub rank: String,
    /// What the filter looks through, lower case.
    pub hay: String,
}

impl Row {
    pub fn of(m: &MachineView, now: Timestamp) -> Self {
        let running = m.run.as_ref().filter(|r| r.state == RunState::Running);
        let usual = m.state.usual_secs.map(std::time::Duration::from_secs);
        let slow = running.is_some() && usual.is_some_and(|u| words::is_slow(m.state.since, u, now));
        let group = Group::of(m);
        let tone = match group.tone() {
            Tone::Crit => Tone::Crit,
            _ if slow || m.hold.is_some() || m.bmc_fault.is_some() => Tone::Warn,
            tone => tone,
        };
        let trouble = match (&m.fault, &m.bmc_fault, usual) {
            (Some(f), _, _) => Some(Text::new(&format!("{} {}", sentence(&f.what), sentence(&f.remedy)))),
            (None, Some(f), _) => Some(Text::new(&sentence(f))),
            (None, None, Some(usual)) if slow => Some(Text::new(&format!("Slower than usual: most take {}.", spoken(usual)))),
            (None, None, _) => None,
        };
        let since = match (running.is_some(), &m.fault, group) {
            (true, _, _) => m.state.since,
            (false, Some(fault), _) => fault.at,
            // Announced long ago, seen just now.
            (false, None, Group::New) => m.first_seen_at.unwrap_or(m.lifecycle_since),
            (false, None, _) => m.lifecycle_since,
        };
        let mut row = Self {
            id: m.id.to_string(),
            name: Text::from(&m.name),
            serial: m.serial.as_ref().map(Text::from),
            product: m.hardware.as_ref().and_then(|h| h.product.as_deref()).map(Text::new),
            place: m.place.as_ref().map(Text::from),
            group,
            tone,
            state: words::state_word(m),
            lifecycle: m.lifecycle.to_string(),
            doing: Text::new(&words::doing(m)),
            trouble,
            hold: m.hold.as_ref().map(|h| Text::new(&format!("Held by {}: {}", h.owner, h.reason))),
            since: Ago(since),
            usual: usual.filter(|_| running.is_some()).map(|u| words::usually(u, true)),
            left: running.and_then(|r| r.eta_secs).map(|s| Until(words::coarse(now.plus(std::time::Duration::from_secs(s))))),
            estimate: running.is_some_and(|r| r.eta_estimated),
            bar: running.map(|r| Bar::brief(r, m.state.since, m.state.usual_secs)),
            power: words::power_word(m.power),
            power_class: power_class(m.power),
            seen: m.last_seen_at.map(Ago),
            rank: String::new(),
            hay: String::new(),
        };
        // Stopped, then odd, then by what it does.
        let first = match tone {
            Tone::Crit => 0,
            Tone::Warn => 1,
            Tone::New | Tone::Working | Tone::Off | Tone::Ok => 2 + group as u8,
        };
        row.rank = format!("{first:02}{}", sort_key(m));
        row.hay = row.haystack(m);
        row
    }

    /// Everything a person might type to find this machine, separators of MACs included and left out.
    fn haystack(&self, m: &MachineView) -> String {
        let mut hay =
            vec![self.name.to_string(), self.state.to_owned(), self.lifecycle.clone(), self.group.key().to_owned(), self.doing.to_string()];
        hay.extend([&self.serial, &self.product, &self.place].into_iter().flatten().map(Text::to_string));
        hay.extend(m.image.iter().map(ToString::to_string));
        for mac in &m.macs {
            let text = mac.to_string();
            hay.push(text.replace(':', ""));
            hay.push(text.replace(':', "-"));
            hay.push(text);
        }
        hay.extend(m.bmc_address.iter().map(ToString::to_string));
        hay.extend(m.uuid.iter().map(ToString::to_string));
        hay.join(" ").to_lowercase()
    }
}

pub fn power_class(power: Option<PowerState>) -> &'static str {
    match power {
        Some(PowerState::On) => "on",
        Some(PowerState::Off) => "off",
        Some(PowerState::Changing) => "changing",
        None => "unknown",
    }
}

/// Rack, then from the top of the rack down (as one stands before it), then name; digits padded so that r2 is before r10.
fn sort_key(m: &MachineView) -> String {
    let place = m.place.as_ref().map_or_else(|| "~".to_owned(), |p| format!("{}/{:03}", padded(p.rack.as_str()), 255 - p.u.unwrap_or(0)));
    format!("{place} {}", padded(m.name.as_str()))
}

fn padded(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_digit() {
            digits.push(c);
        } else {
            if !digits.is_empty() {
                out.push_str(&format!("{digits:0>6}"));
                digits.clear();
            }
            if c != '\0' {
                out.extend(c.to_lowercase());
            }
        }
    }
    out
}

/// The words of the filter box: each must be found. `state:ready`, `rack:r12` and `image:debian-12` look in one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    words: Vec<String>,
}

impl Filter {
    pub fn parse(text: &str) -> Self {
        Self { words: text.split_whitespace().take(12).map(|w| w.chars().take(80).collect::<String>().to_lowercase()).collect() }
    }

    pub fn matches(&self, row: &Row) -> bool {
        self.words.iter().all(|word| match word.split_once(':') {
            Some(("state", want)) => row.group.key() == want || row.lifecycle == want || row.state.to_lowercase() == want,
            Some(("rack", want)) => row.place.as_ref().is_some_and(|p| p.as_str().to_lowercase().split('/').next() == Some(want)),
            Some(("image", want)) => row.hay.split(' ').any(|w| w == want),
            Some(_) | None => row.hay.contains(word.as_str()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rack_two_comes_before_rack_ten() {
        assert!(padded("r2") < padded("r10"));
        assert!(padded("node-9") < padded("node-10"));
    }

    #[test]
    fn a_filter_is_cut_to_a_bound() {
        let filter = Filter::parse(&"x ".repeat(1000));
        assert_eq!(filter.words.len(), 12);
    }
}
