//! gRPC's message frames: one flag byte, four bytes of length, the message. The decoder is fed the
//! bytes of DATA frames as they come and gives one message at a time; a message over the limit is
//! refused at its header, before anything is stored.

use super::encoding::{gzip, Encoding, InflateError, Inflater};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;

/// Length of the prefix of every message.
pub const HEADER: usize = 5;

// A message that lies whole in a DATA frame is handed on as a slice of the read buffer. Below this
// size it is copied: a slice would keep a buffer alive that is many times its size.
const SLICE_FROM: usize = 1024;
const FIRST_ALLOCATION: usize = 64 * 1024; // memory follows the bytes received, not the header

/// Why the bytes of a call are not messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The header announces, or the compressed message contains, more than the limit.
    TooLarge { announced: Option<usize>, limit: usize },
    /// The flag byte is neither 0 nor 1.
    Flag(u8),
    /// The flag says compressed, but the call named no encoding.
    NoEncoding,
    /// The compressed message is not what its encoding says.
    Corrupt,
    /// The machine has no memory for it.
    OutOfMemory,
}

impl fmt::Display for FrameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { announced: Some(announced), limit } => {
                write!(formatter, "Received message larger than max ({announced} vs. {limit})")
            }
            Self::TooLarge { announced: None, limit } => {
                write!(formatter, "Decompressed message larger than max ({limit})")
            }
            Self::Flag(flag) => write!(formatter, "Message flag is {flag}, expected 0 or 1"),
            Self::NoEncoding => formatter
                .write_str("Message is flagged as compressed, but grpc-encoding names no encoding"),
            Self::Corrupt => formatter.write_str("Message cannot be decompressed"),
            Self::OutOfMemory => formatter.write_str("The machine has no memory for the message"),
        }
    }
}

/// Append the frame of an uncompressed message. None: longer than the header can say.
pub fn encode(message: &[u8], out: &mut BytesMut) -> Option<()> {
    put(0, message, out)
}

/// Append the frame of a message to a call whose replies have this encoding: compressed where that
/// pays. None: longer than the header can say.
pub fn encode_as(encoding: Encoding, message: &[u8], out: &mut BytesMut) -> Option<()> {
    match if encoding == Encoding::Gzip { gzip(message) } else { None } {
        Some(compressed) => put(1, &compressed, out),
        None => put(0, message, out),
    }
}

fn put(flag: u8, message: &[u8], out: &mut BytesMut) -> Option<()> {
    let length = u32::try_from(message.len()).ok()?;
    out.reserve(HEADER + message.len());
    out.put_u8(flag);
    out.put_u32(length);
    out.put_slice(message);
    Some(())
}

/// Splits the bytes of one call into messages.
pub struct Decoder {
    encoding: Encoding,
    limit: usize,
    state: State,
}

enum State {
    Header { bytes: [u8; HEADER], have: usize },
    Plain { bytes: Vec<u8>, missing: usize },
    Compressed { inflater: Box<Inflater>, missing: usize },
}

impl Decoder {
    /// limit: largest message in bytes, inflated; one of exactly this size is let through.
    #[must_use]
    pub fn new(encoding: Encoding, limit: usize) -> Self {
        Self { encoding, limit, state: State::start() }
    }

    /// True between two messages: the call may end here.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Header { have: 0, .. })
    }

    /// Bytes stored for the message that is not complete yet.
    #[must_use]
    pub fn stored(&self) -> usize {
        match &self.state {
            State::Header { .. } => 0,
            State::Plain { bytes, .. } => bytes.len(),
            State::Compressed { inflater, .. } => inflater.inflated(),
        }
    }

    /// Take bytes from the front of data until a message is complete or nothing is left.
    ///
    /// # Errors
    /// When the bytes are not messages; the decoder must not be used afterwards.
    pub fn next(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        if let State::Header { bytes, have } = &mut self.state {
            let taken = data.len().min(HEADER - *have);
            data.copy_to_slice(&mut bytes[*have..*have + taken]);
            *have += taken;
            if *have < HEADER {
                return Ok(None);
            }
            let header = *bytes;
            if let Some(message) = self.start_message(header, data)? {
                return Ok(Some(message));
            }
        }
        self.continue_message(data)
    }

    fn start_message(
        &mut self,
        header: [u8; HEADER],
        data: &mut Bytes,
    ) -> Result<Option<Bytes>, FrameError> {
        let [flag, length @ ..] = header;
        let length = u32::from_be_bytes(length) as usize;
        if flag > 1 {
            return Err(FrameError::Flag(flag));
        }
        if length > self.limit {
            return Err(FrameError::TooLarge { announced: Some(length), limit: self.limit });
        }
        if flag == 1 {
            let inflater =
                Inflater::new(self.encoding, self.limit).ok_or(FrameError::NoEncoding)?;
            self.state = State::Compressed { inflater: Box::new(inflater), missing: length };
            return Ok(None);
        }
        if data.len() >= length {
            self.state = State::start();
            let message = data.split_to(length);
            let copied = length < SLICE_FROM;
            return Ok(Some(if copied { Bytes::copy_from_slice(&message) } else { message }));
        }
        self.state = State::Plain { bytes: Vec::new(), missing: length };
        Ok(None)
    }

    fn continue_message(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        match &mut self.state {
            State::Header { .. } => return Ok(None),
            State::Plain { bytes, missing } => {
                let taken = data.len().min(*missing);
                if bytes.capacity() - bytes.len() < taken {
                    let doubled = bytes.len().max(FIRST_ALLOCATION).max(taken);
                    // Exactly: with the last byte it is full, and is handed on without a copy.
                    let reserved = bytes.try_reserve_exact(doubled.min(*missing));
                    reserved.map_err(|_| FrameError::OutOfMemory)?;
                }
                bytes.extend_from_slice(&data.split_to(taken));
                *missing -= taken;
                if *missing > 0 {
                    return Ok(None);
                }
            }
            State::Compressed { inflater, missing } => {
                let taken = data.len().min(*missing);
                inflater.push(&data.split_to(taken)).map_err(|error| explain(error, self.limit))?;
                *missing -= taken;
                if *missing > 0 {
                    return Ok(None);
                }
            }
        }
        match std::mem::replace(&mut self.state, State::start()) {
            State::Header { .. } => Ok(None),
            State::Plain { bytes, .. } => Ok(Some(Bytes::from(bytes))),
            State::Compressed { inflater, .. } => {
                inflater.finish().map(Some).map_err(|error| explain(error, self.limit))
            }
        }
    }
}

impl State {
    fn start() -> Self {
        Self::Header { bytes: [0; HEADER], have: 0 }
    }
}

fn explain(error: InflateError, limit: usize) -> FrameError {
    match error {
        InflateError::TooLarge => FrameError::TooLarge { announced: None, limit },
        InflateError::Corrupt => FrameError::Corrupt,
        InflateError::OutOfMemory => FrameError::OutOfMemory,
    }
}
