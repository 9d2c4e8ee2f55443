//! Packing lists and racks: what should be there, where, and what has not turned up.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::bmc::{bmc_detail, bmc_place, check_address, check_login};
use crate::app::error::Flaw;
use crate::app::intake::{blank_machine, free_name};
use crate::app::{App, AppError, Deed, Result, need};
use crate::clock;
use crate::decide::discovery::{Evidence, Source};
use crate::domain::access::{Actor, Role};
use crate::domain::bmc::BmcAddress;
use crate::domain::id::{Mac, MachineId, Name, Serial};
use crate::domain::machine::{Lifecycle, Machine};
use crate::domain::place::{Place, RackName};
use crate::domain::secret::Secret;
use crate::store::StoreError;

/// Lines of one packing list: several rows of racks.
const MAX_LINES: usize = 10_000;
/// Flaws told at once; a list with more is the wrong file.
const MAX_FLAWS: usize = 200;
/// A change that lost the race is tried again this often.
const TRIES: u32 = 5;
/// EIA-310 racks have up to 60 U in the field.
const HIGHEST_U: u8 = 60;
const COLUMNS: [&str; 8] = ["name", "serial", "mac", "bmc", "user", "password", "rack", "u"];

/// One machine of a packing list.
#[derive(Clone, Debug)]
pub struct Line {
    pub number: u64,
    pub name: Option<Name>,
    pub serial: Option<Serial>,
    pub mac: Option<Mac>,
    pub bmc: Option<LineBmc>,
    pub place: Option<Place>,
}

#[derive(Clone, Debug)]
pub struct LineBmc {
    pub address: BmcAddress,
    pub user: String,
    pub password: Secret<String>,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    pub created: Vec<Name>,
    pub updated: Vec<Name>,
    /// Lines that said nothing new.
    pub unchanged: usize,
    /// Machines of the list that have not been seen yet.
    pub not_turned_up: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SlotView {
    pub u: Option<u8>,
    pub machine: MachineId,
    pub name: Name,
    pub serial: Option<Serial>,
    pub lifecycle: Lifecycle,
    /// Announced and not seen yet.
    pub expected_only: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RackView {
    /// Absent: machines without a place.
    pub rack: Option<RackName>,
    pub machines: usize,
    pub not_turned_up: usize,
    /// From the top down.
    pub slots: Vec<SlotView>,
}

/// Reads a packing list. Strict: every flaw is told with its line.
///
/// # Errors
/// `Invalid` with all flaws (the first 200).
pub fn parse(text: &str) -> Result<Vec<Line>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let mut flaws = Vec::new();
    let columns = columns(&mut reader, &mut flaws);
    let mut lines = Vec::new();
    if flaws.is_empty() {
        for record in reader.records() {
            match record {
                Ok(record) if record.iter().all(str::is_empty) => {}
                Ok(record) => {
                    let number = line_of(text, record.position());
                    if record.len() != columns.len() {
                        flaws.push(flaw(number, None, format!("has {} values; the header has {} columns", record.len(), columns.len())));
                    } else if let Some(line) = read_line(number, &columns, &record, &mut flaws) {
                        lines.push(line);
                    }
                }
                Err(e) => flaws.push(flaw(line_of(text, e.position()), None, "cannot be read as CSV in UTF-8".to_owned())),
            }
            if lines.len() > MAX_LINES || flaws.len() > MAX_FLAWS {
                break;
            }
        }
        if lines.len() > MAX_LINES {
            return Err(AppError::TooLarge { what: format!("a packing list has at most {MAX_LINES} lines") });
        }
        twins(&lines, &mut flaws);
        if lines.is_empty() && flaws.is_empty() {
            flaws.push(Flaw {
                line: None,
                field: None,
                message: "the list is empty: write one machine a line under the header".to_owned(),
            });
        }
    }
    if flaws.is_empty() { Ok(lines) } else { Err(refused(flaws)) }
}

/// The line a record stands on. The reader's position is that of the blank lines before it, which it skips.
fn line_of(text: &str, position: Option<&csv::Position>) -> u64 {
    let Some(position) = position else { return 0 };
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let rest = text.as_bytes().get(start..).unwrap_or_default();
    let blank = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).filter(|b| **b == b'\n').count();
    position.line() + u64::try_from(blank).unwrap_or(0)
}

fn refused(mut flaws: Vec<Flaw>) -> AppError {
    let count = flaws.len();
    flaws.truncate(MAX_FLAWS);
    flaws.sort_by_key(|f| f.line);
    let what = if count == 1 {
        "the packing list has a flaw; nothing was imported".to_owned()
    } else {
        format!("the packing list has {count} flaws; nothing was imported")
    };
    AppError::Invalid {
        what,
        hint: format!("correct the lines and import the whole list again; its columns are {}", COLUMNS.join(", ")),
        flaws,
    }
}

