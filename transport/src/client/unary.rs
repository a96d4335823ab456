//! Unary calls of one connection: each message is a call of its own.

use super::driver::{Link, Load};
use super::outcome::{code, from_h2, from_http, status_of, Failure};
use super::sample::Sample;
use super::wakers::Wakers;
use super::work::{Pace, Work};
use crate::wire::frame::HEADER;
use h2::client::ResponseFuture;
use h2::RecvStream;
use http::{HeaderMap, HeaderName, Request, StatusCode};
use slab::Slab;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{ready, Context, Poll};
use std::time::{Duration, Instant};

pub struct Calls {
    work: Rc<Work>,
    request: Request<()>,
    sample: Rc<RefCell<Sample>>,
    all: Slab<Call>,
    wakers: Wakers,
    turn: usize,
}

struct Call {
    since: Instant, // when it was due
    sent: Instant,
    response: ResponseFuture,
    body: Option<RecvStream>,
    received: usize,
}

impl Calls {
    pub fn new(work: Rc<Work>, request: Request<()>, sample: Rc<RefCell<Sample>>) -> Self {
        Self { work, request, sample, all: Slab::new(), wakers: Wakers::default(), turn: 0 }
    }

    fn send(&mut self, link: &mut Link, since: Instant, now: Instant) -> Result<(), h2::Error> {
        let (response, mut stream) = link.http.send_request(self.request.clone(), false)?;
        let message = self.work.messages.get(self.turn).cloned().unwrap_or_default();
        self.turn = (self.turn + 1) % self.work.messages.len().max(1);
        stream.send_data(message, true)?;
        let call = Call { since, sent: now, response, body: None, received: 0 };
        let slot = self.all.insert(call);
        self.advance(slot, now);
        Ok(())
    }
}

impl Load for Calls {
    fn launch(
        &mut self,
        link: &mut Link,
        pace: &mut Pace,
        now: Instant,
        context: &mut Context<'_>,
    ) {
        while self.all.len() < self.work.most_in_flight {
            let Some(since) = pace.due(self.all.len(), now) else { return };
            if !link.has_room(context, &self.sample) {
                return;
            }
            pace.sent();
            match self.send(link, since, now) {
                Ok(()) if pace.next().is_some() => self.sample.borrow_mut().sent(since, now),
                Ok(()) => {}
                Err(error) => {
                    self.sample.borrow_mut().fail(from_h2(&error));
                    link.leave();
                    return;
                }
            }
        }
    }

    fn wakers(&self) -> &Wakers {
        &self.wakers
    }

    fn advance(&mut self, slot: usize, now: Instant) {
        let waker = self.wakers.of(slot);
        let Some(call) = self.all.get_mut(slot) else { return };
        let context = &mut Context::from_waker(&waker);
        let Poll::Ready(outcome) = call.poll(context) else { return };
        let since = call.since;
        self.all.remove(slot);
        let mut sample = self.sample.borrow_mut();
        match outcome {
            Ok(trailers) => {
                sample.answer(since, now);
                note_timings(&mut sample, &self.work.timings, &trailers);
            }
            Err(failure) => sample.fail(failure),
        }
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.work.timeout;
        let late = |call: &Call| now.saturating_duration_since(call.sent) >= timeout;
        let slots: Vec<_> = self.all.iter().filter(|(_, call)| late(call)).collect();
        let slots: Vec<_> = slots.into_iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            // Dropping its handles resets the stream.
            self.all.remove(slot);
            self.sample.borrow_mut().fail(Failure::late());
        }
    }

    fn in_flight(&self) -> usize {
        self.all.len()
    }

    fn abandon(&mut self, why: &Failure) {
        for _ in self.all.drain() {
            self.sample.borrow_mut().fail(why.clone());
        }
    }
}

impl Call {
    // Ready with the trailers of a call that succeeded.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<HeaderMap, Failure>> {
        if self.body.is_none() {
            let response = ready!(Pin::new(&mut self.response).poll(context));
            let response = response.map_err(|error| from_h2(&error))?;
            if response.status() != StatusCode::OK {
                return Poll::Ready(Err(from_http(response.status())));
            }
            let (head, body) = response.into_parts();
            if let Some(status) = status_of(&head.headers) {
                return Poll::Ready(self.judge(status, head.headers));
            }
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else { return Poll::Pending };
        while let Some(chunk) = ready!(body.poll_data(context)) {
            let chunk = chunk.map_err(|error| from_h2(&error))?;
            self.received += chunk.len();
            // It fails when the stream has ended, and then nothing is held back.
            let _ = body.flow_control().release_capacity(chunk.len());
        }
        let trailers = ready!(body.poll_trailers(context)).map_err(|error| from_h2(&error))?;
        let trailers = trailers.unwrap_or_default();
        let status = status_of(&trailers).unwrap_or_else(|| {
            Err(Failure::new(code::UNKNOWN, "the server ended the call without a status"))
        });
        Poll::Ready(self.judge(status, trailers))
    }

    fn judge(
        &self,
        status: Result<(), Failure>,
        trailers: HeaderMap,
    ) -> Result<HeaderMap, Failure> {
        status?;
        if self.received < HEADER {
            let text = "the server answered OK, without a message";
            return Err(Failure::new(code::INTERNAL, text));
        }
        Ok(trailers)
    }
}

fn note_timings(sample: &mut Sample, names: &[HeaderName], trailers: &HeaderMap) {
    for (index, name) in names.iter().enumerate() {
        let text = trailers.get(name).and_then(|value| value.to_str().ok());
        if let Some(us) = text.and_then(|text| text.parse().ok()) {
            sample.timing(index, Duration::from_micros(us));
        }
    }
}
