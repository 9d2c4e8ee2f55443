//! Account service, accounts and roles over Redfish.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::sim::bmc::accounts::{ACCOUNTS_CAP, Account, Role};
use crate::sim::bmc::redfish::Inner;
use crate::sim::bmc::redfish::reply::{self, Message, complaints};
use crate::sim::bmc::redfish::tree::{self, READ, READ_PATCH_DELETE, READ_POST, Resource, View};
use crate::sim::bmc::redfish::write::Patch;

pub const ACCOUNTS: &str = "/redfish/v1/AccountService/Accounts";
const ROLES: &str = "/redfish/v1/AccountService/Roles";
const PASSWORD_LENGTHS: std::ops::RangeInclusive<usize> = 1..=40;
const NAME_CAP: usize = 32;

fn body(view: &View<'_>, account: &Account) -> Value {
    let id = account.id.to_string();
    let mut body = view.resource(&format!("{ACCOUNTS}/{id}"), "ManagerAccount", &id, "User Account", json!({
        "UserName": account.name, "Password": null, "RoleId": account.role.to_string(), "Enabled": account.enabled, "Locked": account.locked,
        "Links": {"Role": tree::link(&format!("{ROLES}/{}", account.role))},
    }));
    if view.board.dialect.is_modern() {
        tree::put(&mut body, json!({"PasswordChangeRequired": account.must_change, "AccountTypes": ["Redfish"]}));
    }
    // A new password changes nothing that is shown, and is a change all the same.
    let etag = format!("W/\"{}-{}\"", reply::etag(&body).trim_matches(|c: char| "W/\"".contains(c)), account.revision);
    tree::put(&mut body, json!({"@odata.etag": etag}));
    body
}

impl Inner {
    pub fn account_part(&self, view: &View<'_>, path: &str) -> Option<Resource> {
        let rest = path.strip_prefix("/redfish/v1/AccountService")?;
        let body = match rest {
            "" => {
                let mut body = view.resource(path, "AccountService", "AccountService", "Account Service", json!({
                    "ServiceEnabled": true, "Status": {"State": "Enabled", "Health": "OK"},
                    "MinPasswordLength": 8, "MaxPasswordLength": PASSWORD_LENGTHS.end(), "AccountLockoutThreshold": self.shared.setup.lock_after,
                    "Accounts": tree::link(ACCOUNTS), "Roles": tree::link(ROLES),
                }));
                if view.board.dialect.is_modern() {
                    tree::put(&mut body, json!({"HTTPBasicAuth": "Enabled", "SupportedAccountTypes": ["Redfish"]}));
                }
                body
            }
            "/Accounts" => {
                let members = self.shared.accounts().list.iter().map(|a| format!("{ACCOUNTS}/{}", a.id)).collect();
                return Some(Resource { body: tree::collection(path, "ManagerAccount", members), allow: READ_POST });
            }
            "/Roles" => tree::collection(path, "Role", Role::ALL.iter().map(|r| format!("{ROLES}/{r}")).collect()),
            _ => match rest.strip_prefix("/Roles/") {
                Some(id) => {
                    let role: Role = id.parse().ok()?;
                    let privileges: Vec<String> = role.privileges().iter().map(ToString::to_string).collect();
                    view.resource(
                        path,
                        "Role",
                        id,
                        &format!("{role} Role"),
                        json!({"RoleId": id, "IsPredefined": true, "AssignedPrivileges": privileges}),
                    )
                }
                None => {
                    let account = self.shared.accounts().find(rest.strip_prefix("/Accounts/")?)?.clone();
                    return Some(Resource { body: self::body(view, &account), allow: READ_PATCH_DELETE });
                }
            },
        };
        Some(Resource { body, allow: READ })
    }

