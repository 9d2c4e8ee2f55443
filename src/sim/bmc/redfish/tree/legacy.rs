//! Thermal and Power, where old trees have all their sensors.

use serde_json::{Value, json};

use crate::domain::part::PartKind;
use crate::domain::sensor::SensorKind;
use crate::sim::bmc::board::sensors::BoardSensor;
use crate::sim::bmc::redfish::tree::{View, labels, link, put, put_some, status};

impl View<'_> {
    fn kind(&self, kind: SensorKind) -> impl Iterator<Item = &BoardSensor> {
        self.board.sensors.iter().filter(move |s| s.kind == kind)
    }

    /// Thresholds by their old names.
    fn old_thresholds(sensor: &BoardSensor, body: &mut Value) {
        let t = &sensor.thresholds;
        put_some(body, "LowerThresholdNonCritical", t.lower_caution);
        put_some(body, "LowerThresholdCritical", t.lower_critical);
        put_some(body, "UpperThresholdNonCritical", t.upper_caution);
        put_some(body, "UpperThresholdCritical", t.upper_critical);
    }

    pub(super) fn legacy_thermal(&self, path: &str) -> Value {
        let temperatures: Vec<Value> = self
            .kind(SensorKind::Temperature)
            .enumerate()
            .map(|(n, sensor)| {
                let reading = self.board.reading(sensor, self.now, &self.host);
                let mut one = json!({
                    "@odata.id": format!("{path}#/Temperatures/{n}"), "MemberId": n.to_string(), "Name": sensor.name, "SensorNumber": sensor.number,
                    "Status": self.sensor_status(sensor, reading), "ReadingCelsius": reading, "PhysicalContext": sensor.context,
                    "MinReadingRangeTemp": sensor.range.0, "MaxReadingRangeTemp": sensor.range.1,
                });
                Self::old_thresholds(sensor, &mut one);
                one
            })
            .collect();
        let fans: Vec<Value> = self
            .board
            .of_kind(PartKind::Fan)
            .enumerate()
            .map(|(n, part)| {
                let mut one = json!({
                    "@odata.id": format!("{path}#/Fans/{n}"), "MemberId": n.to_string(), "Name": part.name, "Status": status(part),
                    "PhysicalContext": "SystemBoard", "ReadingUnits": "RPM", "Reading": null,
                });
                put(&mut one, labels(part));
                if let Some(sensor) = self.board.sensors.iter().find(|s| s.part.as_deref() == Some(part.id.as_str())) {
                    let reading = self.board.reading(sensor, self.now, &self.host);
                    put(
                        &mut one,
                        json!({"Reading": reading.map(|r| r as i64), "MinReadingRange": 0, "MaxReadingRange": sensor.range.1 as i64}),
                    );
                    let t = &sensor.thresholds;
                    put_some(&mut one, "LowerThresholdNonCritical", t.lower_caution.map(|v| v as i64));
                    put_some(&mut one, "LowerThresholdCritical", t.lower_critical.map(|v| v as i64));
                }
                // Two parts of the schema disagree on a name for it: a fan has no Model of its own in all of them.
                one
            })
            .collect();
        self.resource(
            path,
            "Thermal",
            "Thermal",
            "Thermal",
            json!({
                "Temperatures@odata.count": temperatures.len(), "Temperatures": temperatures, "Fans@odata.count": fans.len(), "Fans": fans,
                "Redundancy": [self.old_redundancy(path, 0, PartKind::Fan, 5, &format!("{path}#/Fans"))],
            }),
        )
    }

    pub(super) fn legacy_power(&self, path: &str) -> Value {
        let voltages: Vec<Value> = self
            .kind(SensorKind::Voltage)
            .enumerate()
            .map(|(n, sensor)| {
                let reading = self.board.reading(sensor, self.now, &self.host);
                let mut one = json!({
                    "@odata.id": format!("{path}#/Voltages/{n}"), "MemberId": n.to_string(), "Name": sensor.name, "SensorNumber": sensor.number,
                    "Status": self.sensor_status(sensor, reading), "ReadingVolts": reading, "PhysicalContext": sensor.context,
                    "MinReadingRange": sensor.range.0, "MaxReadingRange": sensor.range.1,
                });
                Self::old_thresholds(sensor, &mut one);
                one
            })
            .collect();
        let supplies: Vec<Value> = self
            .board
            .of_kind(PartKind::PowerSupply)
            .enumerate()
            .map(|(n, part)| {
                let mut one = json!({
                    "@odata.id": format!("{path}#/PowerSupplies/{n}"), "MemberId": n.to_string(), "Name": part.name, "Status": status(part),
                });
                if !part.is_there() {
                    return one;
                }
                let read = |kind| {
                    let own = |s: &&BoardSensor| s.kind == kind && s.part.as_deref() == Some(part.id.as_str());
                    self.board.sensors.iter().find(own).and_then(|s| self.board.reading(s, self.now, &self.host))
                };
                put(&mut one, labels(part));
                put(&mut one, json!({
                    "PowerSupplyType": "AC", "PowerCapacityWatts": part.facts.capacity_watts, "FirmwareVersion": part.firmware,
                    "LineInputVoltageType": "AC240V", "LineInputVoltage": read(SensorKind::Voltage), "LastPowerOutputWatts": read(SensorKind::Power),
                }));
                one
            })
            .collect();
        let watts = self.board.sensors.iter().find(|s| s.id == "TotalPower").and_then(|s| self.board.reading(s, self.now, &self.host));
        self.resource(path, "Power", "Power", "Power", json!({
            "PowerControl@odata.count": 1,
            "PowerControl": [{
                "@odata.id": format!("{path}#/PowerControl/0"), "MemberId": "0", "Name": "System Power Control",
                "PowerConsumedWatts": watts, "PowerCapacityWatts": 1600, "PhysicalContext": "Chassis",
                "RelatedItem": [link(&self.dialect().system_path())],
                "PowerMetrics": {"IntervalInMin": 1, "MinConsumedWatts": watts, "AverageConsumedWatts": watts, "MaxConsumedWatts": watts},
            }],
            "Voltages@odata.count": voltages.len(), "Voltages": voltages,
            "PowerSupplies@odata.count": supplies.len(), "PowerSupplies": supplies,
            "Redundancy": [self.old_redundancy(path, 0, PartKind::PowerSupply, 1, &format!("{path}#/PowerSupplies"))],
        }))
    }

    fn old_redundancy(&self, path: &str, n: usize, kind: PartKind, least: usize, set: &str) -> Value {
        let working = self.board.of_kind(kind).filter(|p| p.health() == Some("OK")).count();
        let all = self.board.of_kind(kind).count();
        let members: Vec<Value> = (0..all).map(|n| link(&format!("{set}/{n}"))).collect();
        json!({
            "@odata.id": format!("{path}#/Redundancy/{n}"), "MemberId": n.to_string(), "Name": "Redundancy", "Mode": "N+m",
            "MinNumNeeded": least, "MaxNumSupported": all, "RedundancySet": members,
            "Status": {"State": "Enabled", "Health": if working > least { "OK" } else { "Warning" }},
        })
    }
}
