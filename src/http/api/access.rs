//! `/api/v1/me`, `/api/v1/tokens`, `/api/v1/users`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::access::{TokenView, UserView};
use crate::domain::access::{ActorVia, Role};
use crate::domain::id::{TokenId, UserId};
use crate::domain::secret::Secret;
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Json, Path, Problem, Result};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(tokens, create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(users, create_user))
        .routes(routes!(remove_user))
        .routes(routes!(set_password))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Me {
    pub user: UserId,
    pub name: String,
    pub role: Role,
    pub via: ActorVia,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    pub name: String,
    pub role: Role,
    /// Seconds until it expires; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_secs: Option<u64>,
}

/// A token with its secret, which is shown this once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    #[serde(flatten)]
    pub token: TokenView,
    pub secret: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    pub name: String,
    pub role: Role,
    pub password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    pub password: String,
    /// Needed to set one's own in a browser session.
    #[serde(default)]
    pub current_password: Option<String>,
}

/// Who I am.
#[utoipa::path(get, path = "/me", tag = "access", responses((status = OK, body = Me), (status = "4XX", body = Problem)))]
async fn me(caller: Caller) -> Json<Me> {
    let actor = caller.actor;
    Json(Me { user: actor.user, name: actor.name, role: actor.role, via: actor.via })
}

/// API tokens, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "access", responses((status = OK, body = Vec<TokenView>), (status = "4XX", body = Problem)))]
async fn tokens(State(app): TheApp, caller: Caller) -> Result<Json<Vec<TokenView>>> {
    Ok(Json(app.tokens(&caller.actor).await?))
}

/// Makes an API token; its secret is in this answer only.
#[utoipa::path(post, path = "/tokens", tag = "access", request_body = NewToken, responses((status = CREATED, body = CreatedToken), (status = "4XX", body = Problem)))]
async fn create_token(State(app): TheApp, caller: Caller, Json(body): Json<NewToken>) -> Result<(StatusCode, Json<CreatedToken>)> {
    let (secret, token) = app.create_token(&caller.actor, &body.name, body.role, body.life_secs.map(Duration::from_secs)).await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { token, secret: secret.expose().clone() })))
}

/// Revokes an API token at once.
#[utoipa::path(delete, path = "/tokens/{token}", tag = "access", params(("token" = TokenId, Path)), responses((status = NO_CONTENT), (status = "4XX", body = Problem)))]
async fn revoke_token(State(app): TheApp, caller: Caller, Path(token): Path<TokenId>) -> Result<StatusCode> {
    app.revoke_token(&caller.actor, token).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/users", tag = "access", responses((status = OK, body = Vec<UserView>), (status = "4XX", body = Problem)))]
async fn users(State(app): TheApp, caller: Caller) -> Result<Json<Vec<UserView>>> {
    Ok(Json(app.users(&caller.actor).await?))
}

#[utoipa::path(post, path = "/users", tag = "access", request_body = NewUser, responses((status = CREATED, body = UserView), (status = "4XX", body = Problem)))]
async fn create_user(State(app): TheApp, caller: Caller, Json(body): Json<NewUser>) -> Result<(StatusCode, Json<UserView>)> {
    Ok((StatusCode::CREATED, Json(app.create_user(&caller.actor, &body.name, body.role, Secret::new(body.password)).await?)))
}

/// Removes a user with all its sessions and tokens.
#[utoipa::path(delete, path = "/users/{user}", tag = "access", params(("user" = String, Path)), responses((status = NO_CONTENT), (status = "4XX", body = Problem)))]
async fn remove_user(State(app): TheApp, caller: Caller, Path(user): Path<String>) -> Result<StatusCode> {
    app.remove_user(&caller.actor, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets a password and ends that user's sessions. Administrators may set anyone's; in a browser session a person sets their own
/// with the current one.
#[utoipa::path(put, path = "/users/{user}/password", tag = "access", params(("user" = String, Path)), request_body = NewPassword,
    responses((status = NO_CONTENT), (status = "4XX", body = Problem)))]
async fn set_password(State(app): TheApp, caller: Caller, Path(user): Path<String>, Json(body): Json<NewPassword>) -> Result<StatusCode> {
    app.set_password(&caller.actor, &user, body.current_password.map(Secret::new), Secret::new(body.password)).await?;
    Ok(StatusCode::NO_CONTENT)
}
