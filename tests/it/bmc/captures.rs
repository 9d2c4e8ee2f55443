//! Every recorded tree read completely through the driver, with a table per model of what was found, what the recording does not
//! hold and what was not understood. The least that must be found was counted by hand in the JSON.

use std::collections::BTreeMap;

use hostler::bmc::{Answer, BmcAccess, BmcError, Bmcs};
use hostler::domain::bmc_features::{Capability, FirmwareItem, Found, LedState, Oddity, Support};
use hostler::domain::hardware_log::{LogCursor, LogEntry};
use hostler::domain::part::{Part, PartKind, PartState};
use hostler::domain::sensor::{Reading, Sensor, SensorKind};

use super::kit::{bmcs, machine};
use super::recorded::{Letters, Recorded};

/// All that was read of one tree.
struct Everything {
    parts: Vec<Part>,
    sensors: Vec<Sensor>,
    firmware: Vec<FirmwareItem>,
    logs: BTreeMap<String, Vec<LogEntry>>,
    bios: usize,
    explained_bios: usize,
    accounts: usize,
    boot_options: usize,
    media: usize,
    capabilities: Vec<Support>,
    absent: Vec<Oddity>,
    not_understood: Vec<Oddity>,
    not_offered: Vec<String>,
}

impl Everything {
    fn take<T>(&mut self, answer: Result<Answer<Found<T>>, BmcError>) -> Vec<T> {
        match answer {
            Ok(Answer { value, .. }) => {
                self.absent.extend(value.unread);
                self.not_understood.extend(value.not_understood);
                value.items
            }
            Err(BmcError::Unsupported { what, .. }) => {
                self.not_offered.push(what);
                Vec::new()
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn read(bmcs: &Bmcs, access: &BmcAccess) -> Self {
        let m = machine();
        let mut all = Self {
            parts: Vec::new(),
            sensors: Vec::new(),
            firmware: Vec::new(),
            logs: BTreeMap::new(),
            bios: 0,
            explained_bios: 0,
            accounts: 0,
            boot_options: 0,
            media: 0,
            capabilities: bmcs.supports(m, access).await.unwrap().value,
            absent: Vec::new(),
            not_understood: Vec::new(),
            not_offered: Vec::new(),
        };
        all.parts = all.take(bmcs.parts(m, access).await);
        all.sensors = all.take(bmcs.sensors(m, access).await);
        all.firmware = all.take(bmcs.firmware(m, access).await);
        let bios = all.take(bmcs.bios(m, access).await);
        (all.bios, all.explained_bios) = (bios.len(), bios.iter().filter(|b| b.display_name.is_some()).count());
        all.accounts = all.take(bmcs.accounts(m, access).await).len();
        all.boot_options = all.take(bmcs.boot_order(m, access).await).len();
        all.media = all.take(bmcs.media(m, access).await).len();
        for log in bmcs.logs(m, access).await.unwrap().value {
            let news = bmcs.log_news(m, access, &log, &LogCursor::default()).await.unwrap().value;
            all.not_understood.extend(news.not_understood);
            // Read again from where it stopped: nothing is new.
            let again = bmcs.log_news(m, access, &log, &news.cursor).await.unwrap().value;
            assert!(again.entries.is_empty() && !again.new_epoch && again.cursor == news.cursor, "{log} repeats itself");
            all.logs.insert(log, news.entries);
        }
        all
    }

    fn count(&self, kind: PartKind) -> usize {
        self.parts.iter().filter(|p| p.kind == kind).count()
    }

    fn with_serial(&self, kind: PartKind) -> usize {
        self.parts.iter().filter(|p| p.kind == kind && p.serial.is_some()).count()
    }

    fn with_thresholds(&self) -> usize {
        self.sensors.iter().filter(|s| s.thresholds != Default::default()).count()
    }

    fn entries(&self, log: &str) -> usize {
        self.logs.iter().find(|(uri, _)| uri.ends_with(log)).map_or(0, |(_, e)| e.len())
    }

    fn offers(&self, capability: Capability) -> bool {
        self.capabilities.iter().any(|c| c.capability == capability && c.offered)
    }

    fn print(&self, model: &str) {
        println!("\n{model}");
        let mut kinds: BTreeMap<PartKind, (usize, usize)> = BTreeMap::new();
        for part in &self.parts {
            let (all, serials) = kinds.entry(part.kind).or_default();
            *all += 1;
            *serials += usize::from(part.serial.is_some());
        }
        println!("  {:<22} {:>6}  with serial", "found", "count");
        for (kind, (all, serials)) in kinds {
            println!("  {:<22} {all:>6}  {serials:>11}", kind.to_string());
        }
        let read = self.sensors.iter().filter(|s| s.reading.number().is_some()).count();
        println!("  {:<22} {:>6}  {read} with a reading, {} with thresholds", "sensor", self.sensors.len(), self.with_thresholds());
        println!("  {:<22} {:>6}", "firmware item", self.firmware.len());
        for (log, entries) in &self.logs {
            println!("  {:<22} {:>6}  {log}", "log entry", entries.len());
        }
        println!("  {:<22} {:>6}  {} explained by the registry", "BIOS setting", self.bios, self.explained_bios);
        println!("  {:<22} {:>6}", "account", self.accounts);
        println!("  {:<22} {:>6}", "boot option", self.boot_options);
        println!("  {:<22} {:>6}", "virtual drive", self.media);
        let offered = self.capabilities.iter().filter(|c| c.offered).count();
        println!("  {:<22} {offered:>6}  of {}", "capability", self.capabilities.len());
        for (title, list) in [("absent in the capture", &self.absent), ("not understood", &self.not_understood)] {
            println!("  {title}: {}", if list.is_empty() { "nothing" } else { "" });
            list.iter().for_each(|o| println!("    {}: {}", o.source, o.what));
        }
        self.not_offered.iter().for_each(|what| println!("  not offered: {what}"));
    }

    fn part(&self, source: &str) -> &Part {
        self.parts.iter().find(|p| p.source == source).unwrap_or_else(|| panic!("no part {source}"))
    }

    fn sensor(&self, name: &str) -> &Sensor {
        self.sensors.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no sensor {name}"))
    }

    /// What holds for any tree.
    fn check(&self, tree: &Recorded) {
        assert!(self.not_understood.is_empty(), "{:?}", self.not_understood);
        let mut sources: Vec<&str> = self.parts.iter().map(|p| p.source.as_str()).collect();
        sources.sort_unstable();
        let all = sources.len();
        sources.dedup();
        assert_eq!(sources.len(), all, "a part is listed twice");
        for source in self.parts.iter().map(|p| &p.source).chain(self.sensors.iter().map(|s| &s.source)) {
            let path = source.split('#').next().unwrap();
            assert!(tree.get(path).is_some(), "{source} is not in the recording");
        }
        for capability in Capability::ALL {
            assert_eq!(self.capabilities.iter().filter(|c| c.capability == capability).count(), 1, "{capability}");
        }
        assert!(self.capabilities.iter().all(|c| !c.evidence.is_empty()));
    }
}

#[tokio::test]
async fn a_dell_r750_is_read_completely() {
    let (tree, access) = Recorded::serve("dell-poweredge-r750-idrac9", Letters::Exact).await;
    let bmcs = bmcs();
    let all = Everything::read(&bmcs, &access).await;
    all.print("Dell PowerEdge R750, iDRAC 9 6.00.30.00");
    all.check(&tree);
    assert_eq!((all.count(PartKind::Dimm), all.with_serial(PartKind::Dimm)), (16, 16));
    assert_eq!((all.count(PartKind::Cpu), all.count(PartKind::Gpu), all.with_serial(PartKind::Gpu)), (2, 1, 1));
    assert_eq!((all.count(PartKind::PowerSupply), all.with_serial(PartKind::PowerSupply)), (2, 2));
    assert_eq!((all.count(PartKind::Drive), all.with_serial(PartKind::Drive), all.count(PartKind::Volume)), (3, 3, 3));
    assert_eq!((all.count(PartKind::Fan), all.count(PartKind::NetworkAdapter), all.count(PartKind::NetworkPort)), (6, 4, 6));
    // 26 device resources, of which the 13 of the chassis are the same devices below the system.
    assert_eq!((all.count(PartKind::PcieDevice), all.count(PartKind::Baseboard)), (13, 1));
    let dimm = all.part("/redfish/v1/Systems/System.Embedded.1/Memory/DIMM.Socket.A1");
    assert_eq!((dimm.serial.as_ref().unwrap().as_str(), dimm.place.as_deref()), ("2E67A645", Some("DIMM A1")));
    assert_eq!((dimm.facts.capacity_bytes, dimm.facts.speed_mhz, dimm.facts.alarms.len()), (Some(32 << 30), Some(3200), 0));
    let gpu = all.part("/redfish/v1/Systems/System.Embedded.1/Processors/Video.Slot.2-1");
    assert_eq!((gpu.model.as_deref(), gpu.facts.metrics.get("TemperatureCelsius")), (Some("NVIDIA H100 PCIe"), Some(&34.0)));
    let supply = all.part("/redfish/v1/Chassis/System.Embedded.1/PowerSubsystem/PowerSupplies/PSU.Slot.2");
    assert_eq!((supply.serial.as_ref().unwrap().as_str(), supply.facts.capacity_watts), ("PHARP0016L008W", Some(2400.0)));
    assert_eq!(supply.facts.metrics.get("InputPowerWatts"), Some(&308.0));
    // Thermal: 4 of 5 temperatures and 6 fans have limits; the Sensors collection repeats them and adds the DIMM temperature and
    // three more with limits of their own.
    assert!(all.with_thresholds() >= 10 && all.sensors.len() >= 70, "{} {}", all.with_thresholds(), all.sensors.len());
    let inlet = all.sensor("System Board Inlet Temp");
    assert_eq!(
        (inlet.reading.number(), inlet.thresholds.lower_critical, inlet.thresholds.lower_caution),
        (Some(25.0), Some(-7.0), Some(3.0))
    );
    assert_eq!(
        (inlet.thresholds.upper_caution, inlet.thresholds.upper_critical, inlet.thresholds.upper_fatal),
        (Some(38.0), Some(42.0), None)
    );
    assert_eq!(all.sensor("System Power Control").reading.number(), Some(614.0));
    // Two power supplies have a sensor of one name.
    assert_eq!(all.sensors.iter().filter(|s| s.name == "InputPowerSensor").count(), 2);
    assert_eq!(all.firmware.len(), 29);
    let spare = all.firmware.iter().filter(|f| f.in_use == Some(false)).count();
    let previous = tree.paths().filter(|(p, _)| p.contains("/FirmwareInventory/Previous-")).count();
    assert_eq!((spare, spare > 0), (previous, true), "images kept for going back do not run");
    assert_eq!((all.entries("/Sel"), all.entries("/Lclog"), all.entries("/FaultList")), (5, 5, 0));
    assert_eq!((all.bios, all.explained_bios, all.accounts, all.boot_options, all.media), (455, 455, 16, 5, 2));
    assert!(all.offers(Capability::FirmwareUpdate) && all.offers(Capability::PowerCycle) && !all.offers(Capability::Events));
    assert_eq!(all.absent, []);
}

#[tokio::test]
async fn an_hpe_dl360_is_read_completely() {
    let (tree, access) = Recorded::serve("hpe-proliant-dl360-ilo5", Letters::Any).await;
    let bmcs = bmcs();
    let all = Everything::read(&bmcs, &access).await;
    all.print("HPE ProLiant DL360 Gen10 Plus, iLO 5 v3.11");
    all.check(&tree);
    assert_eq!((all.count(PartKind::Dimm), all.with_serial(PartKind::Dimm)), (32, 12));
    let empty = all.parts.iter().filter(|p| p.kind == PartKind::Dimm && p.state == PartState::Absent);
    assert!(empty.clone().count() == 20 && empty.clone().all(|p| p.health.is_none()), "an empty slot is not healthy");
    assert_eq!((all.count(PartKind::PowerSupply), all.with_serial(PartKind::PowerSupply), all.count(PartKind::Fan)), (2, 2, 7));
    assert_eq!((all.count(PartKind::Drive), all.with_serial(PartKind::Drive)), (8, 2));
    let drive = all.part("/redfish/v1/Chassis/DE00A000/Drives/2556");
    assert_eq!((drive.serial.as_ref().unwrap().as_str(), drive.facts.life_left_percent), ("S521NA0T605357", Some(99.0)));
    assert_eq!((drive.place.as_deref(), drive.facts.failure_predicted), (Some("Slot=12:Port=2I:Box=1:Bay=1"), Some(false)));
    // Two ports of the adapter that is listed, and the four of an I350 that only `EthernetInterfaces` shows.
    assert_eq!((all.with_serial(PartKind::StorageController), all.count(PartKind::NetworkPort)), (1, 6));
    // Its `Volumes` lists none of the one it counts; HPE's own tree does, and its drives are the ones known by serial already.
    let volume = all.parts.iter().find(|p| p.kind == PartKind::Volume).unwrap();
    assert_eq!((volume.name.as_str(), volume.facts.volume.as_deref(), all.count(PartKind::Volume)), ("BootVolume", Some("RAID1"), 1));
    assert_eq!((all.count(PartKind::PcieDevice), all.with_serial(PartKind::Chassis), all.count(PartKind::Redundancy)), (5, 1, 1));
    // 48 temperatures (10 absent), 7 fans, power control, input voltage and output power of two supplies.
    assert_eq!((all.sensors.len(), all.with_thresholds()), (60, 32));
    let unavailable = all.sensors.iter().filter(|s| matches!(s.reading, Reading::Unavailable { .. })).count();
    assert_eq!(unavailable, 10, "an absent sensor has no reading, not 0");
    let inlet = all.sensor("01-Inlet Ambient");
    assert_eq!((inlet.reading.number(), inlet.context.as_deref()), (Some(21.0), Some("Intake")));
    assert_eq!(
        (inlet.thresholds.upper_caution, inlet.thresholds.upper_critical, inlet.thresholds.upper_fatal),
        (None, Some(42.0), Some(47.0))
    );
    assert_eq!(all.firmware.len(), 23);
    assert_eq!((all.entries("/IML"), all.entries("/SL"), all.entries("/Event"), all.entries("/IEL")), (142, 156, 228, 269));
    assert_eq!((all.bios, all.explained_bios, all.accounts, all.boot_options, all.media), (276, 276, 2, 12, 2));
    let progress = bmcs.boot_progress(machine(), &access).await.unwrap().value.unwrap();
    assert_eq!(progress.state, "FinishedPost");
    assert_eq!(bmcs.locator_led(machine(), &access).await.unwrap().value, LedState::Off);
    // Recorded with errors in their place, and a collection that counts a member it does not list.
    assert_eq!(all.absent.len(), 3, "{:?}", all.absent);
}

#[tokio::test]
async fn a_thin_supermicro_x10_is_read_completely() {
    let (tree, access) = Recorded::serve("supermicro-x10sdv-ast2400", Letters::Exact).await;
    let bmcs = bmcs();
    let all = Everything::read(&bmcs, &access).await;
    all.print("Supermicro X10SDV, AST2400 4.0");
    all.check(&tree);
    assert_eq!((all.count(PartKind::Dimm), all.with_serial(PartKind::Dimm), all.count(PartKind::Cpu)), (4, 4, 1));
    assert_eq!((all.count(PartKind::Fan), all.count(PartKind::NetworkPort), all.count(PartKind::Bmc)), (4, 4, 1));
    assert_eq!(all.sensors.len(), 21);
    let readings = all.sensors.iter().filter(|s| s.reading.number().is_some() && s.kind != SensorKind::Power).count();
    assert_eq!((readings, all.with_thresholds()), (0, 0), "it was off: absent sensors and zero limits are neither readings nor limits");
    // No UpdateService: the two versions come from manager and system.
    let versions: Vec<_> = all.firmware.iter().map(|f| (f.name.as_str(), f.version.as_deref().unwrap())).collect();
    assert_eq!(versions, [("BIOS", "1.2"), ("BMC", "4.0")]);
    assert_eq!(all.entries("/Log1"), 65);
    let ecc = all.logs.values().flatten().find(|e| e.id == "1").unwrap();
    assert_eq!((ecc.ipmi.unwrap().sensor_type, ecc.ipmi.unwrap().offset), (0x0c, 0), "the raw IPMI event is kept");
    let network = bmcs.network(machine(), &access).await.unwrap().value.items;
    assert_eq!(network[0].address.as_deref(), Some("192.168.254.120"));
    let absent: Vec<&str> = all.absent.iter().map(|o| o.source.as_str()).collect();
    assert_eq!(absent, ["/redfish/v1/Systems/1/Storage", "/redfish/v1/UpdateService"]);
    assert!(!all.offers(Capability::BiosSettings) && !all.offers(Capability::FirmwareUpdate) && all.offers(Capability::SoftOff));
}

/// A front that tells letters apart, before the recording of one that does not.
#[tokio::test]
async fn links_in_other_letters_are_found_where_letters_count() {
    let (_, access) = Recorded::serve("hpe-proliant-dl360-ilo5", Letters::Exact).await;
    let bios = bmcs().bios(machine(), &access).await.unwrap().value;
    assert_eq!(bios.items.len(), 276);
}

/// An iLO from before `Storage`: only HPE's own description is there.
#[tokio::test]
async fn drives_of_an_older_ilo_are_read_from_its_own_tree() {
    let (_, access) = Recorded::serve_changed("hpe-proliant-dl360-ilo5", Letters::Any, |tree| {
        assert!(tree.get_mut("/redfish/v1/Systems/1").unwrap().as_object_mut().unwrap().remove("Storage").is_some());
        tree.get_mut("/redfish/v1/Chassis").unwrap()["Members"].as_array_mut().unwrap().truncate(1);
    })
    .await;
    let parts = bmcs().parts(machine(), &access).await.unwrap().value.items;
    let drive = parts.iter().find(|p| p.serial.as_ref().is_some_and(|s| s.as_str() == "S521NA0T605357")).unwrap();
    assert_eq!((drive.kind, drive.place.as_deref(), drive.firmware.as_deref()), (PartKind::Drive, Some("2I:1:1"), Some("HPG3")));
    assert_eq!((drive.facts.capacity_bytes, drive.facts.life_left_percent), (Some(457_862 << 20), Some(99.0)));
    assert_eq!(parts.iter().filter(|p| p.kind == PartKind::StorageController && p.serial.is_some()).count(), 1);
}

/// C6: only sensor links are read, `Thermal` and `Power` are not. Here either half alone gives its sensors.
#[tokio::test]
async fn c6_both_generations_of_sensors_are_read() {
    let chassis = "/redfish/v1/Chassis/System.Embedded.1";
    let without = |fields: &'static [&'static str]| async move {
        let (tree, access) = Recorded::serve_changed("dell-poweredge-r750-idrac9", Letters::Exact, |tree| {
            let chassis = tree.get_mut(chassis).unwrap().as_object_mut().unwrap();
            fields.iter().for_each(|f| assert!(chassis.remove(*f).is_some()));
        })
        .await;
        (tree, bmcs().sensors(machine(), &access).await.unwrap().value.items)
    };
    let (_, modern) = without(&["Thermal", "Power"]).await;
    assert_eq!(modern.len(), 33);
    let (_, legacy) = without(&["Sensors", "ThermalSubsystem", "PowerSubsystem"]).await;
    assert!(legacy.iter().any(|s| s.name == "System Board Fan1A" && s.thresholds.lower_critical == Some(480.0)));
    assert!(legacy.iter().any(|s| s.name.contains("PS1") && s.name.ends_with("input power")));
    let (_, excerpts) = without(&["Sensors", "Thermal", "Power"]).await;
    assert!(excerpts.iter().any(|s| s.kind == SensorKind::Fan) && excerpts.iter().any(|s| s.kind == SensorKind::Temperature));
}

/// The cheapest route: what was found once is not looked for again.
#[tokio::test]
async fn a_warm_reading_of_all_sensors_costs_one_request_a_source() {
    let (tree, access) = Recorded::serve("hpe-proliant-dl360-ilo5", Letters::Any).await;
    let bmcs = bmcs();
    let first = bmcs.sensors(machine(), &access).await.unwrap().value;
    tree.forget();
    let second = bmcs.sensors(machine(), &access).await.unwrap().value;
    assert_eq!(tree.asked(), ["/redfish/v1/Chassis/1/Thermal", "/redfish/v1/Chassis/1/Power"]);
    assert_eq!(first.items, second.items, "and the sensors keep their ids");
}
