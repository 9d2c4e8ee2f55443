//! The router's TCP: a few doors on one port, each leading to the service's HTTP port on loopback. smoltcp speaks TCP with the
//! machine, the kernel with the service; bytes pass from one buffer to the other and wait where there is no room.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use tokio::io::AsyncWrite;
use tokio::net::{TcpSocket, TcpStream};

use crate::sim::vm::router::Outside;

/// The service's HTTP port as machines see it.
pub const PORT: u16 = 8081;
/// Connections of one machine at once: the agent has four or five. A further one is refused.
const DOORS: usize = 16;
const FROM_MACHINE: usize = 16 << 10;
const TO_MACHINE: usize = 64 << 10;
/// A machine that leaves an answer unacknowledged this long is gone, or never was there.
const SILENCE: Duration = Duration::from_secs(60);

pub struct Doors {
    outside: Outside,
    doors: Vec<Door>,
}

struct Door {
    handle: SocketHandle,
    state: Behind,
}

/// What is behind a door.
enum Behind {
    /// It waits for somebody to come.
    Nobody,
    Connecting(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Service {
        stream: TcpStream,
        /// The machine has said all it had to say, and the service was told.
        told: bool,
    },
    /// The service has ended the connection; the machine's side ends by itself.
    Closing,
}

impl Doors {
    pub fn open(outside: Outside, sockets: &mut SocketSet<'static>) -> Self {
        let doors = (0..DOORS).map(|_| Door { handle: sockets.add(listening()), state: Behind::Nobody }).collect();
        Self { outside, doors }
    }

    /// Moves what can be moved. Returns whether anything did.
    pub fn step(&mut self, cx: &mut Context<'_>, sockets: &mut SocketSet<'static>) -> bool {
        let mut moved = false;
        for door in &mut self.doors {
            moved |= door.step(cx, sockets, self.outside);
        }
        moved
    }
}

fn listening() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; FROM_MACHINE]), SocketBuffer::new(vec![0; TO_MACHINE]));
    // The machine's acknowledgements come back in microseconds; waiting to fill a segment only costs time.
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(SILENCE.into()));
    if let Err(e) = socket.listen(PORT) {
        tracing::error!(error = ?e, "a door of a virtual machine's router does not open");
    }
    socket
}

async fn connect(outside: Outside) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Each machine has an address of its own on the service's side, too.
    socket.bind(SocketAddr::from((outside.address, 0)))?;
    let stream = socket.connect(outside.http.into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Door {
    fn step(&mut self, cx: &mut Context<'_>, sockets: &mut SocketSet<'static>, outside: Outside) -> bool {
        let socket = sockets.get_mut::<Socket>(self.handle);
        // A door in TIME-WAIT would be shut for ten seconds; on a cable that loses nothing no late segment comes.
        if matches!(socket.state(), State::Closed | State::TimeWait) && !matches!(self.state, Behind::Connecting(_)) {
            *socket = listening();
            self.state = Behind::Nobody;
            return true;
        }
        match &mut self.state {
            Behind::Nobody if socket.may_send() => {
                self.state = Behind::Connecting(Box::pin(connect(outside)));
                true
            }
            Behind::Nobody | Behind::Closing => false,
            Behind::Connecting(connecting) => match connecting.as_mut().poll(cx) {
                Poll::Ready(Ok(stream)) => {
                    self.state = Behind::Service { stream, told: false };
                    true
                }
                Poll::Ready(Err(e)) => {
                    tracing::debug!(error = %e, "a virtual machine's connection found no service");
                    socket.abort();
                    self.state = Behind::Closing;
                    true
                }
                Poll::Pending => false,
            },
            Behind::Service { stream, told } => match pass(cx, socket, stream, told) {
                Ok(Passed::Some) => true,
                Ok(Passed::Nothing) => false,
                Ok(Passed::End) => {
                    socket.close();
                    self.state = Behind::Closing;
                    true
                }
                Err(e) => {
                    tracing::debug!(error = %e, "a virtual machine's connection broke off");
                    socket.abort();
                    self.state = Behind::Closing;
                    true
                }
            },
        }
    }
}

enum Passed {
    Some,
    Nothing,
    /// The service has said all it had to say.
    End,
}

fn pass(cx: &mut Context<'_>, socket: &mut Socket<'static>, stream: &mut TcpStream, told: &mut bool) -> io::Result<Passed> {
    let mut moved = false;
    while socket.can_recv() && stream.poll_write_ready(cx)?.is_ready() {
        let written = socket.recv(|bytes| match stream.try_write(bytes) {
            Ok(n) => (n, Ok(n)),
            Err(e) => (0, Err(e)),
        });
        match written.map_err(io::Error::other)? {
            Ok(_) => moved = true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    // All that came was passed on and no more will come.
    if !*told && !socket.may_recv() && !socket.can_recv() && Pin::new(&mut *stream).poll_shutdown(cx)?.is_ready() {
        *told = true;
        moved = true;
    }
    while socket.can_send() && stream.poll_read_ready(cx)?.is_ready() {
        let read = socket.send(|space| match stream.try_read(space) {
            Ok(n) => (n, Ok(n)),
            Err(e) => (0, Err(e)),
        });
        match read.map_err(io::Error::other)? {
            Ok(0) => return Ok(Passed::End),
            Ok(_) => moved = true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(if moved { Passed::Some } else { Passed::Nothing })
}
