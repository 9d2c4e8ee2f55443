//! Users of the BMC (IPMI v2.0, 22.26 to 22.30), on the channel that we came in on.

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::{Repeat, SessionError};
use crate::domain::bmc_features::{Account, Found, Oddity};
use crate::domain::secret::Secret;
use crate::wire::ipmi::{self, completion};
use crate::wire::rmcp::{PASSWORD_BYTES, USER_BYTES};

/// "The channel this request came in on" (6.3).
const THIS_CHANNEL: u8 = 0x0e;
/// Passwords of IPMI 1.5 (22.30); longer ones need the 20-byte form.
const SHORT_PASSWORD: usize = 16;
const ADMINISTRATOR: u8 = 4;
const NO_ACCESS: u8 = 0x0f;
/// Operations of Set User Password.
const DISABLE: u8 = 0;
const ENABLE: u8 = 1;
const SET: u8 = 2;
const TEST: u8 = 3;

/// Get User Access (22.27).
struct UserAccess {
    /// Ids go from 1 to this.
    most: u8,
    /// Of this user; `None` where the BMC does not tell (bits 7:6 came with IPMI 2.0).
    enabled: Option<bool>,
    privilege: u8,
    /// Whether it may use IPMI messages at all.
    messaging: bool,
}

fn role(access: &UserAccess) -> String {
    let word = match access.privilege {
        1 => "callback",
        2 => "user",
        3 => "operator",
        ADMINISTRATOR => "administrator",
        5 => "OEM",
        NO_ACCESS => "no access",
        other => return format!("privilege {other}"),
    };
    if access.messaging || access.privilege == NO_ACCESS { word.to_owned() } else { format!("{word} without IPMI messaging") }
}

