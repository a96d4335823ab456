//! One RPC, as the application and its connection share it. The application writes into the
//! outbox from any thread; the connection's task is the only one that reads it and that touches
//! HTTP/2. A call ends once: by `finish`, or by the peer, whichever comes first.

mod answers;
mod detached;
mod order;
mod outbox;
#[cfg(test)]
pub mod tests;
mod window;

pub use outbox::Mark;

use crate::core::Arity;
use crate::mailbox::Mailbox;
use crate::sync::lock;
use crate::wire::encoding::Encoding;
use crate::wire::frame;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use outbox::Outbox;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};
use window::Window;

/// Who sits at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// For logs: "127.0.0.1:50123", "unix".
    pub address: String,
    /// The certificate that the client presented, DER.
    pub certificate: Option<Vec<u8>>,
}

/// What the peer said when it made the call.
pub struct Head {
    /// Index in the server's list of methods.
    pub method: usize,
    pub headers: HeaderMap,
    /// How replies are compressed, where that pays.
    pub reply_encoding: Encoding,
    pub deadline: Option<Instant>,
    pub peer: Arc<Peer>,
}

/// How a call ends.
pub struct Finish {
    pub code: i32,
    pub message: String,
    /// The framed answer of a unary call.
    pub reply: Option<Bytes>,
    pub trailers: HeaderMap,
    /// How long the application worked for the answer, where it says so.
    pub work: Option<Duration>,
}

pub struct Call {
    pub head: Head,
    pub arity: Arity,
    /// Where the connection keeps its half of the call.
    pub slot: usize,
    mailbox: Arc<Mailbox>,
    posted: AtomicBool,
    // Set by whoever ends the call first: the application, or the connection.
    ended: AtomicBool,
    // Set by the application's finish alone, early or late.
    finished: AtomicBool,
    outbox: Mutex<Outbox>,
    window: Window,
    settled: AtomicU32,
    // What the application sees of this call. It refers to the call and the call to it, until
    // `forget` when the last word has been said.
    handle: Mutex<Option<Handle>>,
}

/// What the application sees of a call; only `python` looks into it.
#[cfg(feature = "python")]
pub type Handle = pyo3::Py<pyo3::PyAny>;
#[cfg(not(feature = "python"))]
pub type Handle = ();

impl Call {
    pub fn new(
        head: Head,
        arity: Arity,
        slot: usize,
        mailbox: Arc<Mailbox>,
        outgoing_window: usize,
    ) -> Self {
        Self {
            head,
            arity,
            slot,
            mailbox,
            posted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            outbox: Mutex::default(),
            window: Window::new(outgoing_window),
            settled: AtomicU32::new(0),
            handle: Mutex::default(),
        }
    }

    /// Send the headers of the answer, with this metadata.
    ///
    /// # Errors
    /// When something was sent before.
    pub fn begin(self: &Arc<Self>, initial: HeaderMap) -> Result<Option<Waker>, TooLate> {
        let mut outbox = lock(&self.outbox);
        if outbox.has_contents() && !self.has_ended() {
            return Err(TooLate);
        }
        outbox.initial = Some(initial);
        drop(outbox);
        Ok(self.post())
    }

    /// Put a message into its frame. None: it is longer than a frame can be.
    pub fn framed(&self, message: &[u8]) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        frame::encode_as(self.head.reply_encoding, message, &mut out)?;
        Some(out)
    }

    /// Queue a message. None: it is longer than a frame can be. Without room for more the
    /// application is told when there is again.
    pub fn send(self: &Arc<Self>, message: &[u8], settles: u32) -> Option<Sent> {
        if self.has_ended() {
            return Some(Sent { has_room: true, wake: None });
        }
        // Compressed outside the lock: the connection's task waits for it.
        let compressed = match self.head.reply_encoding {
            Encoding::Identity => None,
            _ => Some(self.framed(message)?),
        };
        let mut outbox = lock(&self.outbox);
        let length = outbox.append(settles, |out| match compressed {
            None => frame::encode(message, out),
            Some(framed) => {
                out.unsplit(framed);
                Some(())
            }
        })?;
        // Under the lock, as the window asks.
        self.window.add(length);
        let has_room = self.window.has_room(0);
        if !has_room {
            self.window.await_room();
        }
        outbox.order.settle(settles);
        Some(Sent { has_room, wake: self.close(outbox) })
    }

    /// True once after `send` found no room, when half of the window is free again.
    pub fn has_room_again(&self) -> bool {
        self.window.has_room_again()
    }

    /// End the call. Only the first call has an effect.
    pub fn finish(self: &Arc<Self>, finish: Finish) -> Option<Waker> {
        self.finished.store(true, Ordering::Release);
        let already = self.ended.swap(true, Ordering::AcqRel);
        self.forget();
        if already {
            return None;
        }
        let length = finish.reply.as_ref().map_or(0, Bytes::len);
        self.window.add(length);
        lock(&self.outbox).finish = Some(finish);
        self.post()
    }

    /// End the call from the connection's side. True: the application had not ended it.
    pub fn cancel(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// True once the application has said its last word, or has never seen the call.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// The application is not told of this call, so it need not be told of its end.
    pub fn hide(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Run with the outbox; the connection's task only.
    pub fn with_outbox<T>(&self, look: impl FnOnce(&mut Outbox) -> T) -> T {
        look(&mut lock(&self.outbox))
    }

    /// Say that the network has taken so many bytes.
    pub fn sent(&self, bytes: usize) {
        self.window.sent(bytes);
    }

    /// Bytes that the application has given and the network has not taken.
    pub fn unsent(&self) -> usize {
        self.window.unsent()
    }

    /// The connection is about to look: what is posted from here on is seen by the next look.
    pub fn collected(&self) {
        // Read and written in one step, to see all that was written before a post that found true.
        self.posted.swap(false, Ordering::AcqRel);
    }

    /// Run with the slot for what the application sees of this call.
    pub fn with_handle<T>(&self, look: impl FnOnce(&mut Option<Handle>) -> T) -> T {
        look(&mut lock(&self.handle))
    }

    /// True if the application has an object for this call.
    pub fn has_handle(&self) -> bool {
        lock(&self.handle).is_some()
    }

    /// Let go of what the application sees of this call.
    pub fn forget(&self) {
        let handle = lock(&self.handle).take();
        drop(handle);
    }

    // Let go of the outbox, and say the last word if that is all that was missing.
    fn close(self: &Arc<Self>, mut outbox: MutexGuard<'_, Outbox>) -> Option<Waker> {
        let last_word = outbox.take_last_word();
        drop(outbox);
        let ended = last_word.and_then(|finish| self.finish(finish));
        ended.or_else(|| self.post())
    }

    fn post(self: &Arc<Self>) -> Option<Waker> {
        if self.posted.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.mailbox.post(Arc::clone(self))
    }
}

/// HTTP/2 wakes a call when it has something for it.
impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.post().into_iter().for_each(Waker::wake);
    }
}

/// Initial metadata comes before everything else, and once.
#[derive(Debug)]
pub struct TooLate;

/// What `send` tells its caller.
pub struct Sent {
    pub has_room: bool,
    /// To be woken when everything has been posted.
    pub wake: Option<Waker>,
}
