//! A server: its threads, its listeners, and its phases from serving over draining to closed.

use crate::core::{Core, Phase};
use crate::counters::Counter;
use crate::events::Event;
use crate::listen::Listener;
use crate::tls::{Reload, Tls};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

const ABORT: Duration = Duration::from_secs(5); // for tasks to be dropped; each takes microseconds
const FLUSH: Duration = Duration::from_secs(1); // for peers to take the last answers and say bye

/// A gRPC server without methods of its own.
pub struct Server {
    pub core: Arc<Core>,
    tls: Option<Arc<Tls>>,
    workers: usize,
    phase: watch::Sender<Phase>,
    is_started: AtomicBool,
    // Read by whoever drives it or waits for its events, written when it is made and ended.
    runtime: RwLock<Option<Runtime>>,
}

impl Server {
    /// workers: threads for the network; with 0 it is served by whoever is in `take`.
    pub fn new(core: Core, tls: Option<Tls>, workers: usize) -> Self {
        Self {
            core: Arc::new(core),
            tls: tls.map(Arc::new),
            workers,
            phase: watch::Sender::new(Phase::Serving),
            is_started: AtomicBool::new(false),
            runtime: RwLock::new(None),
        }
    }

    /// Listen and serve. Returns the addresses with their real ports.
    ///
    /// # Errors
    /// With a sentence that names the address that cannot be listened on.
    pub fn start(&self, addresses: &[String]) -> Result<Vec<String>, String> {
        if self.core.phase() != Phase::Serving || self.is_started.swap(true, Ordering::AcqRel) {
            return Err("a server is started once".to_owned());
        }
        let mut slot = self.runtime.write().unwrap_or_else(PoisonError::into_inner);
        let mut builder = match self.workers {
            0 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder
            .worker_threads(self.workers.max(1))
            .thread_name("penstock-transport")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start threads: {error}"))?;
        let guard = runtime.enter();
        let mut listeners = Vec::new();
        for address in addresses {
            listeners.extend(Listener::bind(address)?);
        }
        let bound = listeners.iter().map(Listener::address).collect();
        for listener in listeners {
            let core = Arc::clone(&self.core);
            runtime.spawn(listener.serve(core, self.tls.clone(), self.phase.subscribe()));
        }
        drop(guard);
        *slot = Some(runtime);
        Ok(bound)
    }

    /// Wait for events and take up to `max_events`; see `Events::take`.
    pub fn take(&self, max_events: usize, timeout: Option<Duration>) -> Vec<Event> {
        let events = &self.core.events;
        if max_events == 0 {
            return Vec::new();
        }
        if self.workers > 0 {
            return events.take(max_events, timeout);
        }
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let runtime = self.runtime.read().unwrap_or_else(PoisonError::into_inner);
            let Some(runtime) = runtime.as_ref() else { return Vec::new() };
            runtime.block_on(async {
                // What was answered since the last time leaves first, also when more is to do.
                tokio::task::yield_now().await;
                let ready = poll_fn(|context| events.poll_ready(context));
                match until {
                    Some(until) => drop(tokio::time::timeout_at(until.into(), ready).await),
                    None => ready.await,
                }
            });
            let burst = events.try_take(max_events);
            let is_late = until.is_some_and(|until| until <= Instant::now());
            if !burst.is_empty() || is_late || self.is_closed() {
                return burst;
            }
        }
    }

    /// Refuse new connections and calls, and wait for those in progress. True: all have ended.
    pub fn drain(&self, timeout: Duration) -> bool {
        let now = Instant::now();
        self.enter(Phase::Draining);
        let until = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(1 << 30));
        if !self.core.wait_idle(until, false) {
            return false;
        }
        // The answers have been written; let the connections close by themselves.
        let flushed = until.min(Instant::now() + FLUSH);
        self.core.wait_idle(flushed, true);
        true
    }

    /// Abort what is left.
    pub fn close(&self) {
        self.core.events.close();
        self.core.plans.close();
        self.enter(Phase::Closed);
        // Who drives it has been woken up, and leaves.
        let runtime = self.runtime.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(ABORT);
        }
    }

    pub fn is_closed(&self) -> bool {
        self.core.phase() == Phase::Closed
    }

    /// Load the TLS files now. None: done, or there are none.
    pub fn reload_tls(&self) -> Option<String> {
        match self.tls.as_ref()?.reload() {
            Reload::Failed(error) => {
                self.core.counters.count(Counter::TlsReloadFailures);
                Some(error)
            }
            Reload::Loaded | Reload::Unchanged => {
                self.core.counters.count(Counter::TlsReloads);
                None
            }
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let is_later = phase > *current;
            *current = phase.max(*current);
            is_later
        });
        self.core.enter(phase);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}
