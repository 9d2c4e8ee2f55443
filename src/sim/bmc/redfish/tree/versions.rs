//! Which versions of DMTF's schemas each generation speaks: modern as of bundle 2023.3, legacy as of 2018.3.

use crate::sim::bmc::board::dialect::Generation;

/// Schema, modern version, legacy version.
pub const VERSIONS: [(&str, &str, &str); 49] = [
    ("AccountService", "v1_15_0", "v1_3_1"),
    ("ActionInfo", "v1_4_0", "v1_1_0"),
    ("AttributeRegistry", "v1_3_7", "v1_3_0"),
    ("Bios", "v1_2_1", "v1_0_4"),
    ("BootOption", "v1_0_5", "v1_0_1"),
    ("Chassis", "v1_25_0", "v1_7_0"),
    ("ComputerSystem", "v1_22_0", "v1_5_1"),
    ("Drive", "v1_19_0", "v1_5_0"),
    ("EthernetInterface", "v1_11_0", "v1_4_1"),
    ("EventDestination", "v1_14_1", "v1_4_0"),
    ("EventService", "v1_10_2", "v1_2_0"),
    ("Fan", "v1_5_1", "v1_0_0"),
    ("LogEntry", "v1_16_1", "v1_4_0"),
    ("LogService", "v1_5_1", "v1_1_0"),
    ("Manager", "v1_19_1", "v1_4_0"),
    ("ManagerAccount", "v1_12_1", "v1_1_3"),
    ("ManagerNetworkProtocol", "v1_10_0", "v1_3_0"),
    ("Memory", "v1_19_0", "v1_6_0"),
    ("MemoryMetrics", "v1_7_2", "v1_1_3"),
    ("MessageRegistryFile", "v1_1_3", "v1_1_0"),
    ("MetricReport", "v1_5_1", "v1_1_0"),
    ("MetricReportDefinition", "v1_4_4", "v1_1_0"),
    ("NetworkAdapter", "v1_11_0", "v1_1_0"),
    ("NetworkDeviceFunction", "v1_9_2", "v1_3_0"),
    ("PCIeDevice", "v1_13_0", "v1_3_0"),
    ("Port", "v1_11_0", "v1_0_0"),
    ("Power", "v1_7_2", "v1_5_1"),
    ("PowerSubsystem", "v1_1_1", "v1_0_0"),
    ("PowerSupply", "v1_5_2", "v1_0_0"),
    ("PowerSupplyMetrics", "v1_1_1", "v1_0_0"),
    ("Processor", "v1_19_0", "v1_4_0"),
    ("Role", "v1_3_2", "v1_2_2"),
    ("SecureBoot", "v1_1_1", "v1_0_4"),
    ("Sensor", "v1_8_1", "v1_0_0"),
    ("ServiceRoot", "v1_16_1", "v1_3_1"),
    ("Session", "v1_7_1", "v1_1_1"),
    ("SessionService", "v1_1_9", "v1_1_5"),
    ("SimpleStorage", "v1_3_1", "v1_2_1"),
    ("SoftwareInventory", "v1_10_1", "v1_2_1"),
    ("Storage", "v1_16_0", "v1_5_0"),
    ("StorageController", "v1_8_0", "v1_0_0"),
    ("Task", "v1_7_3", "v1_4_0"),
    ("TaskService", "v1_2_0", "v1_1_2"),
    ("TelemetryService", "v1_3_3", "v1_1_0"),
    ("Thermal", "v1_7_2", "v1_5_0"),
    ("ThermalMetrics", "v1_3_0", "v1_0_0"),
    ("ThermalSubsystem", "v1_3_1", "v1_0_0"),
    ("UpdateService", "v1_14_0", "v1_4_1"),
    ("VirtualMedia", "v1_6_3", "v1_2_0"),
];

pub fn of(schema: &str, generation: Generation) -> &'static str {
    let row = VERSIONS.iter().find(|(name, ..)| *name == schema);
    match (row, generation) {
        (Some((_, modern, _)), Generation::Modern) => modern,
        (Some((_, _, legacy)), Generation::Legacy) => legacy,
        // The metadata test asks for every schema that the trees use.
        (None, Generation::Modern | Generation::Legacy) => "v1_0_0",
    }
}