fn flaw(line: u64, field: Option<&str>, message: String) -> Flaw {
    Flaw { line: Some(line), field: field.map(str::to_owned), message }
}

/// The header as column names.
fn columns<R: std::io::Read>(reader: &mut csv::Reader<R>, flaws: &mut Vec<Flaw>) -> Vec<&'static str> {
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(_) => {
            flaws.push(flaw(1, None, "cannot be read as CSV in UTF-8".to_owned()));
            return Vec::new();
        }
    };
    let mut columns = Vec::new();
    for name in &header {
        let lower = name.to_ascii_lowercase().replace([' ', '-'], "_");
        let lower = match lower.as_str() {
            "bmc_address" | "bmc_ip" => "bmc",
            "bmc_user" => "user",
            "bmc_password" => "password",
            other => other,
        };
        match COLUMNS.iter().find(|c| **c == lower) {
            Some(column) if columns.contains(column) => flaws.push(flaw(1, Some(column), "the column is there twice".to_owned())),
            Some(column) => columns.push(*column),
            None => flaws.push(flaw(
                1,
                Some(&name.chars().take(40).collect::<String>()),
                format!("there is no such column; the columns are {}", COLUMNS.join(", ")),
            )),
        }
    }
    if flaws.is_empty() && !columns.contains(&"serial") && !columns.contains(&"mac") {
        flaws.push(flaw(1, None, "a column serial or mac is needed: machines are recognised by them".to_owned()));
    }
    columns
}

fn read_line(number: u64, columns: &[&'static str], record: &csv::StringRecord, flaws: &mut Vec<Flaw>) -> Option<Line> {
    let before = flaws.len();
    let value = |name: &str| columns.iter().position(|c| *c == name).and_then(|i| record.get(i)).filter(|v| !v.is_empty());
    let mut read = |field: &str, message: String| flaws.push(flaw(number, Some(field), message));
    fn parsed<T: std::str::FromStr>(value: Option<&str>, mut wrong: impl FnMut(String)) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        value.and_then(|v| v.parse().map_err(|e: T::Err| wrong(e.to_string())).ok())
    }
    let name = parsed::<Name>(value("name"), |e| read("name", e));
    let serial = parsed::<Serial>(value("serial"), |e| read("serial", e));
    let mac = parsed::<Mac>(value("mac"), |e| read("mac", e));
    let rack = parsed::<RackName>(value("rack"), |e| read("rack", e));
    let u = parsed::<u8>(value("u").map(|u| u.trim_start_matches(['u', 'U'])), |_| {
        read("u", format!("not a U position; write 1 to {HIGHEST_U}"))
    });
    if u.is_some_and(|u| !(1..=HIGHEST_U).contains(&u)) {
        read("u", format!("not a U position; write 1 to {HIGHEST_U}"));
    }
    if value("u").is_some() && value("rack").is_none() {
        read("rack", "a U position without a rack; name the rack".to_owned());
    }
    if value("serial").is_none() && value("mac").is_none() {
        read("serial", "a serial or a MAC is needed: the machine is recognised by it".to_owned());
    }
    let address = parsed::<BmcAddress>(value("bmc"), |e| read("bmc", e));
    let bmc = match (value("bmc"), value("user"), value("password")) {
        (Some(_), Some(user), Some(password)) => address.map(|address| {
            let password = Secret::new(password.to_owned());
            for check in [check_login(user, Some(&password)), check_address(&address)] {
                if let Err(e) = check {
                    read("bmc", e.to_string());
                }
            }
            LineBmc { address, user: user.to_owned(), password }
        }),
        (None, None, None) => None,
        (address, user, password) => {
            for (field, value) in [("bmc", address), ("user", user), ("password", password)] {
                if value.is_none() {
                    read(field, "bmc, user and password belong together; fill all three or none".to_owned());
                }
            }
            None
        }
    };
    let place = rack.map(|rack| Place { rack, u });
    (flaws.len() == before).then_some(Line { number, name, serial, mac, bmc, place })
}