    /// POST to the collection.
    pub fn add_account(&self, json: Value) -> Response {
        let mut patch = Patch::new(json);
        let (name, password) = (patch.text("UserName"), patch.text("Password"));
        let role = patch.text("RoleId").unwrap_or_else(|| Role::ReadOnly.to_string());
        let enabled = patch.switch("Enabled").unwrap_or(true);
        patch.text("Description");
        patch.text("Name");
        patch.value("AccountTypes");
        let mut wrong = patch.rest();
        let (Some(name), Some(password)) = (name, password) else {
            let missing = Message::missing(if wrong.is_empty() { "UserName" } else { "Password" });
            return complaints(StatusCode::BAD_REQUEST, &[missing]);
        };
        let role = role.parse::<Role>();
        if role.is_err() {
            wrong.push(Message::not_in_list("", "RoleId"));
        }
        wrong.extend(bad_name(&name));
        wrong.extend(bad_password(&password));
        let (Ok(role), true) = (role, wrong.is_empty()) else { return complaints(StatusCode::BAD_REQUEST, &wrong) };
        let mut accounts = self.shared.accounts();
        if accounts.named(&name).is_some() {
            let text =
                format!("The requested resource of type ManagerAccount with the property UserName with the value '{name}' already exists.");
            return reply::complain(StatusCode::BAD_REQUEST, "ResourceAlreadyExists", &text);
        }
        if accounts.list.len() >= ACCOUNTS_CAP {
            let text = "The create operation failed because the resource has reached the limit of possible resources.";
            return reply::complain(StatusCode::BAD_REQUEST, "CreateLimitReachedForResource", text);
        }
        let id = accounts.add(&name, &password, role, enabled);
        drop(accounts);
        let path = format!("{ACCOUNTS}/{id}");
        let body = self.with_view(|view| self.account_part(view, &path).map(|r| r.body)).unwrap_or_default();
        let mut response = reply::json_reply(StatusCode::CREATED, &body);
        reply::set(&mut response, "location", &path);
        response
    }

    /// PATCH of one account: all of it or nothing.
    pub fn patch_account(&self, id: &str, mut patch: Patch) -> Response {
        let (name, password, role) = (patch.text("UserName"), patch.text("Password"), patch.text("RoleId"));
        let (enabled, locked, must_change) = (patch.switch("Enabled"), patch.switch("Locked"), patch.switch("PasswordChangeRequired"));
        let mut wrong = patch.rest();
        let role = role.map(|text| text.parse::<Role>().map_err(|_| Message::not_in_list(&text, "RoleId")));
        let role = match role {
            Some(Err(message)) => {
                wrong.push(message);
                None
            }
            Some(Ok(role)) => Some(role),
            None => None,
        };
        wrong.extend(name.as_deref().and_then(bad_name));
        wrong.extend(password.as_deref().and_then(bad_password));
        if locked == Some(true) {
            // An account is locked by refused logins only (ManagerAccount.Locked, long description).
            wrong.push(Message::bad_value("true", "Locked"));
        }
        if !wrong.is_empty() {
            return complaints(StatusCode::BAD_REQUEST, &wrong);
        }
        let mut accounts = self.shared.accounts();
        let Some(account) = accounts.find(id) else { return reply::not_found(&format!("{ACCOUNTS}/{id}")) };
        if let Some(name) = name {
            account.name = name;
        }
        if let Some(password) = password {
            account.password = password;
            account.must_change = false;
        }
        account.role = role.unwrap_or(account.role);
        account.enabled = enabled.unwrap_or(account.enabled);
        account.must_change = must_change.unwrap_or(account.must_change);
        if locked == Some(false) {
            account.locked = false;
            account.refused = 0;
        }
        account.revision += 1;
        let (id, enabled) = (account.id, account.enabled);
        drop(accounts);
        if !enabled {
            self.sessions().close_of(id);
        }
        self.read(&format!("{ACCOUNTS}/{id}"), "", &axum::http::HeaderMap::new())
    }

    pub fn delete_account(&self, id: &str, own: u32) -> Response {
        let mut accounts = self.shared.accounts();
        let Some(account) = accounts.find(id).cloned() else { return reply::not_found(&format!("{ACCOUNTS}/{id}")) };
        if account.id == own {
            return reply::complain(StatusCode::FORBIDDEN, "ResourceCannotBeDeleted", "The account that is logged in cannot be deleted.");
        }
        accounts.list.retain(|a| a.id != account.id);
        drop(accounts);
        self.sessions().close_of(account.id);
        reply::no_content()
    }
}

fn bad_name(name: &str) -> Option<Message> {
    let good = !name.is_empty() && name.len() <= NAME_CAP && name.chars().all(|c| c.is_ascii_graphic() && c != ':');
    (!good).then(|| Message::bad_value(name, "UserName"))
}

fn bad_password(password: &str) -> Option<Message> {
    (!PASSWORD_LENGTHS.contains(&password.len())).then(|| Message::bad_value("******", "Password"))
}
