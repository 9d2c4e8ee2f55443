//! Who may do what.

use serde::{Deserialize, Serialize};

use crate::domain::id::UserId;
use crate::domain::power::text_form;

/// From least to most: each role may do what the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Works on hardware: power, locator, accept.
    Tech,
    /// Deploys and releases machines, imports images and packing lists.
    Operator,
    /// Users, tokens, credentials.
    Admin,
}
text_form!(Role { Viewer = "viewer", Tech = "tech", Operator = "operator", Admin = "admin" });

/// The one who acts, as written to the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub user: UserId,
    pub name: String,
    pub role: Role,
    /// `session`, `token` or `local`: how the actor proved who it is.
    pub via: ActorVia,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorVia {
    Session,
    Token,
    Local,
}
text_form!(ActorVia { Session = "session", Token = "token", Local = "local" });
