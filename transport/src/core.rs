//! What all connections of a server share: its methods, limits and totals, the events, and who is
//! admitted. Every admission is a guard that gives its place back when it is dropped.

use crate::counters::Counters;
use crate::events::Events;
use crate::lane::outstanding::Outstanding;
use crate::lane::plans::Plans;
use crate::limits::Limits;
use crate::mailbox::Mailbox;
use crate::overhead::Overhead;
use crate::pool::Pool;
use crate::sync::lock;
use slab::Slab;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many messages a method takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    Unary,
    Stream,
}

/// How far a server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving = 0,
    Draining = 1,
    Closed = 2,
}

/// The methods of a server, by path.
#[derive(Debug, Default)]
pub struct Methods {
    by_path: HashMap<String, usize>,
    arities: Vec<Arity>,
    lane: HashSet<usize>,
}

impl Methods {
    pub fn insert(&mut self, path: String, arity: Arity) {
        self.by_path.insert(path, self.arities.len());
        self.arities.push(arity);
    }

    /// Messages of this method may be recognised. Unknown paths have no effect.
    pub fn put_on_lane(&mut self, path: &str) {
        self.lane.extend(self.by_path.get(path));
    }

    pub fn is_on_lane(&self, method: usize) -> bool {
        self.lane.contains(&method)
    }

    pub fn find(&self, path: &str) -> Option<(usize, Arity)> {
        let index = *self.by_path.get(path)?;
        Some((index, *self.arities.get(index)?))
    }
}

/// State of one server.
pub struct Core {
    pub methods: Methods,
    pub limits: Limits,
    pub counters: Arc<Counters>,
    pub events: Events,
    pub plans: Plans,
    pub outstanding: Arc<Outstanding>,
    pub overhead: Overhead,
    pub pool: Arc<Pool>,
    phase: AtomicU8,
    calls: AtomicUsize,
    buffered: AtomicUsize,
    unsent: AtomicUsize,
    connections: Mutex<Slab<Arc<Mailbox>>>,
    fewer: Condvar, // the last call, or a connection, has ended
}

impl Core {
    pub fn new(methods: Methods, limits: Limits) -> Self {
        Self {
            methods,
            limits,
            counters: Arc::default(),
            events: Events::default(),
            plans: Plans::default(),
            outstanding: Arc::default(),
            overhead: Overhead::default(),
            pool: Arc::default(),
            phase: AtomicU8::new(Phase::Serving as u8),
            calls: AtomicUsize::new(0),
            buffered: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            connections: Mutex::default(),
            fewer: Condvar::new(),
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Closed,
        }
    }

    /// Go on to a phase; never back. Every connection is made to look.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        let connections = lock(&self.connections);
        let mailboxes: Vec<_> = connections.iter().map(|(_, one)| Arc::clone(one)).collect();
        drop(connections);
        for mailbox in mailboxes {
            mailbox.knock();
        }
    }

    /// Calls in progress.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// Received bytes that are held for calls in progress.
    pub fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Acquire)
    }

    /// Bytes of answers that peers have not taken.
    pub fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Acquire)
    }

    /// Connections, those in their handshake included.
    pub fn connections(&self) -> usize {
        lock(&self.connections).len()
    }

    /// Wait until no call is in progress, and no connection is left if that is wanted too.
    /// False: it was not so at the given time.
    pub fn wait_idle(&self, until: Instant, connections_too: bool) -> bool {
        let mut connections = lock(&self.connections);
        loop {
            if self.calls() == 0 && (connections.is_empty() || !connections_too) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            let woken = self.fewer.wait_timeout(connections, left);
            connections = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Admit a connection. None: there are as many as allowed.
    pub fn admit_connection(self: &Arc<Self>, mailbox: &Arc<Mailbox>) -> Option<ConnectionPermit> {
        let mut connections = lock(&self.connections);
        if connections.len() >= self.limits.connections {
            return None;
        }
        let key = connections.insert(Arc::clone(mailbox));
        Some(ConnectionPermit { core: Arc::clone(self), key })
    }

    /// Admit a call. None: there are as many as allowed.
    pub fn admit_call(self: &Arc<Self>) -> Option<CallPermit> {
        let before = self.calls.fetch_add(1, Ordering::AcqRel);
        let permit = CallPermit { core: Arc::clone(self) };
        (before < self.limits.concurrent_calls).then_some(permit)
    }
}

/// A place among the connections.
pub struct ConnectionPermit {
    core: Arc<Core>,
    key: usize,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        lock(&self.core.connections).try_remove(self.key);
        self.core.fewer.notify_all();
    }
}

/// A place among the calls.
pub struct CallPermit {
    core: Arc<Core>,
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let was_last = self.core.calls.fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last && self.core.phase() != Phase::Serving {
            // Under the lock, so that nobody is between looking and waiting.
            let _connections = lock(&self.core.connections);
            self.core.fewer.notify_all();
        }
    }
}

/// What is held for all connections together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    Received,
    Unsent,
}

/// A part of such a budget.
pub struct Charge {
    core: Arc<Core>,
    budget: Budget,
    bytes: usize,
}

impl Charge {
    pub fn new(core: Arc<Core>, budget: Budget) -> Self {
        Self { core, budget, bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hold so many bytes from now on. False: there is no room for more.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let (total, limit) = match self.budget {
            Budget::Received => (&self.core.buffered, self.core.limits.buffered_bytes),
            Budget::Unsent => (&self.core.unsent, self.core.limits.outgoing_bytes),
        };
        let grown = bytes.saturating_sub(self.bytes);
        let shrunk = self.bytes.saturating_sub(bytes);
        self.bytes = bytes;
        if grown > 0 {
            let before = total.fetch_add(grown, Ordering::AcqRel);
            return before + grown <= limit;
        }
        if shrunk > 0 {
            total.fetch_sub(shrunk, Ordering::AcqRel);
        }
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.hold(0);
    }
}
