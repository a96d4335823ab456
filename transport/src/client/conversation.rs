//! One stream: messages that wait for their answers, and the answers as they come. An answer is
//! matched by id where it has one, else by order.

use super::outcome::{code, from_h2, from_http, status_of, Failure};
use super::protobuf;
use super::sample::Sample;
use super::work::{id_text, Matching};
use crate::wire::encoding::Encoding;
use crate::wire::frame::Decoder;
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, StatusCode};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Instant;

const ANSWER_BYTES: usize = 1 << 30; // what we ask for is not to be refused here

pub struct Conversation {
    send: SendStream<Bytes>,
    response: ResponseFuture,
    body: Option<RecvStream>,
    decoder: Decoder,
    waiting: VecDeque<Waiting>,
    sent: u32,
}

/// A message that has no answer yet.
struct Waiting {
    id: u32,
    since: Instant, // when it was due
    sent: Instant,
}

impl Conversation {
    pub fn new(response: ResponseFuture, send: SendStream<Bytes>) -> Self {
        let decoder = Decoder::new(Encoding::Identity, ANSWER_BYTES);
        Self { send, response, body: None, decoder, waiting: VecDeque::new(), sent: 0 }
    }

    /// Messages without an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When the oldest of them was sent.
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|one| one.sent)
    }

    /// The number of the next message.
    pub fn next_id(&self) -> u32 {
        self.sent
    }

    /// Send a message that carries that number.
    pub fn send(&mut self, message: Bytes, since: Instant, now: Instant) {
        self.waiting.push_back(Waiting { id: self.sent, since, sent: now });
        self.sent = self.sent.wrapping_add(1);
        // An error says that the stream has ended; why is told when it is read.
        let _ = self.send.send_data(message, false);
    }

    /// Record the answers that have come. Ready: the stream has ended, and why.
    pub fn read(
        &mut self,
        context: &mut Context<'_>,
        matching: &Matching,
        sample: &mut Sample,
        now: Instant,
    ) -> Poll<Failure> {
        match self.read_all(context, matching, sample, now) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(failure)) => Poll::Ready(failure),
            Poll::Ready(Ok(trailers)) => {
                let status = status_of(&trailers).and_then(Result::err);
                let early = || Failure::unavailable("the server ended the stream");
                Poll::Ready(status.unwrap_or_else(early))
            }
        }
    }

    // Ready with the trailers.
    fn read_all(
        &mut self,
        context: &mut Context<'_>,
        matching: &Matching,
        sample: &mut Sample,
        now: Instant,
    ) -> Poll<Result<HeaderMap, Failure>> {
        if self.body.is_none() {
            let response = ready!(Pin::new(&mut self.response).poll(context));
            let (head, body) = response.map_err(|error| from_h2(&error))?.into_parts();
            if head.status != StatusCode::OK {
                return Poll::Ready(Err(from_http(head.status)));
            }
            if status_of(&head.headers).is_some() {
                return Poll::Ready(Ok(head.headers));
            }
            self.body = Some(body);
        }
        while let Some(chunk) = ready!(self.poll_chunk(context)) {
            self.take(chunk?, matching, sample, now)?;
        }
        let Some(body) = &mut self.body else { return Poll::Pending };
        let trailers = ready!(body.poll_trailers(context)).map_err(|error| from_h2(&error))?;
        Poll::Ready(Ok(trailers.unwrap_or_default()))
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let Some(body) = &mut self.body else { return Poll::Pending };
        let chunk = ready!(body.poll_data(context));
        if let Some(Ok(chunk)) = &chunk {
            // It fails when the stream has ended, and then nothing is held back.
            let _ = body.flow_control().release_capacity(chunk.len());
        }
        Poll::Ready(chunk.map(|chunk| chunk.map_err(|error| from_h2(&error))))
    }

    fn take(
        &mut self,
        mut chunk: Bytes,
        matching: &Matching,
        sample: &mut Sample,
        now: Instant,
    ) -> Result<(), Failure> {
        loop {
            let message = self.decoder.next(&mut chunk);
            let message = message.map_err(|error| {
                Failure::new(code::INTERNAL, format!("the answer is no gRPC message: {error}"))
            })?;
            let Some(message) = message else { return Ok(()) };
            let request = self.answered_by(&message, &matching.reply_id)?;
            let error = protobuf::find(&message, &matching.reply_error);
            match error.filter(|text| !text.is_empty()) {
                None => sample.answer(request.since, now),
                Some(text) => {
                    let text = String::from_utf8_lossy(text);
                    sample.fail(Failure::new(code::UNKNOWN, text));
                }
            }
        }
    }

    // The message that this is the answer to.
    fn answered_by(&mut self, reply: &[u8], path: &[u32]) -> Result<Waiting, Failure> {
        let place = match protobuf::find(reply, path).filter(|id| !id.is_empty()) {
            None => 0,
            Some(id) => {
                let place = self.waiting.iter().position(|one| id_text(one.id) == *id);
                place.ok_or_else(|| {
                    let id = String::from_utf8_lossy(id);
                    let text = format!("the server answered {id:?}, which waits for no answer");
                    Failure::new(code::INTERNAL, text)
                })?
            }
        };
        self.waiting.remove(place).ok_or_else(|| {
            Failure::new(code::INTERNAL, "the server sent more answers than it was asked for")
        })
    }
}
