//! The chassis of a modern tree: sensors, fans, power supplies, cards.

use serde_json::{Value, json};

use crate::domain::part::PartKind;
use crate::domain::sensor::{Health, SensorKind};
use crate::sim::bmc::board::parts::BoardPart;
use crate::sim::bmc::board::sensors::BoardSensor;
use crate::sim::bmc::redfish::tree::{READ_PATCH, Resource, View, enabled, labels, link, place, power_word, put, put_some, status};

impl View<'_> {
    pub(super) fn chassis_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let of = |kind| self.board.of_kind(kind).map(|p| format!("{path}/{}", p.id)).collect();
        let one = |kind, id: &str| self.board.of_kind(kind).find(|p| p.id == id);
        let body = match (rest, self.is_modern()) {
            ([], _) => return Some(Resource { body: self.chassis(path), allow: READ_PATCH }),
            (["Power"], false) => self.legacy_power(path),
            (["Thermal"], false) => self.legacy_thermal(path),
            (["Sensors"], true) => {
                return Some(self.collection(path, "Sensor", self.board.sensors.iter().map(|s| format!("{path}/{}", s.id)).collect()));
            }
            (["Sensors", id], true) => self.sensor(path, self.board.sensors.iter().find(|s| s.id == *id)?),
            (["ThermalSubsystem"], true) => self.resource(
                path,
                "ThermalSubsystem",
                "ThermalSubsystem",
                "Thermal Subsystem",
                json!({
                    "Status": enabled(), "Fans": link(&format!("{path}/Fans")), "ThermalMetrics": link(&format!("{path}/ThermalMetrics")),
                    "FanRedundancy": [self.redundancy(PartKind::Fan, 5, &format!("{path}/Fans"))],
                }),
            ),
            (["ThermalSubsystem", "ThermalMetrics"], true) => self.thermal_metrics(path),
            (["ThermalSubsystem", "Fans"], true) => return Some(self.collection(path, "Fan", of(PartKind::Fan))),
            (["ThermalSubsystem", "Fans", id], true) => self.fan(path, one(PartKind::Fan, id)?),
            (["PowerSubsystem"], true) => self.resource(
                path,
                "PowerSubsystem",
                "PowerSubsystem",
                "Power Subsystem",
                json!({
                    "Status": enabled(), "CapacityWatts": 1600, "PowerSupplies": link(&format!("{path}/PowerSupplies")),
                    "PowerSupplyRedundancy": [self.redundancy(PartKind::PowerSupply, 1, &format!("{path}/PowerSupplies"))],
                }),
            ),
            (["PowerSubsystem", "PowerSupplies"], true) => return Some(self.collection(path, "PowerSupply", of(PartKind::PowerSupply))),
            (["PowerSubsystem", "PowerSupplies", id], true) => self.supply(path, one(PartKind::PowerSupply, id)?),
            (["PowerSubsystem", "PowerSupplies", id, "Metrics"], true) => {
                self.supply_metrics(path, one(PartKind::PowerSupply, id).filter(|p| p.is_there())?)
            }
            (["NetworkAdapters", rest @ ..], true) => return self.adapters_part(path, rest),
            (["PCIeDevices"], true) => {
                return Some(self.collection(path, "PCIeDevice", self.cards().map(|p| format!("{path}/{}", p.id)).collect()));
            }
            (["PCIeDevices", id], true) => self.card(path, self.cards().find(|p| p.id == *id)?),
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    fn chassis(&self, path: &str) -> Value {
        let (dialect, board, id) = (self.dialect(), self.board, self.identity);
        let drives: Vec<Value> = board.of_kind(PartKind::Drive).map(|p| link(&board.path_of(p))).collect();
        let mut body = self.resource(
            path,
            "Chassis",
            dialect.chassis,
            "Chassis",
            json!({
                "ChassisType": "RackMount",
                "Manufacturer": id.manufacturer,
                "Model": id.model,
                "SerialNumber": id.serial,
                "PartNumber": "0CNN8KA02",
                "AssetTag": board.asset_tag,
                "PowerState": power_word(self.host.power),
                "IndicatorLED": if board.led { "Blinking" } else { "Off" },
                "Status": {"State": "Enabled", "Health": board.rollup(), "HealthRollup": board.rollup()},
                "HeightMm": 44.4, "WidthMm": 434.0, "DepthMm": 751.3,
                "PhysicalSecurity": {"IntrusionSensor": "Normal", "IntrusionSensorNumber": 115},
                "Links": {
                    "ComputerSystems": [link(&dialect.system_path())],
                    "ManagedBy": [link(&dialect.manager_path())],
                    "ManagersInChassis": [link(&dialect.manager_path())],
                    "Drives": drives,
                },
            }),
        );
        if self.is_modern() {
            put(
                &mut body,
                json!({
                    "LocationIndicatorActive": board.led,
                    "Sensors": link(&format!("{path}/Sensors")),
                    "ThermalSubsystem": link(&format!("{path}/ThermalSubsystem")),
                    "PowerSubsystem": link(&format!("{path}/PowerSubsystem")),
                    "NetworkAdapters": link(&format!("{path}/NetworkAdapters")),
                    "PCIeDevices": link(&format!("{path}/PCIeDevices")),
                }),
            );
            if let Some(fields) = body.as_object_mut() {
                // Deprecated since Chassis 1.14.
                fields.remove("IndicatorLED");
            }
        } else {
            put(&mut body, json!({"Thermal": link(&format!("{path}/Thermal")), "Power": link(&format!("{path}/Power"))}));
        }
        body
    }

    /// Redundancy of the parts of a kind, of which `least` must work.
    fn redundancy(&self, kind: PartKind, least: usize, set: &str) -> Value {
        let working = self.board.of_kind(kind).filter(|p| p.health() == Some("OK")).count();
        let health = if working > least { "OK" } else { "Warning" };
        let links: Vec<Value> = self.board.of_kind(kind).map(|p| link(&format!("{set}/{}", p.id))).collect();
        json!({
            "RedundancyType": "NPlusM", "MinNeededInGroup": least, "MaxSupportedInGroup": links.len(), "RedundancyGroup": links,
            "Status": {"State": "Enabled", "Health": health},
        })
    }

    pub(super) fn sensor_status(&self, sensor: &BoardSensor, reading: Option<f64>) -> Value {
        let absent = sensor.part.as_ref().and_then(|id| self.board.part(id)).is_some_and(|p| !p.is_there());
        match (absent, reading) {
            (true, _) => json!({"State": "Absent"}),
            (false, None) => json!({"State": "UnavailableOffline"}),
            (false, Some(_)) => json!({"State": "Enabled", "Health": health_word(sensor)}),
        }
    }

    fn sensor(&self, path: &str, sensor: &BoardSensor) -> Value {
        let reading = self.board.reading(sensor, self.now, &self.host);
        let (kind, units) = match sensor.kind {
            SensorKind::Temperature => ("Temperature", "Cel"),
            SensorKind::Voltage => ("Voltage", "V"),
            SensorKind::Current => ("Current", "A"),
            SensorKind::Power => ("Power", "W"),
            SensorKind::Energy => ("EnergyJoules", "J"),
            SensorKind::Fan => ("Rotational", "{rev}/min"),
            SensorKind::Humidity | SensorKind::Share => ("Percent", "%"),
            SensorKind::Flow => ("LiquidFlow", "L/min"),
            SensorKind::Pressure => ("Pressure", "Pa"),
            SensorKind::Discrete | SensorKind::Other => ("Frequency", "Hz"),
        };
        let t = &sensor.thresholds;
        let mut thresholds = json!({});
        for (name, value, activation) in [
            ("LowerCritical", t.lower_critical, "Decreasing"),
            ("LowerCaution", t.lower_caution, "Decreasing"),
            ("UpperCaution", t.upper_caution, "Increasing"),
            ("UpperCritical", t.upper_critical, "Increasing"),
        ] {
            put_some(
                &mut thresholds,
                name,
                value.map(|v| json!({"Reading": v, "Activation": activation, "HysteresisReading": sensor.hysteresis})),
            );
        }
        let mut body = self.resource(
            path,
            "Sensor",
            &sensor.id,
            &sensor.name,
            json!({
                "Reading": reading, "ReadingType": kind, "ReadingUnits": units, "ReadingTime": self.stamp(self.now),
                "ReadingRangeMin": sensor.range.0, "ReadingRangeMax": sensor.range.1,
                "PhysicalContext": sensor.context, "Status": self.sensor_status(sensor, reading), "Thresholds": thresholds,
            }),
        );
        let part = sensor.part.as_ref().and_then(|id| self.board.part(id)).filter(|p| p.kind != PartKind::Battery);
        put_some(&mut body, "RelatedItem", part.map(|p| json!([link(&self.board.path_of(p))])));
        body
    }

    /// Sensor of a part, as an excerpt for the property of another resource.
    fn excerpt(&self, sensor: &BoardSensor) -> Value {
        let uri = format!("{}/Sensors/{}", self.dialect().chassis_path(), sensor.id);
        json!({"DataSourceUri": uri, "Reading": self.board.reading(sensor, self.now, &self.host)})
    }

    fn sensors_of<'a>(&'a self, part: &'a BoardPart) -> impl Iterator<Item = &'a BoardSensor> {
        self.board.sensors.iter().filter(|s| s.part.as_deref() == Some(part.id.as_str()))
    }

    fn thermal_metrics(&self, path: &str) -> Value {
        let of = |id: &str| self.board.sensors.iter().find(|s| s.id == id).map(|s| self.excerpt(s));
        let all: Vec<Value> = self
            .board
            .sensors
            .iter()
            .filter(|s| s.kind == SensorKind::Temperature)
            .map(|s| {
                let mut one = self.excerpt(s);
                put(&mut one, json!({"DeviceName": s.name, "PhysicalContext": s.context}));
                one
            })
            .collect();
        let mut summary = json!({});
        put_some(&mut summary, "Intake", of("InletTemp"));
        put_some(&mut summary, "Exhaust", of("ExhaustTemp"));
        self.resource(
            path,
            "ThermalMetrics",
            "ThermalMetrics",
            "Thermal Metrics",
            json!({
                "TemperatureSummaryCelsius": summary, "TemperatureReadingsCelsius": all,
            }),
        )
    }

    fn fan(&self, path: &str, part: &BoardPart) -> Value {
        let mut body = self.resource(
            path,
            "Fan",
            &part.id,
            &part.name,
            json!({
                "Status": status(part), "PhysicalContext": "Fan", "HotPluggable": true, "Location": place(part, "Bay"),
            }),
        );
        put(&mut body, labels(part));
        if let Some(sensor) = self.sensors_of(part).find(|s| s.kind == SensorKind::Fan) {
            let rpm = self.board.reading(sensor, self.now, &self.host);
            let percent = rpm.map(|r| (r / sensor.range.1 * 100.0).round());
            let uri = format!("{}/Sensors/{}", self.dialect().chassis_path(), sensor.id);
            put(&mut body, json!({"SpeedPercent": {"DataSourceUri": uri, "Reading": percent, "SpeedRPM": rpm}}));
        }
        body
    }

    fn supply(&self, path: &str, part: &BoardPart) -> Value {
        let mut body = self.resource(
            path,
            "PowerSupply",
            &part.id,
            &part.name,
            json!({
                "Status": status(part), "HotPluggable": true, "Location": place(part, "Bay"),
            }),
        );
        if !part.is_there() {
            return body;
        }
        put(&mut body, labels(part));
        put(
            &mut body,
            json!({
                "PowerSupplyType": "AC", "PowerCapacityWatts": part.facts.capacity_watts, "FirmwareVersion": part.firmware,
                "LineInputStatus": part.facts.line_input, "InputNominalVoltageType": "AC200To240V",
                "Metrics": link(&format!("{path}/Metrics")), "LocationIndicatorActive": false,
            }),
        );
        body
    }

    fn supply_metrics(&self, path: &str, part: &BoardPart) -> Value {
        let mut body =
            self.resource(path, "PowerSupplyMetrics", "Metrics", &format!("{} Metrics", part.name), json!({"Status": status(part)}));
        for sensor in self.sensors_of(part) {
            let name = match sensor.kind {
                SensorKind::Voltage => "InputVoltage",
                SensorKind::Power => "InputPowerWatts",
                SensorKind::Temperature
                | SensorKind::Current
                | SensorKind::Energy
                | SensorKind::Fan
                | SensorKind::Humidity
                | SensorKind::Flow
                | SensorKind::Pressure
                | SensorKind::Share
                | SensorKind::Discrete
                | SensorKind::Other => continue,
            };
            put_some(&mut body, name, Some(self.excerpt(sensor)));
        }
        body
    }

    fn cards(&self) -> impl Iterator<Item = &BoardPart> {
        self.board.parts.iter().filter(|p| matches!(p.kind, PartKind::NetworkAdapter | PartKind::StorageController))
    }

    fn card(&self, path: &str, part: &BoardPart) -> Value {
        let mut body = self.resource(
            path,
            "PCIeDevice",
            &part.id,
            &part.name,
            json!({
                "Status": status(part), "DeviceType": "MultiFunction", "FirmwareVersion": part.firmware,
                "PCIeInterface": {"PCIeType": "Gen4", "MaxPCIeType": "Gen4", "LanesInUse": 8, "MaxLanes": 8},
                "Slot": {"SlotType": "FullLength", "PCIeType": "Gen4", "Lanes": 8, "Location": place(part, "Slot")},
                "Links": {"Chassis": [link(&self.dialect().chassis_path())]},
            }),
        );
        put(&mut body, labels(part));
        body
    }
}

pub(super) fn health_word(sensor: &BoardSensor) -> &'static str {
    match sensor.level.health() {
        Health::Ok => "OK",
        Health::Warning => "Warning",
        Health::Critical => "Critical",
    }
}
