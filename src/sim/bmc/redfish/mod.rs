//! The Redfish front: connections, sessions, and what is answered to whom.
//!
//! [`tree`] says what there is, from the board alone. [`answer`] decides who may see and change it, [`write`] changes it.

mod accounts;
mod actions;
mod answer;
mod events;
pub(in crate::sim) mod listen;
pub(in crate::sim) mod query;
pub(in crate::sim) mod reply;
pub(in crate::sim) mod sessions;
pub(in crate::sim) mod tree;
mod update;
mod write;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::sim::bmc::redfish::events::Subscriptions;
use crate::sim::bmc::redfish::listen::{Gate, Tls};
use crate::sim::bmc::redfish::sessions::Sessions;
use crate::sim::bmc::shared::Shared;
use crate::sim::bmc::{Reach, RedfishFront};

/// Largest body taken: an update package.
const BODY_CAP: usize = 64 << 20;

pub struct Front {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    kind: RedfishFront,
    tls: Tls,
    sessions: Mutex<Sessions>,
    subscriptions: Mutex<Subscriptions>,
    /// Held while one PATCH is checked and done.
    writing: Mutex<()>,
    /// Somebody subscribed.
    subscribed: tokio::sync::Notify,
    port: u16,
}

impl Gate for Shared {
    fn reach(&self) -> Reach {
        Shared::reach(self)
    }

    fn generation(&self) -> u64 {
        Shared::generation(self)
    }
}

impl Front {
    pub async fn start(shared: Arc<Shared>, kind: RedfishFront, tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let listener = TcpListener::bind((shared.setup.listen, 0)).await?;
        let addr = listener.local_addr()?;
        let inner = Arc::new(Inner {
            kind,
            tls: Tls::default(),
            sessions: Mutex::new(Sessions::new(shared.setup.session_cap)),
            subscriptions: Mutex::default(),
            writing: Mutex::new(()),
            subscribed: tokio::sync::Notify::new(),
            port: addr.port(),
            shared,
        });
        let front = Self { addr, inner };
        if front.is_tls() {
            front.change_certificate()?;
        }
        let app = Router::new().fallback(answer::answer).layer(DefaultBodyLimit::max(BODY_CAP)).with_state(Arc::clone(&front.inner));
        let gate: Arc<dyn Gate> = front.inner.shared.clone();
        listen::serve(listener, addr, Arc::clone(&front.inner.tls), gate, app, tasks);
        tasks.spawn(events::run_delivery(Arc::clone(&front.inner)));
        Ok(front)
    }

    pub fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }

    pub fn open_sessions(&self) -> usize {
        self.inner.sessions().len()
    }

    /// Sessions end with a restart; so do event subscriptions (openbmc/bmcweb#164).
    pub fn forget_sessions(&self) {
        self.inner.sessions().clear();
        self.inner.subscriptions().clear();
    }

    pub fn change_certificate(&self) -> io::Result<()> {
        let config = listen::server_config(&self.addr.ip().to_string())?;
        *self.inner.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
        self.inner.sessions().clear();
        self.inner.shared.raise_generation();
        Ok(())
    }
}

impl Inner {
    fn is_tls(&self) -> bool {
        match self.kind {
            RedfishFront::Https | RedfishFront::HttpsBasicOnly => true,
            RedfishFront::Http => false,
        }
    }

    fn has_sessions(&self) -> bool {
        match self.kind {
            RedfishFront::Https | RedfishFront::Http => true,
            RedfishFront::HttpsBasicOnly => false,
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscriptions(&self) -> std::sync::MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
