//! A byte stream that is watched and buffered: how much passes, when the peer last said something,
//! and which HTTP/2 frames it sends (`scan`).
//!
//! h2 flushes after every DATA frame. The connection's task corks the stream while it has more to
//! do, so that the answers of a burst leave together.

use crate::core::Core;
use crate::counters::{Counter, Counters};
use crate::pool::{Chunk, Pool, SIZE};
use crate::scan::Scanner;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the watcher of a connection tells its task.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    heard: AtomicU64, // microseconds since started
    flooding: AtomicBool,
    answered: AtomicBool, // the peer was sent something: its next ping is not a strike
    corked: AtomicBool,   // h2's flushes are put off
    holding: AtomicBool,  // something was put off
}

impl Meter {
    fn new(started: Instant) -> Self {
        Self {
            started,
            heard: AtomicU64::new(0),
            flooding: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            corked: AtomicBool::new(false),
            holding: AtomicBool::new(false),
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

    /// Put flushes off, or let the next one through.
    pub fn cork(&self, corked: bool) {
        self.corked.store(corked, Ordering::Relaxed);
    }

    /// True when something waits for a flush.
    pub fn is_holding(&self) -> bool {
        self.holding.load(Ordering::Relaxed)
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
    pool: Arc<Pool>,
    received: Option<Chunk>,
    waiting: Option<Chunk>,
}

impl<S> Metered<S> {
    pub fn new(stream: S, core: &Core) -> (Self, Arc<Meter>) {
        let now = Instant::now();
        let meter = Arc::new(Meter::new(now));
        let metered = Self {
            stream,
            counters: Arc::clone(&core.counters),
            meter: Arc::clone(&meter),
            scanner: Scanner::new(&core.limits, now),
            pool: Arc::clone(&core.pool),
            received: None,
            waiting: None,
        };
        (metered, meter)
    }

    fn note(&mut self, chunk: &mut Chunk, count: usize) {
        let now = Instant::now();
        let elapsed = now.duration_since(self.meter.started).as_micros();
        self.meter.heard.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.counters.add(Counter::BytesIn, count as u64);
        let (received, _) = chunk.room().split_at_mut(count);
        if !self.scanner.accept(received, now, &self.meter.answered) {
            self.meter.flooding.store(true, Ordering::Relaxed);
        }
        chunk.extend(count);
    }
}

impl<S: AsyncRead + Unpin> Metered<S> {
    // Ready with None: the peer sends no more.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        if let Some(chunk) = self.received.take() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        let mut chunk = self.pool.lend();
        let mut buffer = ReadBuf::new(chunk.room());
        let polled = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
        let count = buffer.filled().len();
        if count == 0 {
            self.pool.give_back(chunk);
            return polled.map_ok(|()| None);
        }
        self.note(&mut chunk, count);
        Poll::Ready(Ok(Some(chunk)))
    }
}

impl<S: AsyncWrite + Unpin> Metered<S> {
    // Write what waits.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(chunk) = &mut self.waiting {
            if chunk.is_empty() {
                self.meter.holding.store(false, Ordering::Relaxed);
                self.waiting.take().into_iter().for_each(|chunk| self.pool.give_back(chunk));
                break;
            }
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(context, chunk.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            chunk.advance(written);
            self.counters.add(Counter::BytesOut, written as u64);
        }
        Poll::Ready(Ok(()))
    }

    fn wait(&mut self, bytes: &[u8]) -> usize {
        self.meter.holding.store(true, Ordering::Relaxed);
        self.waiting.get_or_insert_with(|| self.pool.lend()).append(bytes)
    }

    fn has_room(&self, count: usize) -> bool {
        // Bytes that have been written leave no room in front: what is left of it is enough.
        self.waiting.as_ref().is_none_or(|chunk| chunk.end() + count <= SIZE)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(mut chunk) = ready!(this.poll_receive(context))? else {
            return Poll::Ready(Ok(()));
        };
        let count = buffer.remaining().min(chunk.len());
        buffer.put_slice(chunk.filled().split_at(count).0);
        chunk.advance(count);
        if chunk.is_empty() {
            this.pool.give_back(chunk);
        } else {
            this.received = Some(chunk);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
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
        let count = slices.iter().map(|slice| slice.len()).sum();
        if !this.has_room(count) {
            ready!(this.poll_drain(context))?;
        }
        // What is larger than a buffer goes in part; h2 comes again with the rest.
        Poll::Ready(Ok(slices.iter().map(|slice| this.wait(slice)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.corked.load(Ordering::Relaxed) {
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

#[cfg(test)]
mod tests {
    use super::Metered;
    use crate::core::{Core, Methods};
    use crate::limits::Limits;
    use crate::pool::SIZE;
    use proptest::prelude::*;
    use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt};

    fn in_runtime<T>(run: impl std::future::Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().expect("a runtime").block_on(run)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bytes_pass_unchanged_in_both_directions_however_they_are_cut(
            message in prop::collection::vec(any::<u8>(), 1..3 * SIZE),
            cut in 1usize..2 * SIZE,
            pipe in 1usize..SIZE,
            corked: bool,
        ) {
            in_runtime(async {
                let core = Core::new(Methods::default(), Limits::for_tests());
                let (near, mut far) = duplex(pipe);
                let (mut metered, meter) = Metered::new(near, &core);
                let expected = message.clone();
                let echo = async {
                    let mut bytes = vec![0; expected.len()];
                    far.read_exact(&mut bytes).await.expect("all of it");
                    // As a DATA frame that never ends: nothing in it is taken for a frame.
                    let mut framed = vec![0; 24];
                    framed.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
                    framed.extend(&bytes);
                    far.write_all(&framed).await.expect("open");
                    bytes
                };
                let talk = async {
                    for part in message.chunks(cut) {
                        meter.cork(corked);
                        metered.write_all(part).await.expect("open");
                        metered.flush().await.expect("open");
                    }
                    meter.cork(false);
                    metered.flush().await.expect("open");
                    let mut back = vec![0; 33 + message.len()];
                    metered.read_exact(&mut back).await.expect("all of it");
                    back.split_off(33)
                };
                let (sent, back) = tokio::join!(echo, talk);
                prop_assert_eq!(&sent, &message);
                prop_assert_eq!(&back, &message);
                prop_assert!(!meter.is_holding());
                Ok(())
            })?;
        }
    }
}
