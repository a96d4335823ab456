//! Message encodings: identity, gzip, deflate. Inflating happens as bytes arrive and stops at a
//! hard cap, so that a small request cannot become a large allocation. Replies are written in gzip,
//! where that is wanted and pays.

use bytes::Bytes;
use flate2::write::{GzDecoder, GzEncoder, ZlibDecoder};
use flate2::Compression;
use std::io::{self, Write};

/// What is offered to peers in `grpc-accept-encoding`.
pub const ACCEPTED: &str = "identity,deflate,gzip";

// A reply that fits into two packets of Ethernet gains nothing from being smaller.
const GZIP_FROM: usize = 2 * 1460;

/// How the messages of a call are compressed when their flag says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    /// Read a `grpc-encoding` header. None: an encoding that is not served.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        match value {
            b"identity" => Some(Self::Identity),
            b"gzip" => Some(Self::Gzip),
            b"deflate" => Some(Self::Deflate),
            _ => None,
        }
    }
}

/// Tell whether a peer takes gzip, by its `grpc-accept-encoding` header.
#[must_use]
pub fn takes_gzip(accepted: &[u8]) -> bool {
    accepted.split(|&byte| byte == b',').any(|name| name.trim_ascii() == b"gzip")
}

/// Compress a message. None: it would not pay.
#[must_use]
pub fn gzip(message: &[u8]) -> Option<Vec<u8>> {
    if message.len() < GZIP_FROM {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 2), Compression::fast());
    encoder.write_all(message).ok()?;
    let compressed = encoder.finish().ok()?;
    (compressed.len() < message.len()).then_some(compressed)
}

/// Why a compressed message could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// It would be larger than the cap.
    TooLarge,
    /// It is not what its encoding says.
    Corrupt,
    /// The machine has no memory for it.
    OutOfMemory,
}

/// Inflates one message.
pub struct Inflater {
    stream: Stream,
}

enum Stream {
    Gzip(GzDecoder<Capped>),
    Deflate(ZlibDecoder<Capped>),
}

impl Inflater {
    /// limit: largest inflated size in bytes. None: the encoding is identity.
    #[must_use]
    pub fn new(encoding: Encoding, limit: usize) -> Option<Self> {
        let sink = Capped { bytes: Vec::new(), limit, failure: None };
        let stream = match encoding {
            Encoding::Identity => return None,
            Encoding::Gzip => Stream::Gzip(GzDecoder::new(sink)),
            Encoding::Deflate => Stream::Deflate(ZlibDecoder::new(sink)),
        };
        Some(Self { stream })
    }

    /// Bytes inflated so far.
    #[must_use]
    pub fn inflated(&self) -> usize {
        self.sink().bytes.len()
    }

    /// Take compressed bytes.
    ///
    /// # Errors
    /// When the message is corrupt or too large.
    pub fn push(&mut self, compressed: &[u8]) -> Result<(), InflateError> {
        let written = match &mut self.stream {
            Stream::Gzip(stream) => stream.write_all(compressed),
            Stream::Deflate(stream) => stream.write_all(compressed),
        };
        written.map_err(|_| self.reason())
    }

    /// Say that the message is complete and give its inflated bytes.
    ///
    /// # Errors
    /// When the message is corrupt, cut off or too large.
    pub fn finish(mut self) -> Result<Bytes, InflateError> {
        let ended = match &mut self.stream {
            Stream::Gzip(stream) => stream.try_finish(),
            Stream::Deflate(stream) => stream.try_finish(),
        };
        ended.map_err(|_| self.reason())?;
        let sink = match self.stream {
            Stream::Gzip(stream) => stream.finish(),
            Stream::Deflate(stream) => stream.finish(),
        };
        sink.map(|sink| Bytes::from(sink.bytes)).map_err(|_| InflateError::Corrupt)
    }

    fn sink(&self) -> &Capped {
        match &self.stream {
            Stream::Gzip(stream) => stream.get_ref(),
            Stream::Deflate(stream) => stream.get_ref(),
        }
    }

    fn reason(&self) -> InflateError {
        self.sink().failure.unwrap_or(InflateError::Corrupt)
    }
}

struct Capped {
    bytes: Vec<u8>,
    limit: usize,
    failure: Option<InflateError>,
}

impl Capped {
    fn refuse(&mut self, failure: InflateError) -> io::Error {
        self.failure = Some(failure);
        io::ErrorKind::Other.into()
    }
}

impl Write for Capped {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        if chunk.len() > self.limit - self.bytes.len() {
            return Err(self.refuse(InflateError::TooLarge));
        }
        if self.bytes.try_reserve(chunk.len()).is_err() {
            return Err(self.refuse(InflateError::OutOfMemory));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
