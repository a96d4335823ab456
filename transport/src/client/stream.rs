//! The streams of one connection: which of them is open, and which one sends next.

use super::conversation::Conversation;
use super::driver::{Link, Load};
use super::outcome::{from_h2, Failure};
use super::sample::Sample;
use super::wakers::Wakers;
use super::work::{share, Pace, Work};
use http::Request;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const FIRST_WAIT: Duration = Duration::from_millis(20); // before a stream that failed is reopened
const LONGEST_WAIT: Duration = Duration::from_secs(1);

pub struct Streams {
    work: Rc<Work>,
    request: Request<()>,
    sample: Rc<RefCell<Sample>>,
    all: Vec<Stream>,
    hungry: Vec<usize>, // in a closed loop: those that may send more
    wakers: Wakers,
    in_flight: usize,
    turn: usize, // of messages
    next: usize, // stream that an arrival goes to
}

#[derive(Default)]
struct Stream {
    open: Option<Conversation>,
    not_before: Option<Instant>,
    failures: u32, // in a row, without an answer between them
}

impl Streams {
    /// count: how many this connection has.
    pub fn new(
        work: Rc<Work>,
        request: Request<()>,
        sample: Rc<RefCell<Sample>>,
        count: usize,
    ) -> Self {
        Self {
            work,
            request,
            sample,
            all: (0..count).map(|_| Stream::default()).collect(),
            hungry: (0..count).rev().collect(),
            wakers: Wakers::default(),
            in_flight: 0,
            turn: 0,
            next: 0,
        }
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
                stream.open = Some(Conversation::new(response, send));
                self.advance(number, now); // it wants to be woken
                true
            }
        }
    }

    fn send(&mut self, number: usize, since: Instant, now: Instant) {
        let open = self.all.get_mut(number).and_then(|stream| stream.open.as_mut());
        let Some(open) = open else { return };
        open.send(self.work.message(self.turn, open.next_id()), since, now);
        self.turn = self.turn.wrapping_add(1);
        self.in_flight += 1;
    }

    // Fill every stream up to its share of a quota.
    fn fill(&mut self, quota: usize, link: &mut Link, now: Instant, context: &mut Context<'_>) {
        let mut still_hungry = Vec::new();
        while let Some(number) = self.hungry.pop() {
            let quota = share(quota, self.all.len(), number);
            if quota > 0 && !self.open(number, link, now, context) {
                still_hungry.push(number);
                continue;
            }
            for _ in self.waiting_on(number)..quota {
                self.send(number, now, now);
            }
        }
        self.hungry = still_hungry;
    }

    // The stream whose turn it is, of those that are open or can be.
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

    fn waiting_on(&self, number: usize) -> usize {
        let open = self.all.get(number).and_then(|stream| stream.open.as_ref());
        open.map_or(0, Conversation::waiting)
    }

    fn end(&mut self, number: usize, failure: &Failure, now: Instant) {
        let Some(stream) = self.all.get_mut(number) else { return };
        let Some(open) = stream.open.take() else { return };
        for _ in 0..open.waiting() {
            self.sample.borrow_mut().fail(failure.clone());
        }
        self.in_flight -= open.waiting();
        let wait = FIRST_WAIT * 2u32.saturating_pow(stream.failures.min(16));
        stream.not_before = Some(now + wait.min(LONGEST_WAIT));
        stream.failures += 1;
        self.hungry.push(number);
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
        self.hungry.clear();
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
        let before = open.waiting();
        let context = &mut Context::from_waker(&waker);
        let ended = open.read(context, &self.work.matching, &mut self.sample.borrow_mut(), now);
        let settled = before - open.waiting();
        if settled > 0 {
            self.in_flight -= settled;
            stream.failures = 0;
            self.hungry.push(slot);
        }
        if let Poll::Ready(failure) = ended {
            self.end(slot, &failure, now);
        }
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.work.timeout;
        for number in 0..self.all.len() {
            let open = self.all.get(number).and_then(|stream| stream.open.as_ref());
            let oldest = open.and_then(Conversation::oldest);
            if oldest.is_some_and(|sent| now.saturating_duration_since(sent) >= timeout) {
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
