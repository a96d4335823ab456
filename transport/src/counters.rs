//! Totals for a metrics endpoint.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares `Counter` and its names side by side.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    ConnectionsTotal = "connections_total",
    CallsTotal = "calls_total",
    MessagesIn = "messages_in",
    MessagesOut = "messages_out",
    BytesIn = "bytes_in",
    BytesOut = "bytes_out",
    /// Calls that the peer reset or left before they were finished.
    Resets = "resets",
    /// Calls whose deadline passed before they were finished.
    DeadlinesExceeded = "deadlines_exceeded",
    /// Connections above the limit.
    RefusedConnections = "refused_connections",
    /// Connections whose TLS or HTTP/2 handshake failed or took too long.
    RefusedHandshakes = "refused_handshakes",
    /// Connections dropped because of their reset, control frame or ping rate.
    RefusedFloods = "refused_floods",
    /// Connections dropped because they did not answer a ping.
    DroppedKeepalive = "dropped_keepalive",
    /// Connections dropped because they took nothing of what waited for them.
    DroppedStalled = "dropped_stalled",
    /// Connections dropped because their calls went on too long after they were told to go away.
    DroppedOld = "dropped_old",
    /// Calls above the limit of calls in progress.
    RefusedCalls = "refused_calls",
    /// Calls while draining.
    RefusedDraining = "refused_draining",
    /// Calls of a connection that does not take its answers.
    RefusedUnread = "refused_unread",
    /// Methods that nobody registered.
    RefusedMethods = "refused_methods",
    /// Calls whose headers are over the limit.
    RefusedHeaders = "refused_headers",
    /// Requests that are not gRPC: method, content type, metadata, timeout, encoding.
    RefusedRequests = "refused_requests",
    /// Messages over the limit.
    RefusedMessageSize = "refused_message_size",
    /// Messages that found no room in the memory for requests.
    RefusedMemory = "refused_memory",
    /// Bytes that are not messages, or not as many as the method takes.
    RefusedMessages = "refused_messages",
    TlsReloads = "tls_reloads",
    TlsReloadFailures = "tls_reload_failures",
}

/// The totals of one server.
#[derive(Debug)]
pub struct Counters {
    totals: [AtomicU64; NAMES.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { totals: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Counters {
    pub fn add(&self, counter: Counter, amount: u64) {
        if let Some(total) = self.totals.get(counter as usize) {
            total.fetch_add(amount, Ordering::Relaxed);
        }
    }

    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Give every total with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let totals = self.totals.iter().map(|total| total.load(Ordering::Relaxed));
        NAMES.iter().copied().zip(totals)
    }
}
