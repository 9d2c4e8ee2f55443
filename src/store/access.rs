//! Users, sessions and API tokens. Secrets are stored as hashes only.

use crate::domain::access::{Actor, ActorVia, Role};
use crate::domain::id::{TokenId, UserId};
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, Tx, in_pool, in_tx, parse, token_hash};

/// A user as needed for a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub name: String,
    /// Argon2id PHC string.
    pub password_hash: String,
    pub role: Role,
}

/// A browser session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub actor: Actor,
    pub csrf: String,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    pub id: TokenId,
    pub user: UserId,
    pub name: String,
    pub role: Role,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct UserRow {
    id: String,
    name: String,
    password_hash: String,
    role: String,
}

#[derive(sqlx::FromRow)]
struct SessionRow {
    user_id: String,
    name: String,
    role: String,
    csrf: String,
    created_at: i64,
    last_seen_at: i64,
}

#[derive(sqlx::FromRow)]
struct TokenRow {
    id: String,
    user_id: String,
    name: String,
    role: String,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
}

impl Store {
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>> {
        let row: Option<UserRow> = in_pool!(self, p => sqlx::query_as("SELECT id, name, password_hash, role FROM users WHERE name = $1").bind(name).fetch_optional(p).await)?;
        row.map(|r| {
            Ok(User {
                id: parse("users", &r.id, &r.id)?,
                role: parse("users", &r.id, &r.role)?,
                name: r.name,
                password_hash: r.password_hash,
            })
        })
        .transpose()
    }

    /// All users, by name.
    pub async fn users(&self) -> Result<Vec<User>> {
        let rows: Vec<UserRow> =
            in_pool!(self, p => sqlx::query_as("SELECT id, name, password_hash, role FROM users ORDER BY name").fetch_all(p).await)?;
        rows.into_iter()
            .map(|r| {
                Ok(User {
                    id: parse("users", &r.id, &r.id)?,
                    role: parse("users", &r.id, &r.role)?,
                    name: r.name,
                    password_hash: r.password_hash,
                })
            })
            .collect()
    }

    pub async fn count_users(&self) -> Result<u64> {
        let (n,): (i64,) = in_pool!(self, p => sqlx::query_as("SELECT COUNT(*) FROM users").fetch_one(p).await)?;
        Ok(u64::try_from(n).unwrap_or(0))
    }

    /// The session of this cookie, unless it has expired.
    pub async fn session(&self, token: &str, now: Timestamp) -> Result<Option<Session>> {
        let row: Option<SessionRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT s.user_id, u.name, u.role, s.csrf, s.created_at, s.last_seen_at FROM sessions s JOIN users u ON u.id = s.user_id
             WHERE s.token_hash = $1 AND s.expires_at > $2")
            .bind(token_hash(token)).bind(now.0).fetch_optional(p).await)?;
        row.map(|r| {
            let actor = Actor {
                user: parse("sessions", "", &r.user_id)?,
                name: r.name,
                role: parse("users", &r.user_id, &r.role)?,
                via: ActorVia::Session,
            };
            Ok(Session { actor, csrf: r.csrf, created_at: Timestamp(r.created_at), last_seen_at: Timestamp(r.last_seen_at) })
        })
        .transpose()
    }

    /// Who holds this API token. Its role never exceeds its user's role now.
    pub async fn actor_by_api_token(&self, token: &str, now: Timestamp) -> Result<Option<Actor>> {
        let row: Option<(String, String, String, String)> = in_pool!(self, p => sqlx::query_as(
            "SELECT u.id, u.name, u.role, t.role FROM api_tokens t JOIN users u ON u.id = t.user_id
             WHERE t.token_hash = $1 AND (t.expires_at IS NULL OR t.expires_at > $2)")
            .bind(token_hash(token)).bind(now.0).fetch_optional(p).await)?;
        row.map(|(id, name, user_role, token_role)| {
            let role = parse::<Role>("users", &id, &user_role)?.min(parse("api_tokens", &id, &token_role)?);
            Ok(Actor { user: parse("users", &id, &id)?, name, role, via: ActorVia::Token })
        })
        .transpose()
    }

    pub async fn api_tokens(&self) -> Result<Vec<ApiToken>> {
        let rows: Vec<TokenRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, user_id, name, role, created_at, expires_at, last_used_at FROM api_tokens ORDER BY created_at").fetch_all(p).await)?;
        rows.into_iter()
            .map(|r| {
                Ok(ApiToken {
                    id: parse("api_tokens", &r.id, &r.id)?,
                    user: parse("api_tokens", &r.id, &r.user_id)?,
                    role: parse("api_tokens", &r.id, &r.role)?,
                    name: r.name,
                    created_at: Timestamp(r.created_at),
                    expires_at: r.expires_at.map(Timestamp),
                    last_used_at: r.last_used_at.map(Timestamp),
                })
            })
            .collect()
    }
}

