//! Whether a BMC is that of the machine whose record names it. A wrong address switches off a stranger's machine.

use crate::domain::bmc::{BmcIdentity, BmcProtocol};
use crate::domain::id::{Serial, SystemUuid};
use crate::domain::machine::Machine;

/// Compares what a BMC says of its machine with the record; `Err` completes "the BMC at ADDRESS …".
///
/// Serials decide where both are known. Else the system UUID does, of Redfish only (`ComputerSystem.UUID` is the SMBIOS UUID,
/// DSP0268): IPMI's Get System GUID is the BMC's own on many boards (IPMI v2.0, 20.8). The UUID is compared in both byte
/// orders, which SMBIOS before 2.6 left open. A BMC that offers nothing to compare is believed.
///
/// # Errors
/// What differs.
pub fn fits(identity: &BmcIdentity, machine: &Machine) -> Result<(), String> {
    let theirs = identity.serial.as_ref().and_then(|s| s.parse::<Serial>().ok());
    if let (Some(theirs), Some(ours)) = (&theirs, &machine.serial) {
        return if theirs.as_str().eq_ignore_ascii_case(ours.as_str()) {
            Ok(())
        } else {
            Err(format!("says it belongs to the machine with serial {theirs}, not to {} with serial {ours}", machine.name))
        };
    }
    let theirs = identity.uuid.as_ref().and_then(|u| u.trim().parse::<SystemUuid>().ok()).filter(|u| u.is_usable());
    if let (Some(theirs), Some(ours), Some(BmcProtocol::Redfish)) = (theirs, machine.uuid, identity.protocol)
        && theirs != ours
        && SystemUuid::from_smbios_bytes(theirs.0.into_bytes()) != ours
    {
        return Err(format!("says it belongs to the machine with system UUID {theirs}, not to {} with {ours}", machine.name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::discovery::tests::machine;

    const U: u128 = 0x1122_3344_5566_4788_9900_5254_0077_0001;

    fn identity(protocol: BmcProtocol, serial: Option<&str>, uuid: Option<&str>) -> BmcIdentity {
        BmcIdentity { protocol: Some(protocol), serial: serial.map(Into::into), uuid: uuid.map(Into::into), ..BmcIdentity::default() }
    }

    #[test]
    fn a_bmc_with_another_serial_or_uuid_belongs_to_another_machine() {
        let m = machine(1, Some("LAB0001"), Some(U), &[]);
        let redfish = |serial, uuid| fits(&identity(BmcProtocol::Redfish, serial, uuid), &m);
        assert!(redfish(Some("LAB0002"), None).unwrap_err().contains("LAB0002"));
        assert!(redfish(None, Some("11223344-5566-4788-9900-525400770002")).is_err());
        assert!(redfish(Some("To Be Filled By O.E.M."), Some("11223344-5566-4788-9900-525400770002")).is_err());
        assert_eq!(redfish(Some(" lab0001 "), None), Ok(()));
        // The serial decides: some BMCs keep the UUID of a replaced board.
        assert_eq!(redfish(Some("LAB0001"), Some("11223344-5566-4788-9900-525400770002")), Ok(()));
        assert_eq!(redfish(None, Some("11223344-5566-4788-9900-525400770001")), Ok(()));
        assert_eq!(redfish(None, Some("44332211-6655-8847-9900-525400770001")), Ok(()), "the other byte order");
    }

    #[test]
    fn the_guid_of_an_ipmi_bmc_is_its_own_and_nothing_to_compare_refuses_nothing() {
        let m = machine(1, Some("LAB0001"), Some(U), &[]);
        assert_eq!(fits(&identity(BmcProtocol::Ipmi, None, Some("11223344-5566-4788-9900-525400770002")), &m), Ok(()));
        assert!(fits(&identity(BmcProtocol::Ipmi, Some("LAB0002"), None), &m).is_err());
        assert_eq!(fits(&BmcIdentity::default(), &m), Ok(()));
        assert_eq!(fits(&identity(BmcProtocol::Redfish, Some("X1"), None), &machine(1, None, None, &[])), Ok(()));
    }
}
