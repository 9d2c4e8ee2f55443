//! The BMC's accounts.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::layout::link;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::domain::bmc_features::{Account, Found};
use crate::domain::secret::Secret;

const ADMINISTRATOR: &str = "Administrator";

impl Redfish {
    /// The accounts collection: its path and its members.
    async fn account_resources(&self, walk: &mut Walk<'_>) -> Result<(String, Vec<Resource>), BmcError> {
        let root = walk.root().await?;
        let service = walk.follow(&root.body, "AccountService").await?;
        let Some(service) = service else { return Err(self.http().unsupported("a list of accounts (no AccountService)")) };
        let accounts = link(&service.body, "Accounts").ok_or_else(|| self.http().unsupported("a list of accounts"))?;
        let members = walk.members(&accounts).await?;
        Ok((accounts, members))
    }

    pub(super) async fn read_accounts(&self) -> Result<Found<Account>, BmcError> {
        let mut walk = Walk::new(self.http());
        let (_, members) = self.account_resources(&mut walk).await?;
        let items = members.iter().map(|m| account(&mut walk.reader(m))).collect();
        Ok(walk.found(items))
    }

    pub(super) async fn set_password(&self, account: &str, password: &Secret<String>) -> Result<(), BmcError> {
        let etag = self.http().get(account).await?.etag();
        let reply = self.patch(account, &json!({"Password": password.expose()}), etag).await?;
        if reply.status.is_success() { Ok(()) } else { Err(self.http().failed(account, &reply)) }
    }

    pub(super) async fn make_account(&self, name: &str, password: &Secret<String>, enabled: bool) -> Result<Account, BmcError> {
        let mut walk = Walk::new(self.http());
        let (collection, members) = self.account_resources(&mut walk).await?;
        let named = |m: &&Resource| m.body.get("UserName").and_then(Value::as_str) == Some(name);
        let body = json!({"UserName": name, "Password": password.expose(), "RoleId": ADMINISTRATOR, "Enabled": enabled});
        if let Some(there) = members.iter().find(named) {
            let change = json!({"Password": password.expose(), "RoleId": ADMINISTRATOR, "Enabled": enabled});
            return self.write_account(&there.path, &change, name).await;
        }
        let reply = self.http().send(Method::POST, &collection, &body, None).await?;
        if reply.status.is_success() {
            let location = reply.headers.get(reqwest::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
            let made = location.or_else(|| reply.body.get("@odata.id").and_then(Value::as_str).map(str::to_owned));
            return self.read_back(made.as_deref(), name).await;
        }
        // A fixed set of slots (iDRAC: 16) is not added to: an empty one is filled.
        let is_slots = matches!(reply.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::NOT_FOUND)
            || reply.complaint().has(&["CreateLimitReachedForResource", "OperationNotAllowed", "ActionNotSupported"]);
        let empty = members.iter().find(|m| is_empty_slot(&m.body)).filter(|_| is_slots);
        match empty {
            Some(slot) => self.write_account(&slot.path, &body, name).await,
            None => Err(self.http().failed(&collection, &reply)),
        }
    }

    async fn write_account(&self, path: &str, body: &Value, name: &str) -> Result<Account, BmcError> {
        let etag = self.http().get(path).await?.etag();
        let reply = self.patch(path, body, etag).await?;
        if !reply.status.is_success() {
            return Err(self.http().failed(path, &reply));
        }
        self.read_back(Some(path), name).await
    }

    /// The account as the BMC shows it now.
    async fn read_back(&self, path: Option<&str>, name: &str) -> Result<Account, BmcError> {
        let mut walk = Walk::new(self.http());
        let shown = match path {
            Some(path) => walk.get(path).await?.map(|r| account(&mut walk.reader(&r))),
            None => {
                let (_, members) = self.account_resources(&mut walk).await?;
                members.iter().map(|m| account(&mut walk.reader(m))).find(|a| a.name.as_deref() == Some(name))
            }
        };
        shown.filter(|a| a.name.as_deref() == Some(name)).ok_or_else(|| BmcError::NotEffective {
            address: self.http().address().to_owned(),
            what: format!("the account {name}"),
            evidence: "it is not among its accounts".into(),
        })
    }

    pub(super) async fn remove_account(&self, account: &str) -> Result<(), BmcError> {
        let reply = self.http().send_empty(Method::DELETE, account).await?;
        match reply.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(()),
            status if status.is_success() => Ok(()),
            // A fixed slot is emptied: disabled first, or the BMC would keep a nameless enabled account.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                for body in [json!({"Enabled": false}), json!({"UserName": ""})] {
                    let etag = self.http().get(account).await?.etag();
                    let reply = self.patch(account, &body, etag).await?;
                    if !reply.status.is_success() {
                        return Err(self.http().failed(account, &reply));
                    }
                }
                Ok(())
            }
            _ => Err(self.http().failed(account, &reply)),
        }
    }
}

/// A slot without a user. Slot 1 of an iDRAC cannot be used (and slot 2 is root's): it is skipped by its id.
fn is_empty_slot(body: &Value) -> bool {
    let is_free = body.get("UserName").and_then(Value::as_str) == Some("") && body.get("Enabled") != Some(&Value::Bool(true));
    is_free && body.get("Id").and_then(Value::as_str) != Some("1")
}

fn account(r: &mut Reader) -> Account {
    Account {
        source: r.source.to_owned(),
        name: r.text("UserName"),
        role: r.text("RoleId"),
        enabled: r.flag("Enabled"),
        locked: r.flag("Locked"),
    }
}
