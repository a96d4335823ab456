//! One connection: a task that owns all its state. It is woken by the network, by answers and by
//! one timer, looks at what has news, and tells the application in one burst.

use crate::admission::{self, Refusal};
use crate::call::{Call, Head, Peer};
use crate::core::{Budget, Charge, ConnectionPermit, Core, Phase};
use crate::counters::Counter;
use crate::events::Event;
use crate::mailbox::Mailbox;
use crate::meter::{Meter, Metered};
use crate::overhead::Timed;
use crate::stream::Stream;
use crate::vigil::{Verdict, Vigil, Vitals};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{PingPong, Reason, RecvStream};
use http::Request;
use slab::Slab;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep_until, Sleep};

/// The task of a connection; ready when the connection is closed.
pub struct Driver<S> {
    http: Connection<Metered<S>, Bytes>,
    ping: Option<PingPong>,
    is_pinging: bool,
    core: Arc<Core>,
    mailbox: Arc<Mailbox>,
    meter: Arc<Meter>,
    peer: Arc<Peer>,
    streams: Slab<Stream>,
    deadlines: BTreeSet<(Instant, usize)>,
    posted: Vec<Arc<Call>>,
    events: Vec<Event>,
    timed: Vec<Timed>, // answers that h2 has, and the kernel has not
    vigil: Vigil,
    timer: Pin<Box<Sleep>>,
    unsent: Charge, // of all its calls, as of their last look
    taken: usize,   // bytes of messages that the network has taken, ever
    ended: usize,   // calls that have ended, ever
    is_leaving: bool,
    _permit: ConnectionPermit,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub fn new(
        mut http: Connection<Metered<S>, Bytes>,
        core: Arc<Core>,
        mailbox: Arc<Mailbox>,
        meter: Arc<Meter>,
        peer: Peer,
        permit: ConnectionPermit,
    ) -> Self {
        let now = Instant::now();
        let (vigil, due) = Vigil::new(&core.limits, now);
        Self {
            ping: http.ping_pong(),
            is_pinging: false,
            http,
            unsent: Charge::new(Arc::clone(&core), Budget::Unsent),
            core,
            mailbox,
            meter,
            peer: Arc::new(peer),
            streams: Slab::new(),
            deadlines: BTreeSet::new(),
            posted: Vec::new(),
            events: Vec::new(),
            timed: Vec::new(),
            vigil,
            timer: Box::pin(sleep_until(due.into())),
            taken: 0,
            ended: 0,
            is_leaving: false,
            _permit: permit,
        }
    }

