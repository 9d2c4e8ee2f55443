//! Users and API tokens.

use std::time::Duration;

use crate::app::{App, AppError, Deed, Result, login, need};
use crate::clock;
use crate::domain::access::{Actor, ActorVia, Role};
use crate::domain::id::{TokenId, UserId};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::store::access::{ApiToken, User};
use crate::store::token_hash;

/// Marks an API token, so that scanners of source and logs can find a leaked one.
pub const TOKEN_PREFIX: &str = "hostler_";
/// The first user, and the owner of the local token.
pub const FIRST_USER: &str = "admin";
/// Name of the token in `STATE/admin.token`.
pub const LOCAL_TOKEN: &str = "local command line";
const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct UserView {
    pub id: UserId,
    pub name: String,
    pub role: Role,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct TokenView {
    pub id: TokenId,
    pub name: String,
    pub role: Role,
    pub user: UserId,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
}

impl From<ApiToken> for TokenView {
    fn from(t: ApiToken) -> Self {
        Self {
            id: t.id,
            name: t.name,
            role: t.role,
            user: t.user,
            created_at: t.created_at,
            expires_at: t.expires_at,
            last_used_at: t.last_used_at,
        }
    }
}

/// A fresh API token's secret text.
fn fresh_secret() -> String {
    format!("{TOKEN_PREFIX}{}", clock::fresh_token())
}

fn check_name(what: &str, name: &str) -> Result<String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
        return Err(AppError::invalid(format!("a {what} has 1 to 64 printable characters"), "choose another name"));
    }
    Ok(name.to_owned())
}

impl App {
    /// Who holds an API token.
    ///
    /// # Errors
    /// The store's.
    pub async fn actor_of_token(&self, token: &str) -> Result<Option<Actor>> {
        let now = clock::now();
        let Some(mut actor) = self.store().actor_by_api_token(token, now).await? else { return Ok(None) };
        let hash = token_hash(token);
        if self.settings().local_token_hash.as_ref() == Some(&hash) {
            actor.via = ActorVia::Local;
        }
        if self.inner.token_uses.worth_noting(&hash, now) {
            let mut tx = self.store().begin().await?;
            tx.note_token_used(&hash, now).await?;
            tx.commit().await?;
        }
        Ok(Some(actor))
    }

