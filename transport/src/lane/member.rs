//! One request on the lane: what is left of its event, and its answer.

use super::plans::{Plan, Recognised};
use super::reply::Form;
use crate::admission::code;
use crate::call::{Call, Finish};
use crate::core::Arity;
use crate::events::{Event, Kind};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::sync::Arc;
use std::task::Waker;

/// One request of a bundle.
pub struct Member {
    pub call: Arc<Call>,
    pub kind: Kind,
    pub ticket: u64,
    pub message: Bytes,
    seen: Recognised,
}

impl Member {
    #[must_use]
    pub fn new(event: Event, seen: Recognised) -> Self {
        let Event { call, kind, ticket, message, .. } = event;
        Self { call, kind, ticket, message, seen }
    }

    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.seen.plan
    }

    #[must_use]
    pub fn id(&self) -> &[u8] {
        self.message.get(self.seen.id.clone()).unwrap_or_default()
    }

    /// The raw contents.
    pub fn tail(&self) -> &[u8] {
        self.message.get(self.seen.raws..).unwrap_or_default()
    }

    /// Let go of all but the id: only it is still needed.
    pub fn release(&mut self) {
        self.message = Bytes::copy_from_slice(self.id());
        (self.seen.id, self.seen.raws) = (0..self.message.len(), self.message.len());
    }

    /// Answer the request with its rows of the outputs. Returns who must be woken.
    pub fn answer(&self, form: &Form<'_>, rows: &[&[u8]], trailers: &HeaderMap) -> Option<Waker> {
        if self.call.arity == Arity::Stream {
            let write = |out: &mut BytesMut| form.write(true, self.id(), rows, out);
            return match self.call.answer(self.ticket, write) {
                Some(sent) => sent.wake,
                None => self.too_long(),
            };
        }
        let mut reply = BytesMut::new();
        if form.write(false, self.id(), rows, &mut reply).is_none() {
            return self.too_long();
        }
        let (reply, trailers, work) = (Some(reply.freeze()), trailers.clone(), form.work);
        self.call.finish(Finish { code: 0, message: String::new(), reply, trailers, work })
    }

    fn too_long(&self) -> Option<Waker> {
        let message = "The answer is longer than a message of gRPC can be".to_owned();
        let (reply, trailers) = (None, HeaderMap::new());
        let finish = Finish { code: code::INTERNAL, message, reply, trailers, work: None };
        self.call.finish(finish)
    }
}

impl From<Member> for Event {
    fn from(member: Member) -> Self {
        let Member { call, kind, ticket, message, .. } = member;
        Self { kind, call, message, ticket, seen: None }
    }
}

// Without Python, whose objects a plan would keep.
#[cfg(all(test, not(feature = "python")))]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use crate::lane::bench::{head_of, Bench, SIZE};
    use crate::lane::plans::raw_message;

    #[test]
    fn a_member_is_the_event_that_it_came_from() {
        let stream = call(Arity::Stream, None);
        let mut bench = Bench::new(1, 8);
        bench.add(&stream, "a", "7", 1);
        bench.add(&stream, "a", "", 2);
        let members = bench.close()[0].take();
        let events: Vec<Event> = members.into_iter().map(Event::from).collect();
        for (event, (id, ticket)) in events.iter().zip([("7", 0), ("", 1)]) {
            let value = u8::try_from(ticket).unwrap() + 1;
            let message = raw_message(&head_of("a"), id.as_bytes(), &[&[value; SIZE]]);
            assert_eq!((event.kind, event.ticket), (Kind::Message, ticket));
            assert_eq!(event.message, message);
            assert!(event.seen.is_none() && Arc::ptr_eq(&event.call, &stream));
        }
    }
}
