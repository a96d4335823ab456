//! Streams of one connection: messages go out on calls that stay open, and answers are matched to
//! them by id where a reply has one, else by order.

use super::driver::{Link, Load};
use super::outcome::{code, from_h2, from_http, status_of, Failure};
use super::protobuf;
use super::sample::Sample;
use super::wakers::Wakers;
use super::work::{id_text, share, Pace, Work};
use crate::wire::encoding::Encoding;
use crate::wire::frame::Decoder;
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{Request, StatusCode};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const ANSWER_BYTES: usize = 1 << 30; // what we ask for is not to be refused here
const FIRST_WAIT: Duration = Duration::from_millis(20); // before a stream that failed is reopened
const LONGEST_WAIT: Duration = Duration::from_secs(1);

pub struct Streams {
    work: Rc<Work>,
    request: Request<()>,
    sample: Rc<RefCell<Sample>>,
    all: Vec<Stream>,
    wakers: Wakers,
    in_flight: usize,
    turn: usize, // of messages
    next: usize, // stream that an arrival goes to
}

#[derive(Default)]
struct Stream {
    open: Option<Open>,
    not_before: Option<Instant>,
    failures: u32, // in a row, without an answer between them
}

struct Open {
    send: SendStream<Bytes>,
    response: ResponseFuture,
    body: Option<RecvStream>,
    decoder: Decoder,
    waiting: VecDeque<Waiting>,
    sent: u32,
}

struct Waiting {
    id: u32,
    since: Instant, // when it was due
    sent: Instant,
}

// What became of a stream when it was looked at.
enum Ended {
    Not,
    With(Failure),
}

impl Streams {
    pub fn new(work: Rc<Work>, request: Request<()>, sample: Rc<RefCell<Sample>>) -> Self {
        let all = (0..work.streams).map(|_| Stream::default()).collect();
        let wakers = Wakers::default();
        Self { work, request, sample, all, wakers, in_flight: 0, turn: 0, next: 0 }
    }

    // False: it cannot be opened now.
    fn open(
        &mut self,
        number: usize,
        link: &mut Link,
        now: Instant,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(stream) = self.all.get_mut(number) else { return false };
        if stream.open.is_some() {
            return true;
        }
        if stream.not_before.is_some_and(|at| now < at) || !link.has_room(context, &self.sample) {
            return false;
        }
        match link.http.send_request(self.request.clone(), false) {
            Err(error) => {
                self.sample.borrow_mut().fail(from_h2(&error));
                link.leave();
                false
            }
            Ok((response, send)) => {
                let decoder = Decoder::new(Encoding::Identity, ANSWER_BYTES);
                let waiting = VecDeque::new();
                stream.open = Some(Open { send, response, body: None, decoder, waiting, sent: 0 });
                self.advance(number, now); // it wants to be woken
                true
            }
        }
    }

    fn send(&mut self, number: usize, since: Instant, now: Instant) {
        let open = self.all.get_mut(number).and_then(|stream| stream.open.as_mut());
        let Some(open) = open else { return };
        let id = open.sent;
        open.sent = open.sent.wrapping_add(1);
        let message = self.work.message(self.turn, id);
        self.turn = self.turn.wrapping_add(1);
        self.in_flight += 1;
        open.waiting.push_back(Waiting { id, since, sent: now });
        // An error says that the stream has ended; why is told when it is read.
        let _ = open.send.send_data(message, false);
    }

    // The stream with the next number that is open or can be.
    fn find_open(
        &mut self,
        link: &mut Link,
        now: Instant,
        context: &mut Context<'_>,
    ) -> Option<usize> {
        for _ in 0..self.all.len() {
            let number = self.next;
            self.next = (self.next + 1) % self.all.len();
            if self.open(number, link, now, context) {
                return Some(number);
            }
        }
        None
    }

    fn fill(&mut self, quota: usize, link: &mut Link, now: Instant, context: &mut Context<'_>) {
        for number in 0..self.all.len() {
            let quota = share(quota, self.all.len(), number);
            if quota == 0 || !self.open(number, link, now, context) {
                continue;
            }
            while self.waiting_on(number) < quota {
                self.send(number, now, now);
            }
        }
    }

    fn waiting_on(&self, number: usize) -> usize {
        let open = self.all.get(number).and_then(|stream| stream.open.as_ref());
        open.map_or(usize::MAX, |open| open.waiting.len())
    }

    fn end(&mut self, number: usize, failure: &Failure, now: Instant) {
        let Some(stream) = self.all.get_mut(number) else { return };
        let Some(open) = stream.open.take() else { return };
        let mut sample = self.sample.borrow_mut();
        for _ in &open.waiting {
            sample.fail(failure.clone());
        }
        self.in_flight -= open.waiting.len();
        let wait = FIRST_WAIT * 2u32.saturating_pow(stream.failures.min(16));
        stream.not_before = Some(now + wait.min(LONGEST_WAIT));
        stream.failures += 1;
    }
}