impl Ipmi {
    async fn user_access(&self, id: u8) -> Result<Option<UserAccess>, BmcError> {
        let (code, data) = self.raw(ipmi::GET_USER_ACCESS, &[THIS_CHANNEL, id], Repeat::Yes).await?;
        match (code, data.as_slice()) {
            (completion::OK, [most, enabled, _fixed, access, ..]) => Ok(Some(UserAccess {
                most: most & 0x3f,
                enabled: match enabled >> 6 {
                    0b01 => Some(true),
                    0b10 => Some(false),
                    _ => None,
                },
                privilege: access & 0x0f,
                messaging: access & 0x10 != 0,
            })),
            (completion::OK, _) => Err(self.nonsense("user access that ends early")),
            (code, _) if id == 1 => {
                self.judge(ipmi::GET_USER_ACCESS, code)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Empty names are `None`; BMCs also refuse to name free ids.
    async fn user_name(&self, id: u8) -> Result<Option<String>, BmcError> {
        let (code, data) = self.raw(ipmi::GET_USER_NAME, &[id], Repeat::Yes).await?;
        let name: Vec<u8> = data.into_iter().take_while(|b| *b != 0).collect();
        Ok(if code == completion::OK { ipmi::text(0b11, &name) } else { None })
    }

    async fn users(&self) -> Result<Vec<(u8, Option<String>, Option<UserAccess>)>, BmcError> {
        let most = self.user_access(1).await?.map_or(1, |a| a.most).max(1);
        let mut out = Vec::new();
        for id in 1..=most {
            out.push((id, self.user_name(id).await?, self.user_access(id).await?));
        }
        Ok(out)
    }

    pub(super) async fn list_accounts(&self) -> Result<Found<Account>, BmcError> {
        let mut found = Found::default();
        for (id, name, access) in self.users().await? {
            let source = format!("user:{id}");
            match access {
                // Id 1 is the nameless user, which counts where it is switched on; other ids without a name are free.
                Some(access) if name.is_some() || (id == 1 && access.enabled == Some(true)) => {
                    found.items.push(Account { source, name, role: Some(role(&access)), enabled: access.enabled, locked: None })
                }
                Some(_) => {}
                None if name.is_some() => found.unread.push(Oddity { source, what: "it has a name and no access settings".to_owned() }),
                None => {}
            }
        }
        Ok(found)
    }

    fn user_id(&self, account: &str) -> Result<u8, BmcError> {
        account
            .strip_prefix("user:")
            .and_then(|id| id.parse().ok())
            .filter(|id| (1..=63).contains(id))
            .ok_or_else(|| self.error(SessionError::Refused(format!("no account {account:?}: over IPMI they are user:1 to user:63"))))
    }

    /// Set User Password (22.30), then its own test: BMCs were seen to cut a password and say nothing.
    pub(super) async fn change_password(&self, account: &str, password: &Secret<String>) -> Result<(), BmcError> {
        let id = self.user_id(account)?;
        self.put_password(id, password).await
    }

    async fn put_password(&self, id: u8, password: &Secret<String>) -> Result<(), BmcError> {
        let bytes = password.expose().as_bytes();
        if bytes.is_empty() || bytes.len() > PASSWORD_BYTES || bytes.contains(&0) {
            return Err(self.error(SessionError::Refused(format!("IPMI passwords have 1 to {PASSWORD_BYTES} bytes, none of them zero"))));
        }
        // Bit 7 of the id: the 20-byte form.
        let (long, size) = if bytes.len() > SHORT_PASSWORD { (0x80, PASSWORD_BYTES) } else { (0, SHORT_PASSWORD) };
        let mut padded = bytes.to_vec();
        padded.resize(size, 0);
        let request = |operation: u8| [&[long | id, operation], padded.as_slice()].concat();
        self.write(ipmi::SET_USER_PASSWORD, &request(SET), Repeat::Yes).await?;
        let (code, _) = self.raw(ipmi::SET_USER_PASSWORD, &request(TEST), Repeat::Yes).await?;
        match code {
            completion::OK if long != 0 && self.passes_cut(id, bytes).await? => Err(BmcError::NotEffective {
                address: self.address.clone(),
                what: "a new password".to_owned(),
                evidence: format!("it kept the first {SHORT_PASSWORD} bytes only; set one of at most {SHORT_PASSWORD}"),
            }),
            completion::OK => Ok(()),
            // 80h: wrong password; 81h: stored in the other length.
            0x80 | 0x81 => Err(BmcError::NotEffective {
                address: self.address.clone(),
                what: "a new password".to_owned(),
                evidence: format!("its own test says that user {id} has another one"),
            }),
            // The test is optional in the field; the caller logs in with the new one.
            _ => Ok(()),
        }
    }

    /// Whether the first 16 bytes alone pass for a longer password: OpenIPMI's `ipmi_sim` 2.0.33 cuts it and tests it as right.
    async fn passes_cut(&self, id: u8, password: &[u8]) -> Result<bool, BmcError> {
        let cut = password.get(..SHORT_PASSWORD).unwrap_or_default();
        let (code, _) = self.raw(ipmi::SET_USER_PASSWORD, &[&[id, TEST], cut].concat(), Repeat::Yes).await?;
        Ok(code == completion::OK)
    }

    async fn put_state(&self, id: u8, enabled: bool) -> Result<(), BmcError> {
        self.write(ipmi::SET_USER_PASSWORD, &[id, if enabled { ENABLE } else { DISABLE }], Repeat::Yes).await
    }

    /// Set User Access (22.26): bit 7 of the first byte changes bits 6:4, of which 4 is IPMI messaging.
    async fn put_access(&self, id: u8, privilege: u8) -> Result<(), BmcError> {
        let messaging = if privilege == NO_ACCESS { 0x80 } else { 0x90 };
        self.write(ipmi::SET_USER_ACCESS, &[messaging | THIS_CHANNEL, id, privilege, 0], Repeat::Yes).await
    }

    pub(super) async fn make_account(&self, name: &str, password: &Secret<String>, enabled: bool) -> Result<Account, BmcError> {
        if name.is_empty() || name.len() > USER_BYTES || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.error(SessionError::Refused(format!("IPMI user names have 1 to {USER_BYTES} printable ASCII characters"))));
        }
        let users = self.users().await?;
        let there = users.iter().find(|(_, n, _)| n.as_deref() == Some(name)).map(|(id, _, _)| *id);
        let id = match there {
            Some(id) => id,
            // Id 1 is the nameless user.
            None => {
                let free = users.iter().find(|(id, n, access)| *id > 1 && n.is_none() && access.is_some()).map(|(id, _, _)| *id);
                let id = free.ok_or_else(|| self.error(SessionError::Refused("it has no free user id left".to_owned())))?;
                let mut padded = name.as_bytes().to_vec();
                padded.resize(USER_BYTES, 0);
                self.write(ipmi::SET_USER_NAME, &[&[id], padded.as_slice()].concat(), Repeat::Yes).await?;
                id
            }
        };
        self.put_password(id, password).await?;
        self.put_access(id, ADMINISTRATOR).await?;
        self.put_state(id, enabled).await?;
        let access = self.user_access(id).await?.ok_or_else(|| self.nonsense("no access settings of a user it just took"))?;
        if self.user_name(id).await?.as_deref() != Some(name) || access.privilege != ADMINISTRATOR || access.enabled == Some(!enabled) {
            return Err(BmcError::NotEffective {
                address: self.address.clone(),
                what: format!("account {name}"),
                evidence: format!("user {id} reads back as {}, enabled {:?}", role(&access), access.enabled),
            });
        }
        Ok(Account {
            source: format!("user:{id}"),
            name: Some(name.to_owned()),
            role: Some(role(&access)),
            enabled: access.enabled,
            locked: None,
        })
    }

    /// Shuts the user out first, then frees its name; BMCs that keep the name keep a user who may nothing.
    pub(super) async fn remove_account(&self, account: &str) -> Result<(), BmcError> {
        let id = self.user_id(account)?;
        if self.user_name(id).await?.is_none() {
            return Ok(());
        }
        self.put_state(id, false).await?;
        self.put_access(id, NO_ACCESS).await?;
        let empty = [[id].as_slice(), &[0; USER_BYTES]].concat();
        self.pace.before_write().await;
        let (code, _) = self.raw(ipmi::SET_USER_NAME, &empty, Repeat::Yes).await?;
        if code != completion::OK {
            tracing::debug!(address = %self.address, id, code, "The BMC keeps the name of a removed user, who has no access any more");
        }
        Ok(())
    }
}