impl Tx {
    pub async fn insert_user(&mut self, user: &User, at: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("INSERT INTO users (id, name, password_hash, role, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(user.id.to_string()).bind(&user.name).bind(&user.password_hash).bind(user.role.to_string()).bind(at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Sets a user's password and ends all sessions of that user.
    pub async fn set_password(&mut self, user: UserId, password_hash: &str) -> Result<()> {
        in_tx!(self, c => {
            sqlx::query("UPDATE users SET password_hash = $2 WHERE id = $1").bind(user.to_string()).bind(password_hash).execute(&mut *c).await?;
            sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(user.to_string()).execute(&mut *c).await?;
            Ok::<(), sqlx::Error>(())
        })?;
        Ok(())
    }

    /// Removes a user with its sessions and tokens.
    pub async fn delete_user(&mut self, user: UserId) -> Result<()> {
        in_tx!(self, c => {
            for sql in ["DELETE FROM sessions WHERE user_id = $1", "DELETE FROM api_tokens WHERE user_id = $1", "DELETE FROM users WHERE id = $1"] {
                sqlx::query(sql).bind(user.to_string()).execute(&mut *c).await?;
            }
            Ok::<(), sqlx::Error>(())
        })?;
        Ok(())
    }

    pub async fn insert_session(&mut self, token: &str, user: UserId, csrf: &str, now: Timestamp, expires: Timestamp) -> Result<()> {
        in_tx!(self, c => {
            sqlx::query("DELETE FROM sessions WHERE expires_at <= $1").bind(now.0).execute(&mut *c).await?;
            sqlx::query("INSERT INTO sessions (token_hash, user_id, csrf, created_at, last_seen_at, expires_at) VALUES ($1, $2, $3, $4, $4, $5)")
                .bind(token_hash(token)).bind(user.to_string()).bind(csrf).bind(now.0).bind(expires.0)
                .execute(&mut *c).await?;
            Ok::<(), sqlx::Error>(())
        })?;
        Ok(())
    }

    /// Notes that a session was used and moves its idle end.
    pub async fn extend_session(&mut self, token: &str, now: Timestamp, expires: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("UPDATE sessions SET last_seen_at = $2, expires_at = $3 WHERE token_hash = $1")
            .bind(token_hash(token)).bind(now.0).bind(expires.0).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn delete_session(&mut self, token: &str) -> Result<()> {
        in_tx!(self, c => sqlx::query("DELETE FROM sessions WHERE token_hash = $1").bind(token_hash(token)).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn insert_api_token(&mut self, secret: &str, token: &ApiToken) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "INSERT INTO api_tokens (id, token_hash, user_id, name, role, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(token.id.to_string()).bind(token_hash(secret)).bind(token.user.to_string()).bind(&token.name)
            .bind(token.role.to_string()).bind(token.created_at.0).bind(token.expires_at.map(|t| t.0))
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Notes when a token was last used.
    pub async fn note_token_used(&mut self, token_hash: &str, at: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("UPDATE api_tokens SET last_used_at = $2 WHERE token_hash = $1").bind(token_hash).bind(at.0).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn delete_api_token(&mut self, id: TokenId) -> Result<bool> {
        let gone = in_tx!(self, c => sqlx::query("DELETE FROM api_tokens WHERE id = $1").bind(id.to_string()).execute(c).await.map(|r| r.rows_affected()))?;
        Ok(gone > 0)
    }
}