/// The same serial, MAC, BMC, name or place on two lines.
fn twins(lines: &[Line], flaws: &mut Vec<Flaw>) {
    let mut seen: HashMap<(&str, String), u64> = HashMap::new();
    for line in lines {
        let slot = line.place.as_ref().filter(|p| p.u.is_some());
        let keys = [
            ("serial", line.serial.as_ref().map(|s| s.as_str().to_ascii_lowercase())),
            ("mac", line.mac.map(|m| m.to_string())),
            ("bmc", line.bmc.as_ref().map(|b| b.address.to_string())),
            ("name", line.name.as_ref().map(ToString::to_string)),
            ("u", slot.map(ToString::to_string)),
        ];
        for (field, key) in keys {
            let Some(key) = key else { continue };
            if let Some(first) = seen.insert((field, key.clone()), line.number) {
                flaws.push(flaw(line.number, Some(field), format!("{key} stands on line {first} already")));
                seen.insert((field, key), first);
            }
        }
    }
}

/// What is to be written for one line.
enum Write {
    New { machine: Box<Machine>, bmc: Option<LineBmc> },
    Change { machine: Box<Machine>, macs: Vec<Mac>, bmc: Option<LineBmc>, detail: serde_json::Value },
}

impl App {
    /// Imports a packing list: all of it or nothing. The same list again changes nothing.
    ///
    /// # Errors
    /// `Invalid` with every flaw by line; `Forbidden`.
    pub async fn import_packing_list(&self, actor: &Actor, text: &str) -> Result<ImportReport> {
        need(actor, Role::Operator)?;
        let lines = parse(text)?;
        for _ in 0..TRIES {
            match self.try_import(actor, &lines).await {
                Err(AppError::Contended) => {}
                other => return other,
            }
        }
        Err(AppError::Contended)
    }