impl Load for Streams {
    fn launch(
        &mut self,
        link: &mut Link,
        pace: &mut Pace,
        now: Instant,
        context: &mut Context<'_>,
    ) {
        if let Pace::Closed { in_flight } = *pace {
            self.fill(in_flight, link, now, context);
            return;
        }
        while self.in_flight < self.work.most_in_flight {
            let Some(since) = pace.due(self.in_flight, now) else { return };
            let Some(number) = self.find_open(link, now, context) else { return };
            pace.sent();
            self.send(number, since, now);
            self.sample.borrow_mut().sent(since, now);
        }
    }

    fn wakers(&self) -> &Wakers {
        &self.wakers
    }

    fn advance(&mut self, slot: usize, now: Instant) {
        let waker = self.wakers.of(slot);
        let Some(stream) = self.all.get_mut(slot) else { return };
        let Some(open) = &mut stream.open else { return };
        let before = open.waiting.len();
        let context = &mut Context::from_waker(&waker);
        let ended = open.read(context, &self.work, &mut self.sample.borrow_mut(), now);
        let settled = before - open.waiting.len();
        self.in_flight -= settled;
        if settled > 0 {
            stream.failures = 0;
        }
        if let Ended::With(failure) = ended {
            self.end(slot, &failure, now);
        }
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.work.timeout;
        for number in 0..self.all.len() {
            let open = self.all.get(number).and_then(|stream| stream.open.as_ref());
            let oldest = open.and_then(|open| open.waiting.front());
            if oldest.is_some_and(|one| now.saturating_duration_since(one.sent) >= timeout) {
                self.end(number, &Failure::late(), now);
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn abandon(&mut self, why: &Failure) {
        let now = Instant::now();
        for number in 0..self.all.len() {
            self.end(number, why, now);
        }
    }
}

impl Open {
    fn read(
        &mut self,
        context: &mut Context<'_>,
        work: &Work,
        sample: &mut Sample,
        now: Instant,
    ) -> Ended {
        if self.body.is_none() {
            let Poll::Ready(response) = Pin::new(&mut self.response).poll(context) else {
                return Ended::Not;
            };
            match response {
                Err(error) => return Ended::With(from_h2(&error)),
                Ok(response) if response.status() != StatusCode::OK => {
                    return Ended::With(from_http(response.status()));
                }
                Ok(response) => {
                    if let Some(status) = status_of(response.headers()) {
                        return Ended::With(status.err().unwrap_or_else(ended_early));
                    }
                    self.body = Some(response.into_body());
                }
            }
        }
        self.read_body(context, work, sample, now)
    }

    fn read_body(
        &mut self,
        context: &mut Context<'_>,
        work: &Work,
        sample: &mut Sample,
        now: Instant,
    ) -> Ended {
        let Some(mut body) = self.body.take() else { return Ended::Not };
        loop {
            match body.poll_data(context) {
                Poll::Pending => break,
                Poll::Ready(Some(Err(error))) => return Ended::With(from_h2(&error)),
                Poll::Ready(Some(Ok(chunk))) => {
                    // It fails when the stream has ended, and then nothing is held back.
                    let _ = body.flow_control().release_capacity(chunk.len());
                    if let Err(failure) = self.take(chunk, work, sample, now) {
                        return Ended::With(failure);
                    }
                }
                Poll::Ready(None) => {
                    let Poll::Ready(trailers) = body.poll_trailers(context) else { break };
                    return Ended::With(match trailers {
                        Err(error) => from_h2(&error),
                        Ok(trailers) => status_of(&trailers.unwrap_or_default())
                            .and_then(Result::err)
                            .unwrap_or_else(ended_early),
                    });
                }
            }
        }
        self.body = Some(body);
        Ended::Not
    }

    fn take(
        &mut self,
        mut chunk: Bytes,
        work: &Work,
        sample: &mut Sample,
        now: Instant,
    ) -> Result<(), Failure> {
        loop {
            let message = self.decoder.next(&mut chunk);
            let message = message.map_err(|error| {
                Failure::new(code::INTERNAL, format!("the answer is no gRPC message: {error}"))
            })?;
            let Some(message) = message else { return Ok(()) };
            let request = self.matching(&message, &work.matching.reply_id)?;
            let error = protobuf::find(&message, &work.matching.reply_error);
            match error.filter(|text| !text.is_empty()) {
                None => sample.answer(request.since, now),
                Some(text) => {
                    let text = String::from_utf8_lossy(text);
                    sample.fail(Failure::new(code::UNKNOWN, text));
                }
            }
        }
    }

    // The request that a message answers.
    fn matching(&mut self, message: &[u8], path: &[u32]) -> Result<Waiting, Failure> {
        let id = protobuf::find(message, path).filter(|id| !id.is_empty());
        let place = match id {
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

fn ended_early() -> Failure {
    Failure::unavailable("the server ended the stream")
}
