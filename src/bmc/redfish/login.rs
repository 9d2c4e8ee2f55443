//! How we prove who we are: one session per BMC, basic authentication where sessions fail, nothing where no user is given.

use std::sync::PoisonError;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bmc::BmcError;
use crate::bmc::redfish::http::{Body, Http};
use crate::bmc::redfish::view;

/// How a request proves who we are.
#[derive(Clone, Debug)]
pub enum Login {
    Session {
        token: HeaderValue,
        path: Option<String>,
    },
    Basic,
    /// No user was given: open trees (recordings, emulators without passwords) are read without a login.
    Nobody,
}

impl Http {
    pub(super) fn current_login(&self) -> Option<Login> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_login(&self, login: Option<Login>) {
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login;
    }

    /// Opens a session (DSP0266, section 13.3.4.2), or settles for basic authentication where there are none.
    /// `stale` is the token that was refused; if another request replaced it meanwhile, that login is used.
    pub(super) async fn log_in(&self, stale: Option<&HeaderValue>) -> Result<Login, BmcError> {
        let root = self.root().await?;
        let _turn = self.login_turn.acquire().await.map_err(|_| self.busy("this connection is being closed"))?;
        match (self.current_login(), stale) {
            (Some(Login::Session { token, .. }), Some(stale)) if token == *stale => {}
            (Some(login), _) => return Ok(login),
            (None, _) => {}
        }
        self.set_login(None);
        if self.user.is_empty() {
            self.set_login(Some(Login::Nobody));
            return Ok(Login::Nobody);
        }
        let login = match self.sessions_path(&root).await? {
            Some(path) => self.open_session(&path).await?,
            None => Login::Basic,
        };
        self.set_login(Some(login.clone()));
        Ok(login)
    }

    async fn sessions_path(&self, root: &Value) -> Result<Option<String>, BmcError> {
        if let Some(path) = view::link(root, &["Links", "Sessions"]) {
            return Ok(Some(path.to_owned()));
        }
        let Some(service) = view::link(root, &["SessionService"]) else { return Ok(None) };
        let reply = self.read(service, None).await?;
        Ok(if reply.status.is_success() { view::link(&reply.body, &["Sessions"]).map(str::to_owned) } else { None })
    }

    async fn open_session(&self, path: &str) -> Result<Login, BmcError> {
        let body = json!({"UserName": self.user, "Password": self.password.expose()});
        let reply = self.once(&Method::POST, path, &Body::Json(&body), HeaderMap::new(), None).await?;
        let said = reply.complaint();
        match reply.status {
            status if status.is_success() => {
                let Some(token) = reply.headers.get(HeaderName::from_static("x-auth-token")) else {
                    return Err(self.nonsense("a new session without a token"));
                };
                let mut token = token.clone();
                token.set_sensitive(true);
                let location = reply.headers.get(LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
                let path = location.or_else(|| reply.body.get("@odata.id").and_then(Value::as_str).map(str::to_owned));
                Ok(Login::Session { token, path })
            }
            // iLO 4 answers 400 with UnauthorizedLoginAttempt.
            StatusCode::UNAUTHORIZED => Err(self.unauthorized()),
            _ if said.has(&["UnauthorizedLoginAttempt", "ResourceAtUriUnauthorized"]) => Err(self.unauthorized()),
            // Session tables are small (iDRAC: 8, old iLO: 6); basic authentication still works when one is full.
            _ if said.has(&["SessionLimitExceeded", "CreateLimitReachedForResource"]) => Ok(Login::Basic),
            StatusCode::FORBIDDEN => Err(self.unauthorized()),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(Login::Basic),
            _ => Err(self.failed(path, &reply)),
        }
    }

    /// Closes the session, if there is one; failure to do so costs the BMC a slot until its own timeout, so it is not
    /// an error.
    pub async fn close(&self) {
        let Some(Login::Session { token, path: Some(path) }) = self.current_login() else { return };
        let login = Login::Session { token, path: None };
        self.set_login(None);
        if let Err(error) = self.once(&Method::DELETE, &path, &Body::None, HeaderMap::new(), Some(&login)).await {
            tracing::debug!(bmc = %self.address, %error, "A Redfish session was left to time out");
        }
    }

    /// Gives back the slot of a session that was replaced, in case it was not expired: a resource that answers 401 to our role
    /// would fill the BMC's session table otherwise.
    pub(super) async fn drop_session(&self, path: Option<&str>, login: &Login) {
        let Some(path) = path else { return };
        if let Err(error) = self.once(&Method::DELETE, path, &Body::None, HeaderMap::new(), Some(login)).await {
            tracing::debug!(bmc = %self.address, %error, "A replaced Redfish session was left to time out");
        }
    }
}