    async fn try_import(&self, actor: &Actor, lines: &[Line]) -> Result<ImportReport> {
        let now = clock::now();
        let mut report = ImportReport::default();
        let mut writes = Vec::new();
        let mut flaws = Vec::new();
        let mut taken: Vec<Name> = lines.iter().filter_map(|l| l.name.clone()).collect();
        for line in lines {
            let macs: Vec<Mac> = line.mac.into_iter().collect();
            let known = self.store().machines_by_evidence(None, line.serial.as_ref(), &macs, None).await?;
            if let Some(bmc) = &line.bmc
                && let Some(other) = self
                    .store()
                    .machines_by_evidence(None, None, &[], Some(&bmc.address))
                    .await?
                    .iter()
                    .find(|m| known.iter().all(|k| k.id != m.id))
            {
                flaws.push(flaw(line.number, Some("bmc"), format!("{} is the BMC of {}; correct the address", bmc.address, other.name)));
                continue;
            }
            match known.as_slice() {
                [] => writes.push(self.new_of(line, macs, &mut taken, &mut flaws, now).await?),
                [machine] => writes.push(self.change_of(actor, line, machine.clone(), &mut flaws, &mut report).await?),
                [a, b, ..] => flaws.push(flaw(
                    line.number,
                    Some("serial"),
                    format!("serial and MAC belong to two machines, {} and {}; correct one of them", a.name, b.name),
                )),
            }
        }
        if !flaws.is_empty() {
            return Err(refused(flaws));
        }
        let mut tx = self.store().begin().await?;
        for write in writes.into_iter().flatten() {
            let (id, bmc) = match write {
                Write::New { machine, bmc } => {
                    tx.insert_machine(&machine).await?;
                    self.machine_deed(
                        actor,
                        now,
                        "machine.announced",
                        &machine,
                        serde_json::Value::Null,
                        format!("{} announced {} by packing list.", actor.name, machine.name),
                    )
                    .record(&mut tx)
                    .await?;
                    report.created.push(machine.name.clone());
                    report.not_turned_up.push(machine.name.clone());
                    (machine.id, bmc)
                }
                Write::Change { machine, macs, bmc, detail } => {
                    match tx.update_machine(&machine, Some(now)).await {
                        Ok(()) => {}
                        Err(StoreError::Conflict) => return Err(AppError::Contended),
                        Err(e) => return Err(e.into()),
                    }
                    tx.put_macs(machine.id, &macs, now).await?;
                    let text = format!("{} changed the record of {} by packing list.", actor.name, machine.name);
                    self.machine_deed(actor, now, "machine.list_changed", &machine, detail, text).record(&mut tx).await?;
                    report.updated.push(machine.name.clone());
                    (machine.id, bmc)
                }
            };
            if let Some(bmc) = bmc {
                let sealed = self.seal_bmc_password(id, &bmc.password)?;
                tx.put_bmc(id, &bmc.address, &bmc.user, &sealed).await?;
                tx.make_due(id, now).await?;
            }
        }
        let deed: Deed<'_> = self.deed(
            actor,
            now,
            "rack.imported",
            "packing list",
            format!(
                "{} imported a packing list: {} new, {} changed, {} as before.",
                actor.name,
                report.created.len(),
                report.updated.len(),
                report.unchanged
            ),
        );
        deed.record(&mut tx).await?;
        tx.commit().await?;
        report.not_turned_up.sort();
        Ok(report)
    }

    async fn new_of(
        &self,
        line: &Line,
        macs: Vec<Mac>,
        taken: &mut Vec<Name>,
        flaws: &mut Vec<Flaw>,
        now: crate::domain::time::Timestamp,
    ) -> Result<Option<Write>> {
        let evidence = Evidence { uuid: None, serial: line.serial.clone(), macs, parts: Vec::new(), source: Source::PackingList };
        let name = match &line.name {
            Some(name) => {
                if self.store().find_machines(name.as_str()).await?.iter().any(|m| m.name == *name) {
                    flaws.push(flaw(line.number, Some("name"), format!("another machine is named {name}; choose another name")));
                    return Ok(None);
                }
                name.clone()
            }
            None => {
                let wish = free_name(self.store(), &evidence).await.map_err(|e| AppError::Internal(e.to_string()))?;
                free_in_list(&wish, taken)
            }
        };
        taken.push(name.clone());
        let mut machine = blank_machine(MachineId(clock::fresh_uuid()), name, &evidence, now);
        machine.place = line.place.clone();
        Ok(Some(Write::New { machine: Box::new(machine), bmc: line.bmc.clone() }))
    }

    async fn change_of(
        &self,
        actor: &Actor,
        line: &Line,
        mut machine: Machine,
        flaws: &mut Vec<Flaw>,
        report: &mut ImportReport,
    ) -> Result<Option<Write>> {
        if let (Some(theirs), Some(ours)) = (&line.serial, &machine.serial)
            && !theirs.as_str().eq_ignore_ascii_case(ours.as_str())
        {
            flaws.push(flaw(
                line.number,
                Some("serial"),
                format!("the machine with this MAC is {} with serial {ours}; correct serial or MAC", machine.name),
            ));
            return Ok(None);
        }
        if machine.is_expected_only() {
            report.not_turned_up.push(machine.name.clone());
        }
        let mut changed = false;
        let mut detail = serde_json::json!({});
        if line.place.is_some() && machine.place != line.place {
            detail["place"] = serde_json::json!(line.place);
            detail["place_before"] = serde_json::json!(machine.place);
            machine.place = line.place.clone();
            changed = true;
        }
        if machine.serial.is_none() && line.serial.is_some() {
            detail["serial"] = serde_json::json!(line.serial);
            machine.serial = line.serial.clone();
            changed = true;
        }
        if let Some(name) = &line.name
            && machine.name != *name
        {
            if self.store().find_machines(name.as_str()).await?.iter().any(|m| m.name == *name && m.id != machine.id) {
                flaws.push(flaw(line.number, Some("name"), format!("another machine is named {name}; choose another name")));
                return Ok(None);
            }
            detail["name"] = serde_json::json!(name);
            detail["name_before"] = serde_json::json!(machine.name);
            machine.name = name.clone();
            changed = true;
        }
        let macs: Vec<Mac> = line.mac.into_iter().filter(|m| !machine.macs.contains(m)).collect();
        if !macs.is_empty() {
            detail["macs"] = serde_json::json!(macs);
        }
        let bmc = match &line.bmc {
            Some(bmc) if !self.same_bmc(&machine, bmc).await? => Some(bmc.clone()),
            Some(_) | None => None,
        };
        if !changed && macs.is_empty() && bmc.is_none() {
            report.unchanged += 1;
            return Ok(None);
        }
        if let Some(bmc) = &bmc {
            // Whoever says where a machine's BMC is decides which machine its power commands reach: as in `set_bmc`.
            if machine.bmc.is_some() && actor.role < Role::Admin {
                flaws.push(flaw(
                    line.number,
                    Some("bmc"),
                    format!("{} has a BMC already; changing it needs the role {}, yours is {}", machine.name, Role::Admin, actor.role),
                ));
                return Ok(None);
            }
            let password_changed = !self.same_password(&machine, bmc).await?;
            detail["bmc"] = bmc_detail(machine.bmc.as_ref(), &bmc.address, &bmc.user, password_changed);
        }
        Ok(Some(Write::Change { machine: Box::new(machine), macs, bmc, detail }))
    }

    /// Whether the machine's BMC is known with this address and login already.
    async fn same_bmc(&self, machine: &Machine, line: &LineBmc) -> Result<bool> {
        let same = machine.bmc.as_ref().is_some_and(|b| b.address == line.address && b.user == line.user);
        Ok(same && self.same_password(machine, line).await?)
    }

    /// Whether the line has the stored password. One that cannot be opened any more (another key file) is replaced.
    async fn same_password(&self, machine: &Machine, line: &LineBmc) -> Result<bool> {
        let Some(sealed) = self.store().bmc_sealed_password(machine.id).await? else { return Ok(false) };
        let row = machine.id.to_string();
        Ok(self.sealer().unseal(&sealed, bmc_place(&row)).is_ok_and(|p| p == line.password))
    }

    /// Racks by name with what stands in them; machines without a place last.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn racks(&self, actor: &Actor) -> Result<Vec<RackView>> {
        need(actor, Role::Viewer)?;
        let mut racks: BTreeMap<(bool, Option<RackName>), Vec<SlotView>> = BTreeMap::new();
        for m in self.store().machines().await? {
            let (rack, u) = match &m.place {
                Some(place) => (Some(place.rack.clone()), place.u),
                None => (None, None),
            };
            let expected_only = m.is_expected_only();
            racks.entry((rack.is_none(), rack)).or_default().push(SlotView {
                u,
                machine: m.id,
                name: m.name,
                serial: m.serial,
                lifecycle: m.lifecycle,
                expected_only,
            });
        }
        Ok(racks
            .into_iter()
            .map(|((_, rack), mut slots)| {
                slots.sort_by(|a, b| b.u.cmp(&a.u).then_with(|| a.name.cmp(&b.name)));
                RackView { rack, machines: slots.len(), not_turned_up: slots.iter().filter(|s| s.expected_only).count(), slots }
            })
            .collect())
    }
}

