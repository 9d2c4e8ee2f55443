//! Puts the service together: state, store, app, listeners, loops.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::app::{App, AppError, Parts, Settings};
use crate::artifact::{Artifacts, ImportError};
use crate::bmc::{BmcSettings, Bmcs};
use crate::decide::polling::PollSettings;
use crate::domain::secret::Secret;
use crate::engine::campaign::{Campaigner, Rhythm};
use crate::engine::collect::Collector;
use crate::engine::{Engine, EngineSettings};
use crate::http;
use crate::secret::{Sealer, SecretError};
use crate::server::config::Config;
use crate::server::netboot::{self, NetbootError, Place};
use crate::server::shutdown::{Ended, Tasks};
use crate::server::state::{StateDir, StateError, local_token};
use crate::store::{Store, StoreError, token_hash};

/// BMC calls at the same time that are kept for runs and people.
const CALLS_BESIDE_POLLS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Artifacts(#[from] ImportError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Netboot(#[from] NetbootError),
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen { address: SocketAddr, source: std::io::Error },
}

fn hint(e: &std::io::Error) -> &'static str {
    match e.kind() {
        std::io::ErrorKind::AddrInUse => "; another program has this port, choose one with --listen",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        std::io::ErrorKind::AddrNotAvailable => "; no interface of this computer has this address",
        _ => "",
    }
}

/// A service that answers already and runs until it is told to stop.
pub struct Service {
    pub app: App,
    /// Where pages and API answer.
    pub url: String,
    /// The first administrator's password, at the first start only. It is stored nowhere.
    pub first_password: Option<Secret<String>>,
    /// Where machines boot from, when a provisioning network is configured.
    pub netboot: Option<SocketAddr>,
    tasks: Tasks,
    bmcs: Bmcs,
    store: Store,
    state: StateDir,
}

/// Opens everything and starts to listen.
///
/// # Errors
/// Each says what to do; nothing keeps running.
pub async fn start(config: &Config) -> Result<Service, StartError> {
    let state = StateDir::take(&config.state)?;
    let sealer = Sealer::open(&state.key_file())?;
    // Listen before the database is touched: a taken port must not leave a half-made first start.
    let listener = listen(config.listen).await?;
    let place = Place::of(&config.netboot)?;
    // Polls must not take the places of what people and runs ask for.
    let usual = BmcSettings::default();
    let at_once = usual.calls_at_once.max(config.collect.settings().at_once + CALLS_BESIDE_POLLS);
    let bmcs = Bmcs::new(BmcSettings { calls_at_once: at_once, ..usual });
    let store = Store::open(&config.store()).await?;
    // The state directory is ours alone, so whoever held claims under its name is dead: no need to wait until they run out.
    let replica = state.replica()?;
    let left = store.drop_leases_of(&replica).await?;
    if left > 0 {
        tracing::warn!(left, "this service did not stop in order; its unfinished work goes on now");
    }
    let engine = EngineSettings {
        owner: format!("{replica}/{}", crate::clock::fresh_uuid()),
        // Without a provisioning network nothing is deployed, so nothing calls here.
        netboot_url: place.as_ref().map_or_else(|| format!("http://{}", config.listen), |p| p.url.to_string()),
        power_off_ready: config.ready_power_off,
    };
    let engine = Engine::new(store.clone(), bmcs.clone(), sealer.clone(), engine);
    let artifacts = Artifacts::open(&state.artifact_dir())?;
    let campaigner = Campaigner::new(engine.clone(), artifacts.clone(), Rhythm::default());
    let (app, first_password) = open_app(&state, &store, sealer, engine.clone(), artifacts, config.collect.settings().polls).await?;
    let mut tasks = Tasks::default();
    let collector = Collector::new(engine.clone(), config.collect.settings());

    let address = listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
    let url = format!("http://{address}");
    state.write_url(&url)?;
    let stop = tasks.stop();
    tasks.spawn("engine", async move {
        if let Err(e) = engine.run(stop).await {
            tracing::error!(error = &e as &dyn std::error::Error, "the engine ended");
        }
    });
    tasks.spawn("firmware campaigns", campaigner.run(tasks.stop()));
    if config.collect.enabled {
        tasks.spawn("collector", collector.run(tasks.stop()));
    }
    tasks.spawn("sweep", crate::engine::sweep::run(store.clone(), config.keep.settings(), tasks.stop()));
    let netboot = match &place {
        Some(place) => Some(netboot::start(config, place, &store, &mut tasks).await?),
        None => None,
    };
    tasks.spawn("http", http::listen::run(listener, http::main_router(&app), tasks.stop()));
    tracing::info!(url, state = %state.path().display(), "hostler {} answers", env!("CARGO_PKG_VERSION"));
    Ok(Service { app, url, first_password, netboot, tasks, bmcs, store, state })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

/// The app with a first user and a local token that works.
async fn open_app(
    state: &StateDir,
    store: &Store,
    sealer: Sealer,
    engine: Engine,
    artifacts: Artifacts,
    polls: PollSettings,
) -> Result<(App, Option<Secret<String>>), StartError> {
    let make = |local_token_hash| {
        App::new(Parts {
            store: store.clone(),
            sealer: sealer.clone(),
            engine: engine.clone(),
            artifacts: artifacts.clone(),
            settings: Settings { local_token_hash, polls },
        })
    };
    let app = make(local_token(state.path()).map(|t| token_hash(t.expose())));
    let first_password = app.first_user().await?;
    let works = match local_token(state.path()) {
        Some(token) => app.actor_of_token(token.expose()).await?.is_some(),
        None => false,
    };
    if works {
        return Ok((app, first_password));
    }
    match app.new_local_token().await {
        Ok(token) => {
            state.write_token(&token)?;
            Ok((make(Some(token_hash(token.expose()))), first_password))
        }
        Err(AppError::NotFound { .. }) => {
            tracing::warn!("there is no user named admin, so the local command line gets no token; use HOSTLER_TOKEN_FILE");
            Ok((app, first_password))
        }
        Err(e) => Err(e.into()),
    }
}

impl Service {
    /// Runs until SIGTERM, SIGINT, `until` or a failure, then stops everything in order.
    pub async fn run(self, until: impl Future<Output = ()>) -> Ended {
        let ended = self.tasks.run(until).await;
        // Weak controllers run out of sessions: give ours back.
        self.bmcs.close_all().await;
        self.store.close().await;
        tracing::info!(state = %self.state.path().display(), "stopped");
        ended
    }
}
