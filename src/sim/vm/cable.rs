//! The cable between a virtual machine's network card and its router: one datagram is one Ethernet frame, as QEMU's
//! `-netdev dgram` has it. Both ways are short queues; what does not fit waits in the socket, and QEMU waits with it.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use tokio::io::ReadBuf;
use tokio::net::UnixDatagram;

use crate::sim::vm::frame::FRAME_BYTES;

/// Frames waiting on either side of the stack.
const QUEUE: usize = 64;

pub struct Cable {
    socket: UnixDatagram,
    /// For the stack.
    inward: VecDeque<Vec<u8>>,
    /// For the machine.
    outward: VecDeque<Vec<u8>>,
}

impl Cable {
    pub fn new(socket: UnixDatagram) -> Self {
        Self { socket, inward: VecDeque::new(), outward: VecDeque::new() }
    }

    /// The next frame from the machine; one that is too long comes cut, and longer than [`FRAME_BYTES`].
    pub fn poll_frame<'b>(&self, cx: &mut Context<'_>, buffer: &'b mut [u8; FRAME_BYTES + 1]) -> Poll<io::Result<&'b [u8]>> {
        let mut space = ReadBuf::new(buffer);
        match self.socket.poll_recv(cx, &mut space) {
            Poll::Ready(Ok(())) => {
                let len = space.filled().len();
                Poll::Ready(Ok(&buffer[..len]))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the stack can take one more frame.
    pub fn has_room_inward(&self) -> bool {
        self.inward.len() < QUEUE
    }

    pub fn give_stack(&mut self, frame: &[u8]) {
        if self.has_room_inward() {
            self.inward.push_back(frame.to_vec());
        }
    }

    /// A frame for the machine; dropped when too many wait, as a switch does.
    pub fn send(&mut self, frame: Vec<u8>) {
        if self.outward.len() < QUEUE {
            self.outward.push_back(frame);
        }
    }

    /// Passes on what waits for the machine. Returns whether anything left.
    ///
    /// # Errors
    /// When the other end is gone.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let before = self.outward.len();
        while let Some(frame) = self.outward.front() {
            match self.socket.poll_send(cx, frame) {
                Poll::Ready(sent) => drop((sent?, self.outward.pop_front())),
                Poll::Pending => break,
            }
        }
        Ok(self.outward.len() < before)
    }
}

pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct Space<'c>(&'c mut VecDeque<Vec<u8>>);

impl TxToken for Space<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Space<'a>;

    /// Only when an answer would find room, too.
    fn receive(&mut self, _now: Instant) -> Option<(Received, Space<'_>)> {
        if self.outward.len() >= QUEUE {
            return None;
        }
        let frame = self.inward.pop_front()?;
        Some((Received(frame), Space(&mut self.outward)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Space<'_>> {
        (self.outward.len() < QUEUE).then_some(Space(&mut self.outward))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut is = DeviceCapabilities::default();
        is.medium = Medium::Ethernet;
        is.max_transmission_unit = FRAME_BYTES;
        is
    }
}