/// `wish`, or with a number behind it when the list has that name already.
fn free_in_list(wish: &Name, taken: &[Name]) -> Name {
    if !taken.contains(wish) {
        return wish.clone();
    }
    let stem: String = wish.as_str().chars().take(55).collect();
    (2..)
        .filter_map(|n| Name::nearest(&format!("{}-{n}", stem.trim_end_matches('-'))))
        .find(|name| !taken.contains(name))
        .unwrap_or_else(|| wish.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(text: &str) -> Vec<Flaw> {
        match parse(text) {
            Err(AppError::Invalid { flaws, .. }) => flaws,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_packing_list_is_read_in_any_column_order() {
        let lines = parse(
            "\u{feff}rack,u,serial,mac,bmc_address,user,password\nR12,17,S1,52:54:00:00:00:01,10.0.0.1,admin,\"a,b\"\n\nR12,U18,S2,,,,\n",
        )
        .unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].number, lines[1].number), (2, 4));
        assert_eq!(lines[0].bmc.as_ref().unwrap().password.expose(), "a,b");
        assert_eq!(lines[1].place.as_ref().unwrap().u, Some(18));
        assert!(lines[1].bmc.is_none());
    }

    #[test]
    fn every_flaw_is_told_with_its_line_and_field() {
        let found = flaws("serial,mac,bmc,user,password,rack,u\nS1,nonsense,,,,,\n,,,,,R1,1\nS3,,10.0.0.1,admin,,R1,99\nS4,,,,,,4\n");
        let told: Vec<_> = found.iter().map(|f| (f.line.unwrap(), f.field.as_deref().unwrap_or(""))).collect();
        for want in [(2, "mac"), (3, "serial"), (4, "password"), (4, "u"), (5, "rack")] {
            assert!(told.contains(&want), "{want:?} in {told:?}");
        }
    }

    #[test]
    fn the_same_machine_on_two_lines_is_a_flaw() {
        let found = flaws("serial,mac,rack,u\nS1,52:54:00:00:00:01,R1,1\ns1,52:54:00:00:00:02,R1,1\n");
        assert_eq!(found.iter().map(|f| f.field.clone().unwrap()).collect::<Vec<_>>(), ["serial", "u"]);
        assert!(found[0].message.contains("line 2"));
    }

    #[test]
    fn an_unknown_column_or_none_that_identifies_is_a_flaw() {
        assert!(flaws("serial,colour\nS1,red\n")[0].message.contains("columns are"));
        assert!(flaws("rack,u\nR1,1\n")[0].message.contains("serial or mac"));
        assert!(flaws("")[0].line.is_some());
        assert!(flaws("serial\n")[0].message.contains("empty"));
        assert_eq!(flaws("serial,rack\nS1\n")[0].line, Some(2));
    }

    #[test]
    fn names_do_not_collide_within_a_list() {
        let name = |s: &str| s.parse::<Name>().unwrap();
        assert_eq!(free_in_list(&name("a"), &[name("a"), name("a-2")]), name("a-3"));
        assert_eq!(free_in_list(&name("b"), &[name("a")]), name("b"));
    }
}
