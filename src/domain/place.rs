//! Where a machine stands.

use serde::{Deserialize, Serialize};

/// Rack name as people write it on the door: 1 to 64 printable characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RackName(String);

impl RackName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not a rack name: {0:?}; use 1 to 64 printable characters")]
pub struct BadRackName(String);

impl std::str::FromStr for RackName {
    type Err = BadRackName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let t = s.trim();
        if t.is_empty() || t.chars().count() > 64 || t.chars().any(char::is_control) {
            return Err(BadRackName(s.chars().take(80).collect()));
        }
        Ok(Self(t.to_owned()))
    }
}

impl TryFrom<String> for RackName {
    type Error = BadRackName;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<RackName> for String {
    fn from(s: RackName) -> Self {
        s.0
    }
}

/// Rack and lowest U position (1 is the bottom; EIA-310 racks have up to 60 U in the field).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub rack: RackName,
    pub u: Option<u8>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.u {
            Some(u) => write!(f, "{}/U{u:02}", self.rack.as_str()),
            None => f.write_str(self.rack.as_str()),
        }
    }
}
