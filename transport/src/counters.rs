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
    /// Those of them that are streams.
    StreamsTotal = "streams_total",
    MessagesIn = "messages_in_total",
    MessagesOut = "messages_out_total",
    BytesIn = "bytes_in_total",
    BytesOut = "bytes_out_total",
    /// Calls that the peer reset or left before they were finished.
    Resets = "resets_total",
    /// Calls whose deadline passed before they were finished.
    DeadlinesExceeded = "deadlines_exceeded_total",
    /// Connections above the limit.
    RefusedConnections = "refused_connections_total",
    /// Connections whose TLS or HTTP/2 handshake failed or took too long.
    RefusedHandshakes = "refused_handshakes_total",
    /// Connections dropped because of their reset, control frame or ping rate.
    DroppedFloods = "dropped_floods_total",
    /// Connections dropped because they did not answer a ping.
    DroppedKeepalive = "dropped_keepalive_total",
    /// Connections dropped because they took nothing of what waited for them.
    DroppedStalled = "dropped_stalled_total",
    /// Connections dropped because their calls went on too long after they were told to go away.
    DroppedOld = "dropped_old_total",
    /// Calls above the limit of calls in progress.
    RefusedCalls = "refused_calls_total",
    /// Calls while draining.
    RefusedDraining = "refused_draining_total",
    /// Calls of a connection that does not take its answers.
    RefusedUnread = "refused_unread_total",
    /// Methods that nobody registered.
    RefusedMethods = "refused_methods_total",
    /// Calls whose headers are over the limit.
    RefusedHeaders = "refused_headers_total",
    /// Requests that are not gRPC: method, content type, metadata, timeout, encoding.
    RefusedRequests = "refused_requests_total",
    /// Messages over the limit.
    RefusedMessageSize = "refused_message_size_total",
    /// Messages that found no room in the memory for requests.
    RefusedMemory = "refused_memory_total",
    /// Bytes that are not messages, or not as many as the method takes.
    RefusedMessages = "refused_messages_total",
    TlsReloads = "tls_reloads_total",
    TlsReloadFailures = "tls_reload_failures_total",
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