    // Ready: the connection is closed.
    fn accept(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut is_unread = None;
        loop {
            match self.http.poll_accept(context) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let is_unread = *is_unread.get_or_insert_with(|| self.is_unread());
                    self.open(request, respond, is_unread);
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
            }
        }
        if self.meter.is_flooding() && !self.is_leaving {
            self.core.counters.count(Counter::DroppedFloods);
            self.is_leaving = true;
            self.http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn open(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>, unread: bool) {
        let (parts, received) = request.into_parts();
        match admission::admit(&self.core, &parts, unread) {
            Err(refusal) => self.refuse(refusal, respond),
            Ok(admitted) => {
                self.core.counters.count(Counter::CallsTotal);
                let entry = self.streams.vacant_entry();
                let slot = entry.key();
                let head = Head {
                    method: admitted.method,
                    headers: parts.headers,
                    reply_encoding: admitted.reply_encoding,
                    deadline: admitted.deadline,
                    peer: Arc::clone(&self.peer),
                };
                self.deadlines.extend(head.deadline.map(|deadline| (deadline, slot)));
                let window = self.core.limits.outgoing_window_bytes;
                let call = Arc::new(Call::new(
                    head,
                    admitted.arity,
                    slot,
                    Arc::clone(&self.mailbox),
                    window,
                ));
                let stream = Stream::new(&self.core, call, admitted, received, respond);
                entry.insert(stream).open(&self.core, &mut self.events);
                self.look(slot);
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, mut respond: SendResponse<Bytes>) {
        self.core.counters.count(refusal.counter);
        self.meter.answered();
        // An error says that the peer is gone.
        let _ = respond.send_response(refusal.response, true);
    }

    // True: there was something.
    fn look_at_posted(&mut self) -> bool {
        let mut posted = std::mem::take(&mut self.posted);
        let any = self.mailbox.collect(&mut posted);
        for call in posted.drain(..) {
            let current = self.streams.get(call.slot);
            if current.is_some_and(|stream| Arc::ptr_eq(&stream.call, &call)) {
                self.look(call.slot);
            }
        }
        self.posted = posted;
        any
    }

    fn look(&mut self, slot: usize) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        let looked = stream.look(&self.core, &mut self.events, &mut self.timed);
        let before = std::mem::replace(&mut stream.unsent, stream.call.unsent());
        let unsent = stream.unsent;
        if unsent != before {
            self.unsent.hold((self.unsent.bytes() + unsent).saturating_sub(before));
        }
        match looked {
            None => {
                self.meter.answered();
                self.remove(slot);
            }
            Some(0) => {}
            Some(bytes) => {
                self.meter.answered();
                self.taken = self.taken.wrapping_add(bytes);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        if let Some(stream) = self.streams.try_remove(slot) {
            self.unsent.hold(self.unsent.bytes().saturating_sub(stream.unsent));
            if let Some(deadline) = stream.call.head.deadline {
                self.deadlines.remove(&(deadline, slot));
            }
        }
        self.ended = self.ended.wrapping_add(1);
        self.vigil.ended(Instant::now());
    }

    // Ready: the connection must be dropped.
    fn keep_time(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(&(earliest, _)) = self.deadlines.first() {
            if earliest < self.timer.deadline().into_std() {
                self.timer.as_mut().reset(earliest.into());
            }
        }
        if let (true, Some(ping)) = (self.is_pinging, &mut self.ping) {
            if ping.poll_pong(context).is_ready() {
                self.is_pinging = false;
                self.vigil.ponged();
                self.timer.as_mut().reset(Instant::now().into()); // what is due now has changed
            }
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            self.expire(now);
            let vitals = self.vitals();
            let due = match self.vigil.look(&self.core.limits, now, &vitals) {
                Verdict::Wait(due) => due,
                Verdict::Ping(due) => {
                    self.send_ping();
                    due
                }
                Verdict::Leave(due) => {
                    self.leave();
                    due
                }
                Verdict::Drop(counter) => {
                    self.core.counters.add(counter, 1);
                    return Poll::Ready(());
                }
            };
            let earliest = self.deadlines.first().map_or(due, |&(earliest, _)| earliest.min(due));
            self.timer.as_mut().reset(earliest.into());
        }
        Poll::Pending
    }

    fn send_ping(&mut self) {
        if let (false, Some(ping)) = (self.is_pinging, &mut self.ping) {
            self.is_pinging = ping.send_ping(h2::Ping::opaque()).is_ok();
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, slot)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            if let Some(stream) = self.streams.get_mut(slot) {
                stream.expire(&self.core, &mut self.events);
            }
            self.remove(slot);
        }
    }

    fn vitals(&self) -> Vitals {
        let unsent = self.unsent.bytes() > 0;
        Vitals {
            last_heard: self.meter.last_heard(),
            calls: self.streams.len(),
            is_blocked: unsent || (self.streams.is_empty() && self.http.has_streams()),
            progress: (self.taken, self.ended),
        }
    }

    fn is_unread(&self) -> bool {
        let limits = &self.core.limits;
        // What was sent just now has not been looked at, so has not been counted.
        let own: usize = self.streams.iter().map(|(_, stream)| stream.call.unsent()).sum();
        let is_over_share = || own > limits.outgoing_bytes / self.core.connections().max(1);
        own > limits.connection_outgoing_bytes
            || (self.core.unsent() > limits.outgoing_bytes && is_over_share())
    }

    fn leave(&mut self) {
        if !self.is_leaving {
            self.is_leaving = true;
            self.http.graceful_shutdown();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut flushes = false;
        loop {
            // Answers stay together until there is nothing more to do.
            this.meter.cork(!flushes);
            if this.accept(context).is_ready() || this.keep_time(context).is_ready() {
                return Poll::Ready(());
            }
            if !this.meter.is_holding() {
                this.core.overhead.count(&mut this.timed);
            }
            let any = this.look_at_posted();
            this.core.events.publish(&mut this.events);
            if any {
                flushes = false;
                match this.core.phase() {
                    Phase::Serving => {}
                    Phase::Draining => this.leave(),
                    Phase::Closed => return Poll::Ready(()),
                }
            } else if this.meter.is_holding() && !flushes {
                flushes = true;
            } else if this.mailbox.park(context.waker()) {
                return Poll::Pending;
            }
        }
    }
}

/// However the connection ends, its calls end with it.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        for (_, stream) in &mut self.streams {
            stream.abandon(&self.core, &mut self.events);
        }
        self.core.events.publish(&mut self.events);
    }
}
