//! A byte stream that is watched: how much passes, when the peer last said something, and which
//! HTTP/2 frames it sends (`scan`).

use crate::counters::{Counter, Counters};
use crate::limits::Limits;
use crate::scan::Scanner;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the watcher of a connection tells its task.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    heard: AtomicU64, // microseconds since started
    flooding: AtomicBool,
    answered: AtomicBool, // the peer was sent something: its next ping is not a strike
}

impl Meter {
    fn new(started: Instant) -> Self {
        Self {
            started,
            heard: AtomicU64::new(0),
            flooding: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        }
    }

    /// When the peer last sent anything.
    pub fn last_heard(&self) -> Instant {
        self.started + Duration::from_micros(self.heard.load(Ordering::Relaxed))
    }

    /// True once the peer has gone over a rate limit.
    pub fn is_flooding(&self) -> bool {
        self.flooding.load(Ordering::Relaxed)
    }

    /// Say that the peer was sent a header or data.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }
}

/// A watched byte stream.
pub struct Metered<S> {
    stream: S,
    counters: Arc<Counters>,
    meter: Arc<Meter>,
    scanner: Scanner,
}

impl<S> Metered<S> {
    pub fn new(stream: S, counters: Arc<Counters>, limits: &Limits) -> (Self, Arc<Meter>) {
        let now = Instant::now();
        let meter = Arc::new(Meter::new(now));
        let scanner = Scanner::new(limits, now);
        (Self { stream, counters, meter: Arc::clone(&meter), scanner }, meter)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        let (_, received) = buffer.filled_mut().split_at_mut(before);
        if !received.is_empty() {
            let now = Instant::now();
            let elapsed = now.duration_since(this.meter.started).as_micros();
            this.meter.heard.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
            this.counters.add(Counter::BytesIn, received.len() as u64);
            if !this.scanner.accept(received, now, &this.meter.answered) {
                this.meter.flooding.store(true, Ordering::Relaxed);
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.count_out(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.count_out(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S> Metered<S> {
    fn count_out(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &polled {
            self.counters.add(Counter::BytesOut, *written as u64);
        }
        polled
    }
}
