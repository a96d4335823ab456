//! What is sent, where and how often: the settings of a load.

use super::address::Peer;
use super::arrivals::Arrivals;
use crate::wire::frame::HEADER;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use std::time::{Duration, Instant};

/// Digits of the number that is written into a message of a stream.
pub const ID_DIGITS: usize = 8;

/// How answers on a stream find their requests, by numbers of protobuf fields.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    /// Where in each message its id lies: `ID_DIGITS` bytes that are overwritten.
    pub id_at: Vec<usize>,
    /// The way to the id in a reply. Without one, answers come in order.
    pub reply_id: Vec<u32>,
    /// The way to the text of an error in a reply: where there is one, the request failed.
    pub reply_error: Vec<u32>,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// So many are in flight: the next goes when one is answered.
    Closed { in_flight: usize },
    /// So many arrive a second, whether others are answered or not.
    Open { per_second: f64, seed: u64 },
}

/// A load.
#[derive(Clone)]
pub struct Work {
    pub peer: Peer,
    /// Full name of the method.
    pub path: String,
    /// Messages with their frame headers, sent in turn.
    pub messages: Vec<Bytes>,
    pub headers: HeaderMap,
    /// Streams over all connections; 0: calls are unary.
    pub streams: usize,
    pub matching: Matching,
    pub schedule: Schedule,
    /// Requests in flight on one connection, whatever an open loop asks for.
    pub most_in_flight: usize,
    /// After so long without an answer a request has failed.
    pub timeout: Duration,
    /// Trailers that hold whole microseconds.
    pub timings: Vec<HeaderName>,
    pub connections: usize,
    pub threads: usize,
}

impl Work {
    /// The head of a call.
    ///
    /// # Errors
    /// When address or path cannot stand in a request.
    pub fn request(&self) -> Result<Request<()>, String> {
        request(&self.peer, &self.path, &self.headers)
    }

    /// A message for a stream, with its id.
    pub fn message(&self, turn: usize, id: u32) -> Bytes {
        let at = turn % self.messages.len().max(1);
        let message = self.messages.get(at).cloned().unwrap_or_default();
        let Some(&place) = self.matching.id_at.get(at) else { return message };
        let place = HEADER + place;
        let mut numbered = BytesMut::from(message);
        if let Some(digits) = numbered.get_mut(place..place + ID_DIGITS) {
            digits.copy_from_slice(&id_text(id));
        }
        numbered.freeze()
    }
}

/// An id as it stands in messages.
pub fn id_text(id: u32) -> [u8; ID_DIGITS] {
    let mut left = id;
    let mut digits = [b'0'; ID_DIGITS];
    for digit in digits.iter_mut().rev() {
        let nibble = u8::try_from(left & 0xf).unwrap_or(0);
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        left >>= 4;
    }
    digits
}

/// The head of a call to a peer.
///
/// # Errors
/// When address or path cannot stand in a request.
pub fn request(peer: &Peer, path: &str, headers: &HeaderMap) -> Result<Request<()>, String> {
    let uri = Uri::builder().scheme(peer.scheme()).authority(peer.authority());
    let uri = uri.path_and_query(path).build().map_err(|error| {
        format!("no request can be made of {} and {path:?}: {error}", peer.text())
    })?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers.clone();
    let own = request.headers_mut();
    own.insert("te", HeaderValue::from_static("trailers"));
    own.insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(request)
}

/// A message with its frame header. None: it is longer than that can say.
pub fn framed(message: &[u8]) -> Option<Bytes> {
    let mut framed = BytesMut::with_capacity(HEADER + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).ok()?);
    framed.put_slice(message);
    Some(framed.freeze())
}

/// The schedule of one connection, as it goes.
#[derive(Debug)]
pub enum Pace {
    Closed { in_flight: usize },
    Open { arrivals: Arrivals },
}

impl Pace {
    /// The part of connection number `index` in a load that begins at start. Poisson processes
    /// that run beside each other are one of the sum of their rates.
    pub fn new(work: &Work, index: usize, start: Instant) -> Self {
        match work.schedule {
            Schedule::Closed { in_flight } => {
                Self::Closed { in_flight: share(in_flight, work.connections, index) }
            }
            Schedule::Open { per_second, seed } => {
                #[allow(clippy::cast_precision_loss)] // connections are few
                let rate = per_second / work.connections as f64;
                let seed = seed.wrapping_mul(0x9E37_79B9).wrapping_add(index as u64);
                Self::Open { arrivals: Arrivals::new(rate, seed, start) }
            }
        }
    }

    /// Since when a request is due. None: none is.
    pub fn due(&self, in_flight: usize, now: Instant) -> Option<Instant> {
        match self {
            Self::Closed { in_flight: quota } => (in_flight < *quota).then_some(now),
            Self::Open { arrivals } => (arrivals.next() <= now).then_some(arrivals.next()),
        }
    }

    /// The request that was due has been sent.
    pub fn sent(&mut self) {
        if let Self::Open { arrivals } = self {
            arrivals.advance();
        }
    }

    /// When the next request is due, where that is a matter of time.
    pub fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { arrivals } => Some(arrivals.next()),
        }
    }
}

/// The part of one of several that take equal parts of a whole, the first ones the remainder.
pub fn share(whole: usize, parts: usize, index: usize) -> usize {
    let parts = parts.max(1);
    whole / parts + usize::from(index < whole % parts)
}
