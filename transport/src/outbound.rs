//! The sending half of a call: headers, messages as flow control allows, trailers.

use crate::admission::{announce, response, write_status};
use crate::call::{Call, Finish, Mark};
use crate::wire::encoding::Encoding;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::HeaderMap;
use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

// A unary answer up to this size is given to h2 at once, which keeps it until the peer's window
// opens. The price is this much memory a stream of a peer that reads nothing.
const AT_ONCE: usize = 64 * 1024;
const MAX_RESERVE: usize = 1 << 20; // capacity asked for at a time; h2 buffers as much a stream

/// What came of writing.
#[derive(Default)]
pub struct Written {
    /// Bytes of messages that the network has taken.
    pub bytes: usize,
    pub messages: u64,
    /// Received messages that are settled thereby.
    pub settled: u32,
    /// What the application says of the answer; see `Finish`.
    pub work: Option<Duration>,
    /// Nothing more will be written.
    pub is_done: bool,
}

/// The half of the stream that is written to.
pub struct Outbound {
    stream: Option<Half>,
    encoding: Encoding,
    initial: Option<HeaderMap>, // metadata that has not been sent
    chunk: Bytes,
    marks: VecDeque<Mark>,
    finish: Option<Finish>,
}

enum Half {
    Unanswered(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
}

impl Outbound {
    pub fn new(respond: SendResponse<Bytes>, encoding: Encoding) -> Self {
        Self {
            stream: Some(Half::Unanswered(respond)),
            encoding,
            initial: None,
            chunk: Bytes::new(),
            marks: VecDeque::new(),
            finish: None,
        }
    }

    /// Write what the application has given, as far as the peer takes it.
    pub fn write(&mut self, call: &Call, context: &mut Context<'_>) -> Written {
        let mut written = Written::default();
        loop {
            if self.chunk.is_empty() && !self.refill(call) {
                break;
            }
            if !self.write_chunk(context, &mut written) {
                call.sent(written.bytes);
                return written;
            }
        }
        if self.initial.is_some() {
            self.open();
        }
        if let Some(finish) = self.finish.take() {
            self.end(finish, &mut written);
            written.is_done = true;
        }
        call.sent(written.bytes);
        written
    }

    /// End the stream with a status, whatever was still to be written.
    pub fn end_with(&mut self, code: i32, message: &str) {
        let trailers = HeaderMap::new();
        let finish =
            Finish { code, message: message.to_owned(), reply: None, trailers, work: None };
        self.end(finish, &mut Written::default());
    }

    /// End the stream with a status, or with a reset in the middle of a message.
    pub fn cut_off(&mut self, code: i32, message: &str) {
        match &mut self.stream {
            Some(Half::Open(stream)) if !self.chunk.is_empty() => {
                stream.send_reset(Reason::CANCEL);
                self.stream = None;
            }
            _ => self.end_with(code, message),
        }
    }

    /// True when the peer has reset the stream or is gone; else the context is woken then.
    pub fn is_reset(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.stream {
            Some(Half::Unanswered(respond)) => respond.poll_reset(context).is_ready(),
            Some(Half::Open(stream)) => stream.poll_reset(context).is_ready(),
            None => true,
        }
    }

    // True: there is a chunk to write.
    fn refill(&mut self, call: &Call) -> bool {
        if self.finish.is_none() {
            call.with_outbox(|outbox| {
                self.initial = self.initial.take().or(outbox.initial.take());
                self.chunk = outbox.bytes.split().freeze();
                self.marks.append(&mut outbox.marks);
                self.finish = outbox.finish.take();
                outbox.has_begun |=
                    self.initial.is_some() || self.finish.is_some() || !self.chunk.is_empty();
            });
        }
        if self.chunk.is_empty() {
            self.chunk = self.large_reply().unwrap_or_default();
        }
        !self.chunk.is_empty()
    }

    fn large_reply(&mut self) -> Option<Bytes> {
        let finish = self.finish.as_mut()?;
        let is_large = finish.reply.as_ref().is_some_and(|reply| reply.len() > AT_ONCE);
        let reply = if is_large { finish.reply.take() } else { None }?;
        self.marks.push_back(Mark { length: reply.len(), settles: 0 });
        Some(reply)
    }

    // False: the peer's window is full, or the peer is gone.
    fn write_chunk(&mut self, context: &mut Context<'_>, written: &mut Written) -> bool {
        let length = self.chunk.len();
        let Some(stream) = self.open() else { return false };
        if stream.capacity() == 0 {
            stream.reserve_capacity(length.min(MAX_RESERVE));
        }
        while stream.capacity() == 0 {
            match stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(_))) => {}
                // Gone: `is_reset` says so.
                Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return false,
            }
        }
        let taken = stream.capacity().min(length);
        let part = self.chunk.split_to(taken);
        if let Some(Half::Open(stream)) = &mut self.stream {
            if stream.send_data(part, false).is_err() {
                return false;
            }
        }
        written.bytes += taken;
        self.advance_marks(taken, written);
        true
    }

    fn advance_marks(&mut self, mut taken: usize, written: &mut Written) {
        while let Some(mark) = self.marks.front_mut() {
            if mark.length > taken {
                mark.length -= taken;
                return;
            }
            taken -= mark.length;
            written.settled += mark.settles;
            written.messages += 1;
            self.marks.pop_front();
        }
    }

    // The stream with its headers sent. None: the peer is gone.
    fn open(&mut self) -> Option<&mut SendStream<Bytes>> {
        if let Some(Half::Unanswered(respond)) = &mut self.stream {
            let mut head = response();
            announce(self.encoding, head.headers_mut());
            head.headers_mut().extend(self.initial.take().unwrap_or_default());
            let opened = respond.send_response(head, false).ok()?;
            self.stream = Some(Half::Open(opened));
        }
        match &mut self.stream {
            Some(Half::Open(stream)) => Some(stream),
            _ => None,
        }
    }

    // Errors of h2 mean that the peer is gone: nobody is left to be told.
    fn end(&mut self, finish: Finish, written: &mut Written) {
        let Finish { code, message, reply, mut trailers, work } = finish;
        written.work = work;
        write_status(&mut trailers, code, &message);
        if let Some(reply) = reply {
            written.bytes += reply.len();
            written.messages += 1;
            if let Some(stream) = self.open() {
                let _ = stream.send_data(reply, false);
            }
        }
        match self.stream.take() {
            Some(Half::Unanswered(mut respond)) => {
                let mut only = response();
                only.headers_mut().extend(trailers);
                let _ = respond.send_response(only, true);
            }
            Some(Half::Open(mut stream)) => {
                let _ = stream.send_trailers(trailers);
            }
            None => {}
        }
    }
}
