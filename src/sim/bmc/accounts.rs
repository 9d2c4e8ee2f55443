//! Accounts of a simulated BMC and their passwords.

use crate::domain::power::text_form;

/// The standard roles (DSP0266, section 13.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Administrator,
    Operator,
    ReadOnly,
}
text_form!(Role { Administrator = "Administrator", Operator = "Operator", ReadOnly = "ReadOnly" });

impl Role {
    pub const ALL: [Self; 3] = [Self::Administrator, Self::Operator, Self::ReadOnly];

    pub fn privileges(self) -> &'static [Privilege] {
        use Privilege::{ConfigureComponents, ConfigureManager, ConfigureSelf, ConfigureUsers, Login};
        match self {
            Self::Administrator => &[Login, ConfigureManager, ConfigureUsers, ConfigureComponents, ConfigureSelf],
            Self::Operator => &[Login, ConfigureComponents, ConfigureSelf],
            Self::ReadOnly => &[Login, ConfigureSelf],
        }
    }

    pub fn may(self, privilege: Privilege) -> bool {
        self.privileges().contains(&privilege)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    Login,
    ConfigureManager,
    ConfigureUsers,
    ConfigureComponents,
    ConfigureSelf,
}
text_form!(Privilege {
    Login = "Login",
    ConfigureManager = "ConfigureManager",
    ConfigureUsers = "ConfigureUsers",
    ConfigureComponents = "ConfigureComponents",
    ConfigureSelf = "ConfigureSelf",
});

#[derive(Clone, Debug)]
pub struct Account {
    pub id: u32,
    pub name: String,
    pub password: String,
    pub role: Role,
    pub enabled: bool,
    pub locked: bool,
    /// In a row.
    pub refused: u32,
    pub must_change: bool,
    /// Raised by every change, a new password included.
    pub revision: u32,
}

/// Slots of a small BMC.
pub const ACCOUNTS_CAP: usize = 16;

#[derive(Debug)]
pub struct Accounts {
    pub list: Vec<Account>,
    last_id: u32,
    lock_after: u32,
}

impl Accounts {
    /// One administrator.
    pub fn new(name: &str, password: &str, lock_after: u32) -> Self {
        let mut accounts = Self { list: Vec::new(), last_id: 1, lock_after };
        accounts.add(name, password, Role::Administrator, true);
        accounts
    }

    /// The new account's id. The caller checked that there is room and that the name is free.
    pub fn add(&mut self, name: &str, password: &str, role: Role, enabled: bool) -> u32 {
        self.last_id += 1;
        self.list.push(Account { id: self.last_id, password: password.to_owned(), enabled, ..Account::named(name, role) });
        self.last_id
    }

    /// Names an id, as IPMI does: an empty name frees it, one at a free id makes an account that is switched off.
    pub fn name(&mut self, id: u32, name: &str) {
        if name.is_empty() {
            self.list.retain(|a| a.id != id);
            return;
        }
        match self.list.iter_mut().find(|a| a.id == id) {
            Some(account) => account.name = name.to_owned(),
            None => {
                self.last_id = self.last_id.max(id);
                self.list.push(Account { id, enabled: false, ..Account::named(name, Role::ReadOnly) });
            }
        }
    }

    pub fn named(&self, name: &str) -> Option<&Account> {
        self.list.iter().find(|a| a.name == name)
    }

    pub fn find(&mut self, id: &str) -> Option<&mut Account> {
        let id: u32 = id.parse().ok()?;
        self.list.iter_mut().find(|a| a.id == id)
    }

    /// Whether a login is accepted; counts towards the account's lock.
    pub fn log_in(&mut self, name: &str, password: &str) -> Option<Account> {
        let lock_after = self.lock_after;
        let account = self.list.iter_mut().find(|a| a.name == name)?;
        if account.enabled && !account.locked && account.password == password {
            account.refused = 0;
            return Some(account.clone());
        }
        account.count_refusal(lock_after);
        None
    }

    /// A login by another protocol was refused.
    pub fn refuse(&mut self, name: &str) {
        let lock_after = self.lock_after;
        if let Some(account) = self.list.iter_mut().find(|a| a.name == name) {
            account.count_refusal(lock_after);
        }
    }

    /// A login by another protocol was accepted.
    pub fn accept(&mut self, name: &str) {
        if let Some(account) = self.list.iter_mut().find(|a| a.name == name) {
            account.refused = 0;
        }
    }

    pub fn unlock_all(&mut self) {
        for account in &mut self.list {
            account.refused = 0;
            account.locked = false;
        }
    }
}

impl Account {
    /// An account that stands alone.
    pub fn named(name: &str, role: Role) -> Self {
        let name = name.to_owned();
        Self { id: 1, name, password: String::new(), role, enabled: true, locked: false, refused: 0, must_change: false, revision: 0 }
    }

    fn count_refusal(&mut self, lock_after: u32) {
        self.refused += 1;
        self.locked |= self.refused >= lock_after;
    }
}
