//! A byte stream that reads and writes much at once. h2 flushes after every DATA frame; the task of
//! a connection corks the stream while it has more to do, so that a burst of requests leaves
//! together.

use super::address::Socket;
use bytes::{Buf, BytesMut};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{ready, Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const READ_BYTES: usize = 64 << 10;
const WAITING_BYTES: usize = 256 << 10; // above it a burst leaves in parts

/// The handle of the task.
#[derive(Debug, Default)]
pub struct Cork {
    is_in: Cell<bool>,
    is_holding: Cell<bool>,
}

impl Cork {
    /// Put flushes off, or let the next one through.
    pub fn set(&self, is_in: bool) {
        self.is_in.set(is_in);
    }

    /// True when something waits for a flush.
    pub fn is_holding(&self) -> bool {
        self.is_holding.get()
    }
}

/// A buffered byte stream.
pub struct Corked {
    stream: Socket,
    cork: Rc<Cork>,
    waiting: BytesMut,
    received: Box<[u8]>,
    unread: std::ops::Range<usize>, // of received
}

impl Corked {
    pub fn new(stream: Socket) -> (Self, Rc<Cork>) {
        let cork = Rc::<Cork>::default();
        let corked = Self {
            stream,
            cork: Rc::clone(&cork),
            waiting: BytesMut::with_capacity(READ_BYTES),
            received: vec![0; READ_BYTES].into_boxed_slice(),
            unread: 0..0,
        };
        (corked, cork)
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        self.waiting.clear(); // the whole buffer is free again
        self.cork.is_holding.set(false);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            let mut filled = ReadBuf::new(&mut this.received);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut filled))?;
            this.unread = 0..filled.filled().len();
        }
        let count = buffer.remaining().min(this.unread.len());
        let start = this.unread.start;
        buffer.put_slice(&this.received[start..start + count]);
        this.unread.start += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Corked {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.waiting.len() >= WAITING_BYTES {
            ready!(this.poll_drain(context))?;
        }
        for slice in slices {
            this.waiting.extend_from_slice(slice);
        }
        this.cork.is_holding.set(!this.waiting.is_empty());
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cork.is_in.get() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}
