//! How a maker arranges its BMC: ids, logs, and which generation of the Redfish schemas it speaks.

/// What a Redfish tree of that age looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Sensors, ThermalSubsystem, PowerSubsystem, Storage/Controllers, NetworkAdapters/Ports, server-sent events.
    Modern,
    /// Thermal, Power, SimpleStorage, Storage with a StorageControllers array; events by subscription only.
    Legacy,
}

/// Whose collection a log hangs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    System,
    Manager,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub generation: Generation,
    pub system: &'static str,
    pub manager: &'static str,
    pub chassis: &'static str,
    /// The log of the machine's hardware: the SEL.
    pub host_log: (Home, &'static str),
    /// The log of what the BMC itself does.
    pub bmc_log: (Home, &'static str),
    pub redfish: &'static str,
    pub manager_model: &'static str,
    /// Redfish `SerialNumber` is the board's; what SMBIOS tells is the `SKU` (seen: PowerEdge R750, iDRAC 9 6.00.30.00).
    pub serial_is_sku: bool,
}

/// Log paths as in check_redfish's vendor table.
const DELL: Dialect = Dialect {
    generation: Generation::Modern,
    system: "System.Embedded.1",
    manager: "iDRAC.Embedded.1",
    chassis: "System.Embedded.1",
    host_log: (Home::Manager, "Sel"),
    bmc_log: (Home::Manager, "Lclog"),
    redfish: "1.17.0",
    manager_model: "15G Monolithic",
    serial_is_sku: true,
};
const HPE: Dialect = Dialect {
    generation: Generation::Modern,
    system: "1",
    manager: "1",
    chassis: "1",
    host_log: (Home::System, "IML"),
    bmc_log: (Home::Manager, "IEL"),
    redfish: "1.17.0",
    manager_model: "iLO 5",
    serial_is_sku: false,
};
const LENOVO: Dialect = Dialect {
    host_log: (Home::System, "PlatformLog"),
    bmc_log: (Home::System, "AuditLog"),
    manager_model: "Lenovo XClarity Controller",
    ..HPE
};
const SUPERMICRO: Dialect = Dialect {
    generation: Generation::Legacy,
    host_log: (Home::System, "Log1"),
    bmc_log: (Home::Manager, "Log1"),
    redfish: "1.8.0",
    manager_model: "ASPEED",
    ..HPE
};
const OTHER: Dialect = Dialect { host_log: (Home::System, "EventLog"), bmc_log: (Home::Manager, "Journal"), manager_model: "BMC", ..HPE };

impl Dialect {
    pub fn of(manufacturer: &str) -> Self {
        match manufacturer {
            "Dell Inc." => DELL,
            "HPE" => HPE,
            "Lenovo" => LENOVO,
            "Supermicro" => SUPERMICRO,
            _ => OTHER,
        }
    }

    pub fn system_path(&self) -> String {
        format!("/redfish/v1/Systems/{}", self.system)
    }

    pub fn manager_path(&self) -> String {
        format!("/redfish/v1/Managers/{}", self.manager)
    }

    pub fn chassis_path(&self) -> String {
        format!("/redfish/v1/Chassis/{}", self.chassis)
    }

    pub fn log_path(&self, log: (Home, &str)) -> String {
        let home = match log.0 {
            Home::System => self.system_path(),
            Home::Manager => self.manager_path(),
        };
        format!("{home}/LogServices/{}", log.1)
    }

    pub fn is_modern(&self) -> bool {
        self.generation == Generation::Modern
    }
}
