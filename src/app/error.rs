//! Why a use case said no. Each error is a sentence a person can act on, with a stable word for programs.

use crate::domain::access::Role;
use crate::store::StoreError;

pub type Result<T> = std::result::Result<T, AppError>;

/// One thing wrong with one place of a document: a line of a packing list, a field of a form.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Flaw {
    /// Line number, 1 is the header.
    pub line: Option<u64>,
    pub field: Option<String>,
    /// What is wrong and what to write instead.
    pub message: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("no {what} is known as {text:?}")]
    NotFound { what: &'static str, text: String },
    #[error("{text:?} means more than one machine: {candidates}")]
    Ambiguous { text: String, candidates: String },
    #[error("this needs the role {needed}; yours is {has}")]
    Forbidden { needed: Role, has: Role },
    #[error("this needs a login or an API token")]
    Unauthenticated,
    #[error("wrong user or password")]
    BadLogin,
    #[error("too many failed logins; try again in {wait_secs} s")]
    LoginPaused { wait_secs: u64 },
    /// The machine's state forbids it (`decide::access`), or another record does.
    #[error("{what}")]
    Refused { code: &'static str, what: String, hint: String },
    #[error("{what}")]
    Invalid { what: String, hint: String, flaws: Vec<Flaw> },
    /// The BMC did not do it.
    #[error("{what}")]
    Bmc { code: &'static str, what: String, hint: String },
    #[error("{what}")]
    TooLarge { what: String },
    #[error("the record was changed by someone else at the same time, several times in a row")]
    Contended,
    #[error("the disk that holds the state directory is full; nothing was changed")]
    DiskFull,
    #[error(transparent)]
    Store(StoreError),
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for AppError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Conflict => Self::Contended,
            StoreError::Full => Self::DiskFull,
            StoreError::NotText => Self::invalid("a text holds a NUL character", "send text without it"),
            other => Self::Store(other),
        }
    }
}

impl AppError {
    pub fn invalid(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), hint: hint.into(), flaws: Vec::new() }
    }

    /// Stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Ambiguous { .. } => "ambiguous",
            Self::Forbidden { .. } => "forbidden",
            Self::Unauthenticated => "unauthenticated",
            Self::BadLogin => "bad_login",
            Self::LoginPaused { .. } => "login_paused",
            Self::Refused { code, .. } | Self::Bmc { code, .. } => code,
            Self::Invalid { .. } => "invalid",
            Self::TooLarge { .. } => "too_large",
            Self::Contended => "contended",
            Self::DiskFull => "disk_full",
            Self::Store(_) => "store",
            Self::Internal(_) => "internal",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { what: "machine", .. } => Some("list them with: hostler machine list".to_owned()),
            Self::NotFound { what: "image", .. } => Some("list them with: hostler image list".to_owned()),
            Self::NotFound { .. } => None,
            Self::Ambiguous { .. } => Some("name it by its id".to_owned()),
            Self::Forbidden { needed, .. } => Some(format!("ask someone with the role {needed}, or use a token of that role")),
            Self::Unauthenticated => Some("log in on the page, or send Authorization: Bearer TOKEN (hostler token create)".to_owned()),
            Self::BadLogin => Some("an administrator on the server can reset it: hostler user password NAME".to_owned()),
            Self::LoginPaused { .. } => None,
            Self::Refused { hint, .. } | Self::Invalid { hint, .. } | Self::Bmc { hint, .. } => {
                Some(hint.clone()).filter(|h| !h.is_empty())
            }
            Self::TooLarge { .. } => None,
            Self::Contended => Some("try again".to_owned()),
            Self::DiskFull => Some("free some space, then try again".to_owned()),
            Self::Store(_) | Self::Internal(_) => Some("look at the service's log for the request id".to_owned()),
        }
    }
}