    /// Makes the first user when there is none, and returns its password, which is stored nowhere.
    ///
    /// # Errors
    /// The store's.
    pub async fn first_user(&self) -> Result<Option<Secret<String>>> {
        if self.store().count_users().await? > 0 {
            return Ok(None);
        }
        // 24 letters of 32: 120 bits, easy to read out and to type.
        const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let password: String = clock::random::<24>().iter().map(|b| char::from(LETTERS[usize::from(b & 31)])).collect();
        let password = Secret::new(password);
        let secret = password.clone();
        let password_hash = self.hashing(move || login::hash_password(&secret)).await??;
        let now = clock::now();
        let user = User { id: UserId(clock::fresh_uuid()), name: FIRST_USER.to_owned(), password_hash, role: Role::Admin };
        let mut tx = self.store().begin().await?;
        tx.insert_user(&user, now).await?;
        self.deed(&local_actor(&user), now, "user.created", &user.name, format!("First start: the user {FIRST_USER} was made."))
            .record(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(Some(password))
    }

    /// Makes the token of the local command line for the first administrator.
    ///
    /// # Errors
    /// `NotFound` when the user `admin` was removed.
    pub async fn new_local_token(&self) -> Result<Secret<String>> {
        let user = self.store().user_by_name(FIRST_USER).await?.ok_or(AppError::NotFound { what: "user", text: FIRST_USER.to_owned() })?;
        let actor = local_actor(&user);
        let (secret, _) = self.insert_token(&actor, LOCAL_TOKEN.to_owned(), Role::Admin, None).await?;
        Ok(secret)
    }

    /// # Errors
    /// `Forbidden` below administrator.
    pub async fn tokens(&self, actor: &Actor) -> Result<Vec<TokenView>> {
        need(actor, Role::Admin)?;
        Ok(self.store().api_tokens().await?.into_iter().map(TokenView::from).collect())
    }

    /// Makes a token for the actor; its secret is shown once.
    ///
    /// # Errors
    /// `Forbidden` below administrator or for a role above the actor's.
    pub async fn create_token(&self, actor: &Actor, name: &str, role: Role, life: Option<Duration>) -> Result<(Secret<String>, TokenView)> {
        need(actor, Role::Admin)?;
        need(actor, role)?;
        if life.is_some_and(|l| l > LONGEST_TOKEN_LIFE || l.is_zero()) {
            return Err(AppError::invalid(
                "a token lives between one second and ten years",
                "leave the life out for a token that does not expire",
            ));
        }
        self.insert_token(actor, check_name("token name", name)?, role, life).await
    }

    async fn insert_token(&self, actor: &Actor, name: String, role: Role, life: Option<Duration>) -> Result<(Secret<String>, TokenView)> {
        let now = clock::now();
        let secret = fresh_secret();
        let token = ApiToken {
            id: TokenId(clock::fresh_uuid()),
            user: actor.user,
            name,
            role,
            created_at: now,
            expires_at: life.map(|l| now.plus(l)),
            last_used_at: None,
        };
        let mut tx = self.store().begin().await?;
        tx.insert_api_token(&secret, &token).await?;
        self.deed(
            actor,
            now,
            "token.created",
            &token.id.to_string(),
            format!("{} made the API token {:?} with the role {role}.", actor.name, token.name),
        )
        .record(&mut tx)
        .await?;
        tx.commit().await?;
        Ok((Secret::new(secret), token.into()))
    }

    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn revoke_token(&self, actor: &Actor, id: TokenId) -> Result<()> {
        need(actor, Role::Admin)?;
        let now = clock::now();
        let mut tx = self.store().begin().await?;
        if !tx.delete_api_token(id).await? {
            return Err(AppError::NotFound { what: "token", text: id.to_string() });
        }
        self.deed(actor, now, "token.revoked", &id.to_string(), format!("{} revoked the API token {id}.", actor.name))
            .record(&mut tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// # Errors
    /// `Forbidden` below administrator.
    pub async fn users(&self, actor: &Actor) -> Result<Vec<UserView>> {
        need(actor, Role::Admin)?;
        Ok(self.store().users().await?.into_iter().map(|u| UserView { id: u.id, name: u.name, role: u.role }).collect())
    }

    /// # Errors
    /// `Invalid` for a bad name or password, `Refused` when the name is taken.
    pub async fn create_user(&self, actor: &Actor, name: &str, role: Role, password: Secret<String>) -> Result<UserView> {
        need(actor, Role::Admin)?;
        let name = check_name("user name", name)?;
        login::check_new_password(&password)?;
        if self.store().user_by_name(&name).await?.is_some() {
            return Err(AppError::Refused {
                code: "name_taken",
                what: format!("there is a user {name:?} already"),
                hint: "choose another name".to_owned(),
            });
        }
        let password_hash = self.hashing(move || login::hash_password(&password)).await??;
        let now = clock::now();
        let user = User { id: UserId(clock::fresh_uuid()), name, password_hash, role };
        let mut tx = self.store().begin().await?;
        tx.insert_user(&user, now).await?;
        self.deed(actor, now, "user.created", &user.name, format!("{} made the user {} with the role {role}.", actor.name, user.name))
            .record(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(UserView { id: user.id, name: user.name, role })
    }

    /// Sets a password and ends all sessions of that user. One's own is set in a browser session with the `current` one; any
    /// other needs an administrator. A token has the name of its owner but not the owner's rights: it never sets "its own".
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Invalid`; `LoginPaused` after too many wrong current passwords.
    pub async fn set_password(&self, actor: &Actor, name: &str, current: Option<Secret<String>>, password: Secret<String>) -> Result<()> {
        let own = actor.via == ActorVia::Session && actor.name == name;
        if !own {
            need(actor, Role::Admin)?;
        }
        login::check_new_password(&password)?;
        let user = self.store().user_by_name(name).await?.ok_or_else(|| AppError::NotFound { what: "user", text: name.to_owned() })?;
        if own {
            let current = current.ok_or_else(|| AppError::invalid("the current password is missing", "give it beside the new one"))?;
            self.check_own_password(&user, current).await?;
        }
        let password_hash = self.hashing(move || login::hash_password(&password)).await??;
        let now = clock::now();
        let mut tx = self.store().begin().await?;
        tx.set_password(user.id, &password_hash).await?;
        self.deed(actor, now, "user.password_set", name, format!("{} set the password of {name}; its sessions ended.", actor.name))
            .record(&mut tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Removes a user with all its sessions and tokens.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `Refused` for oneself and for the first administrator, who owns the local token.
    pub async fn remove_user(&self, actor: &Actor, name: &str) -> Result<()> {
        need(actor, Role::Admin)?;
        if actor.name == name || name == FIRST_USER {
            return Err(AppError::Refused {
                code: "user_needed",
                what: format!("the user {name} cannot be removed: it is you, or the first administrator"),
                hint: "log in as another administrator".to_owned(),
            });
        }
        let user = self.store().user_by_name(name).await?.ok_or_else(|| AppError::NotFound { what: "user", text: name.to_owned() })?;
        let now = clock::now();
        let mut tx = self.store().begin().await?;
        tx.delete_user(user.id).await?;
        self.deed(actor, now, "user.removed", name, format!("{} removed the user {name} with its tokens.", actor.name))
            .record(&mut tx)
            .await?;
        Ok(tx.commit().await?)
    }

    pub(crate) fn deed<'a>(&self, actor: &'a Actor, at: Timestamp, kind: &'static str, object: &str, text: String) -> Deed<'a> {
        Deed { actor, at, kind, machine: None, run: None, object: object.to_owned(), detail: serde_json::Value::Null, text }
    }
}

fn local_actor(user: &User) -> Actor {
    Actor { user: user.id, name: user.name.clone(), role: user.role, via: ActorVia::Local }
}

/// Remembers when the use of a token was last written down: once a minute is often enough.
#[derive(Default)]
pub(crate) struct TokenUses(std::sync::Mutex<std::collections::HashMap<String, Timestamp>>);

impl TokenUses {
    fn worth_noting(&self, hash: &str, now: Timestamp) -> bool {
        let mut uses = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if uses.get(hash).is_some_and(|last| now.since(*last) < Duration::from_secs(60)) {
            return false;
        }
        if uses.len() > 10_000 {
            uses.clear();
        }
        uses.insert(hash.to_owned(), now);
        true
    }
}
