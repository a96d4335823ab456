//! The way up: what happened on all connections, in order, taken in bursts.
//!
//! The queue needs no limit of its own: it holds at most two events and a window of messages for
//! each call in progress, and one more for each window of answers. All three are limited.

use crate::call::Call;
use crate::lane::plans::Recognised;
use crate::sync::lock;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Opened,
    Message,
    HalfClosed,
    Cancelled,
    /// There is room again on a call that had none when something was sent.
    Writable = 7, // its place among the kinds of Python
}

/// Something that happened to a call.
pub struct Event {
    pub kind: Kind,
    pub call: Arc<Call>,
    pub message: Bytes,
    /// Place of a stream's message in the order of answers.
    pub ticket: u64,
    /// The plan of the message, where the lane knows it.
    pub seen: Option<Recognised>,
}

impl Event {
    // Of a call that is over, only the end is news, and only to those who know of the call.
    fn is_news(&self) -> bool {
        if !self.call.has_ended() {
            return true;
        }
        if matches!(self.kind, Kind::Request | Kind::Opened) {
            self.call.hide();
        }
        self.kind == Kind::Cancelled && !self.call.is_finished()
    }
}

/// Events of all connections, oldest first.
#[derive(Default)]
pub struct Events {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Event>,
    waiting: usize,
    parked: Vec<Waker>, // of each `poll_ready` that waits
    closed: bool,
}

impl Events {
    /// Add events, emptying the vector. After `close` they are dropped.
    pub fn publish(&self, events: &mut Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        if state.closed {
            drop(state);
            for event in events.drain(..) {
                event.call.forget();
            }
            return;
        }
        state.queue.extend(events.drain(..));
        let wanted = state.waiting > 0;
        let parked = std::mem::take(&mut state.parked);
        drop(state);
        if wanted {
            self.arrived.notify_one();
        }
        parked.into_iter().for_each(Waker::wake);
    }

    /// Take up to `max_events` without waiting.
    pub fn try_take(&self, max_events: usize) -> Vec<Event> {
        pop(&mut lock(&self.state), max_events)
    }

    /// Wait for events and take up to `max_events`. Empty after the time-out and when closed.
    pub fn take(&self, max_events: usize, timeout: Option<Duration>) -> Vec<Event> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = lock(&self.state);
        loop {
            let burst = pop(&mut state, max_events);
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if !burst.is_empty() || state.closed || left == Some(Duration::ZERO) {
                let more = state.waiting > 0 && !state.queue.is_empty();
                drop(state);
                if more {
                    self.arrived.notify_one();
                }
                return burst;
            }
            state.waiting += 1;
            state = self.wait(state, left);
            state.waiting -= 1;
        }
    }

    /// Ready when there are events, or when closed.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.closed || !state.queue.is_empty() {
            return Poll::Ready(());
        }
        if !state.parked.iter().any(|parked| parked.will_wake(context.waker())) {
            state.parked.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Drop what is queued and wake up every `take`.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let dropped = std::mem::take(&mut state.queue);
        let parked = std::mem::take(&mut state.parked);
        drop(state);
        parked.into_iter().for_each(Waker::wake);
        self.arrived.notify_all();
        for event in dropped {
            event.call.forget();
        }
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        left: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let Some(left) = left else {
            return self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let woken = self.arrived.wait_timeout(state, left);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn pop(state: &mut State, max_events: usize) -> Vec<Event> {
    let mut burst = Vec::with_capacity(state.queue.len().min(max_events));
    while burst.len() < max_events {
        let Some(event) = state.queue.pop_front() else { break };
        if event.is_news() {
            burst.push(event);
        }
    }
    burst
}
