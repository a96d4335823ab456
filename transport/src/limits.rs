//! What a server allows its peers. Plain values, checked where they are made.

use std::time::Duration;

/// Every limit of a server. A duration of `None` means never.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest message in bytes, inflated.
    pub message_bytes: usize,
    /// Calls in progress, all connections together.
    pub concurrent_calls: usize,
    /// Calls in progress on one connection; announced to the peer, more are refused by HTTP/2.
    pub streams_per_connection: u32,
    /// Connections, those in their handshake included.
    pub connections: usize,
    /// Bytes of all request headers of one call, as HTTP/2 counts them.
    pub header_list_bytes: u32,
    /// Unsettled messages of one stream.
    pub stream_window: usize,
    /// Their size; one larger message is let through alone.
    pub stream_window_bytes: usize,
    /// Received bytes held for calls in progress, all connections together.
    pub buffered_bytes: usize,
    /// Unsent bytes of one call above which `send` says that the window is full.
    pub outgoing_window_bytes: usize,
    /// Unsent bytes of one connection above which new calls on it are refused.
    pub connection_outgoing_bytes: usize,
    /// Unsent bytes of all connections above which those that hold more than their share of it are
    /// refused new calls.
    pub outgoing_bytes: usize,
    /// Compress replies for peers that take gzip.
    pub compress_replies: bool,
    /// HTTP/2 flow-control windows: what a peer may send before it is consumed.
    pub http2_stream_window: u32,
    pub http2_connection_window: u32,
    /// `RST_STREAM` frames a second of one peer; a second's worth may come at once.
    pub resets_per_second: u32,
    /// PING, SETTINGS and PRIORITY frames a second of one peer; likewise.
    pub control_frames_per_second: u32,
    /// A peer that sent nothing for so long is pinged ...
    pub keepalive_time: Option<Duration>,
    /// ... and dropped when it does not answer for so long.
    pub keepalive_timeout: Duration,
    /// A peer that pings more often, without being sent anything, is dropped.
    pub min_ping_interval: Option<Duration>,
    /// A connection without calls for so long is closed.
    pub connection_idle: Option<Duration>,
    /// A connection of this age is told to go away ...
    pub connection_age: Option<Duration>,
    /// ... and dropped after so much more.
    pub connection_age_grace: Duration,
    /// Time for TLS and the HTTP/2 preface.
    pub handshake_timeout: Duration,
    /// A peer that takes nothing of what waits for it for so long is dropped.
    pub send_timeout: Option<Duration>,
}

#[cfg(test)]
impl Limits {
    pub fn for_tests() -> Self {
        let second = Duration::from_secs(1);
        Self {
            message_bytes: 1 << 20,
            concurrent_calls: 16,
            streams_per_connection: 16,
            connections: 16,
            header_list_bytes: 1 << 14,
            stream_window: 4,
            stream_window_bytes: 1 << 20,
            buffered_bytes: 1 << 24,
            outgoing_window_bytes: 1 << 20,
            connection_outgoing_bytes: 1 << 22,
            outgoing_bytes: 1 << 24,
            compress_replies: false,
            http2_stream_window: 1 << 20,
            http2_connection_window: 1 << 22,
            resets_per_second: 100,
            control_frames_per_second: 100,
            keepalive_time: None,
            keepalive_timeout: second,
            min_ping_interval: None,
            connection_idle: None,
            connection_age: None,
            connection_age_grace: second,
            handshake_timeout: second,
            send_timeout: None,
        }
    }
}
