//! The way down: calls that their connection should look at, because somebody answered them or
//! because HTTP/2 has something new for them. Posting is a push under a lock; the connection's
//! task is woken at most once until it has looked.

use crate::call::Call;
use crate::sync::lock;
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// Posted calls of one connection.
#[derive(Default)]
pub struct Mailbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    posted: Vec<Arc<Call>>, // at most one entry a call: Call::post
    parked: Option<Waker>,
    knocked: bool,
}

impl Mailbox {
    /// Add a call. The waker, if any, must be woken when everything has been posted.
    #[must_use]
    pub fn post(&self, call: Arc<Call>) -> Option<Waker> {
        let mut state = lock(&self.state);
        state.posted.push(call);
        state.parked.take()
    }

    /// Make the connection look at the server's phase.
    pub fn knock(&self) {
        let waker = {
            let mut state = lock(&self.state);
            state.knocked = true;
            state.parked.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Move everything posted into an empty vector. True: there was something, or a knock.
    pub fn collect(&self, into: &mut Vec<Arc<Call>>) -> bool {
        let mut state = lock(&self.state);
        std::mem::swap(&mut state.posted, into);
        std::mem::take(&mut state.knocked) || !into.is_empty()
    }

    /// Be woken by the next post. False: something was posted meanwhile, collect it.
    #[must_use]
    pub fn park(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        if state.knocked || !state.posted.is_empty() {
            return false;
        }
        state.parked = Some(waker.clone());
        true
    }
}
