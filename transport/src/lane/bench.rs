//! Bundles of requests on calls that nobody drives, for the tests of the lane.

use super::bundle::Bundle;
use super::member::Member;
use super::open::Open;
use super::plans::{raw_message, Plan, Plans};
use crate::call::tests::call;
use crate::call::Call;
use crate::core::Arity;
use crate::events::{Event, Kind};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of the contents of a request.
pub const SIZE: usize = 4;

/// Fills bundles with requests of two plans, "a" and "b".
pub struct Bench {
    plans: Plans,
    open: Open,
}

impl Bench {
    /// Each request has so many rows, and a bundle no more than the most.
    pub fn new(rows: usize, max_rows: usize) -> Self {
        let plans = Plans::default();
        for head in ["a", "b"] {
            let plan = Plan::new((), vec![SIZE], rows, max_rows);
            plans.keep(head_of(head), plan);
        }
        Self { plans, open: Open::default() }
    }

    pub fn add(&mut self, call: &Arc<Call>, head: &str, id: &str, contents: u8) {
        let is_stream = call.arity == Arity::Stream;
        let kind = if is_stream { Kind::Message } else { Kind::Request };
        let ticket = if is_stream { call.ticket() } else { 0 };
        let message = raw_message(&head_of(head), id.as_bytes(), &[&[contents; SIZE]]);
        let seen = self.plans.recognise(&message).unwrap();
        let (call, message) = (Arc::clone(call), Bytes::from(message));
        let event = Event { kind, call, message, ticket, seen: None };
        self.open.add(Member::new(event, seen));
    }

    pub fn close(self) -> Vec<Arc<Bundle>> {
        self.open.close().collect()
    }
}

/// What the lane recognises the requests of a plan by.
pub fn head_of(name: &str) -> Vec<u8> {
    [b"\x0a\x01", name.as_bytes()].concat()
}

pub fn unary(deadline: Option<Instant>) -> Arc<Call> {
    call(Arity::Unary, deadline)
}

/// The contents of all requests, side by side.
pub fn contents(bundle: &Bundle) -> Vec<u8> {
    let mut all = Vec::new();
    bundle.contents(0, |contents| all.extend_from_slice(contents));
    all
}
