//! The receiving half of a call: DATA frames become messages, as far as the window is open. What
//! is not read is not consumed either, so HTTP/2's flow control stops the peer.

use crate::wire::encoding::Encoding;
use crate::wire::frame::{Decoder, FrameError};
use bytes::Bytes;
use h2::RecvStream;
use std::collections::VecDeque;
use std::task::{Context, Poll};

/// What was received.
pub enum Received {
    Message(Bytes),
    /// The peer sends no more, and what it sent were whole messages.
    End,
    /// Nothing now; the context is woken when there is more or when the window opens.
    Nothing,
    /// The peer has reset the stream or is gone.
    Gone,
}

/// Why what was received cannot be used.
#[derive(Debug)]
pub enum Invalid {
    Frame(FrameError),
    CutOff,
}

/// The half of the stream that is read from.
pub struct Inbound {
    stream: Option<RecvStream>,
    data: Bytes,
    decoder: Decoder,
    unsettled: VecDeque<usize>,
    unsettled_bytes: usize,
}

impl Inbound {
    pub fn new(stream: RecvStream, encoding: Encoding, message_limit: usize) -> Self {
        Self {
            stream: Some(stream),
            data: Bytes::new(),
            decoder: Decoder::new(encoding, message_limit),
            unsettled: VecDeque::new(),
            unsettled_bytes: 0,
        }
    }

    /// Bytes that the peer has made the server keep.
    pub fn held(&self) -> usize {
        self.unsettled_bytes + self.decoder.stored()
    }

    /// Messages that were received and are not settled.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    pub fn unsettled_bytes(&self) -> usize {
        self.unsettled_bytes
    }

    /// Settle the oldest messages.
    pub fn settle(&mut self, count: u32) {
        for _ in 0..count {
            self.unsettled_bytes -= self.unsettled.pop_front().unwrap_or(0);
        }
    }

    /// Receive one message, if there is one.
    pub fn receive(&mut self, context: &mut Context<'_>) -> Result<Received, Invalid> {
        loop {
            let before = self.data.len();
            let decoded = self.decoder.next(&mut self.data);
            self.release(before - self.data.len());
            if let Some(message) = decoded.map_err(Invalid::Frame)? {
                self.unsettled.push_back(message.len());
                self.unsettled_bytes += message.len();
                return Ok(Received::Message(message));
            }
            match self.poll_data(context) {
                Poll::Pending => return Ok(Received::Nothing),
                Poll::Ready(Some(Ok(data))) => self.data = data,
                Poll::Ready(Some(Err(()))) => return Ok(Received::Gone),
                Poll::Ready(None) => return self.end(),
            }
        }
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ()>>> {
        match &mut self.stream {
            None => Poll::Pending,
            Some(stream) if stream.is_end_stream() => Poll::Ready(None),
            Some(stream) => stream.poll_data(context).map_err(|_| ()),
        }
    }

    fn end(&mut self) -> Result<Received, Invalid> {
        self.stream = None;
        if self.decoder.is_between_messages() {
            Ok(Received::End)
        } else {
            Err(Invalid::CutOff)
        }
    }

    fn release(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(stream) = &mut self.stream {
            // An error says that the stream is gone, which `poll_data` reports.
            let _ = stream.flow_control().release_capacity(bytes);
        }
    }
}
