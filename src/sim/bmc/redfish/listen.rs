//! Connections of a front: TLS with a key of its own, and a gate that ends them when the BMC restarts or is unreachable.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::sim::bmc::Reach;

/// A client that begins a TLS handshake has this long to end it.
const HANDSHAKE_CAP: Duration = Duration::from_secs(10);

/// Whether connections live.
pub trait Gate: Send + Sync + 'static {
    fn reach(&self) -> Reach;
    /// Connections of an earlier generation are dead.
    fn generation(&self) -> u64;
}

/// The certificate of a front; `None` without TLS.
pub type Tls = Arc<Mutex<Option<Arc<ServerConfig>>>>;

/// A fresh key with a self-signed certificate for this name.
pub fn server_config(name: &str) -> io::Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// Serves `app` until the tasks are dropped.
pub fn serve(listener: TcpListener, addr: SocketAddr, tls: Tls, gate: Arc<dyn Gate>, app: Router, tasks: &mut JoinSet<()>) {
    // Connections that are ready to be served; the bound keeps a flood in the listener's backlog.
    let (ready, connections) = mpsc::channel(16);
    tasks.spawn(run_accept(listener, tls, gate, ready));
    tasks.spawn(async move {
        if let Err(error) = axum::serve(Ready { connections, addr }, app).await {
            tracing::warn!(%error, "A simulated Redfish front stopped");
        }
    });
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that dies with a restart of the BMC or when it becomes unreachable.
struct Gated {
    stream: TcpStream,
    gate: Arc<dyn Gate>,
    generation: u64,
}

impl AsyncRead for Gated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.gate.reach() {
            Reach::Normal if self.generation == self.gate.generation() => Pin::new(&mut self.stream).poll_read(cx, buf),
            Reach::Normal | Reach::Dropped => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            // Never woken: the client's own timeout ends it.
            Reach::Silent => Poll::Pending,
        }
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type Connection = (Box<dyn Stream>, SocketAddr);

async fn run_accept(listener: TcpListener, tls: Tls, gate: Arc<dyn Gate>, ready: mpsc::Sender<Connection>) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    handshakes.spawn(shake(stream, peer, Arc::clone(&tls), Arc::clone(&gate), ready.clone()));
                }
                // Out of descriptors: the backlog waits.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = handshakes.join_next() => {}
        }
    }
}

async fn shake(stream: TcpStream, peer: SocketAddr, tls: Tls, gate: Arc<dyn Gate>, ready: mpsc::Sender<Connection>) {
    match gate.reach() {
        Reach::Normal => {}
        Reach::Dropped => return,
        Reach::Silent => pending().await,
    }
    let generation = gate.generation();
    let tls = tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let gated = Gated { stream, gate, generation };
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(gated),
        Some(config) => match timeout(HANDSHAKE_CAP, TlsAcceptor::from(config).accept(gated)).await {
            Ok(Ok(stream)) => Box::new(stream),
            // The client did not like the certificate, or went away.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    if ready.send((stream, peer)).await.is_err() {
        tracing::debug!("A simulated BMC closed while a client connected");
    }
}

struct Ready {
    connections: mpsc::Receiver<Connection>,
    addr: SocketAddr,
}

impl axum::serve::Listener for Ready {
    type Io = Box<dyn Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.connections.recv().await {
            Some(connection) => connection,
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}
