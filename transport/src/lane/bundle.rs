//! Requests of one plan that wait together: copied side by side, answered together.

use super::plans::{Plan, Recognised};
use super::reply::Form;
use crate::admission::code;
use crate::call::{Call, Finish, Handle};
use crate::core::Arity;
use crate::events::{Event, Kind};
use crate::sync::lock;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;
use std::time::Instant;

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
    pub fn id(&self) -> &[u8] {
        self.message.get(self.seen.id.clone()).unwrap_or_default()
    }

    fn tail(&self) -> &[u8] {
        self.message.get(self.seen.raws..).unwrap_or_default()
    }

    // Only the id is still needed.
    fn release(&mut self) {
        self.message = Bytes::copy_from_slice(self.id());
        (self.seen.id, self.seen.raws) = (0..self.message.len(), self.message.len());
    }
}

impl From<Member> for Event {
    fn from(member: Member) -> Self {
        let Member { call, kind, ticket, message, .. } = member;
        Self { kind, call, message, ticket, seen: None }
    }
}

/// Members of one plan; either all of them have a deadline or none.
pub struct Bundle {
    pub plan: Arc<Plan>,
    /// What the application keeps with it, until the requests are let go of.
    pub owner: Mutex<Option<Handle>>,
    members: Mutex<Vec<Member>>,
    reported: AtomicUsize, // callers that were known to wait when somebody last asked
}

impl Bundle {
    #[must_use]
    pub fn new(plan: Arc<Plan>, members: Vec<Member>) -> Arc<Self> {
        let reported = AtomicUsize::new(members.len());
        let (members, owner) = (Mutex::new(members), Mutex::new(None));
        Arc::new(Self { plan, owner, members, reported })
    }

    /// Requests that are in it.
    pub fn count(&self) -> usize {
        lock(&self.members).len()
    }

    /// The earliest and the latest deadline.
    pub fn deadlines(&self) -> Option<(Instant, Instant)> {
        let members = lock(&self.members);
        let deadlines = || members.iter().filter_map(|member| member.call.head.deadline);
        Some((deadlines().min()?, deadlines().max()?))
    }

    /// Let go of the requests whose callers have left. Returns how many stay.
    pub fn strip(&self) -> usize {
        let mut members = lock(&self.members);
        members.retain(|member| !member.call.has_ended());
        members.len()
    }

    /// Callers that still wait.
    pub fn waiting(&self) -> usize {
        lock(&self.members).iter().filter(|member| !member.call.has_ended()).count()
    }

    // True: fewer wait than when this was asked before.
    fn has_shrunk(&self) -> bool {
        let waiting = self.waiting();
        self.reported.swap(waiting, Ordering::Relaxed) > waiting
    }

    /// Give the contents of one input, request after request.
    pub fn contents(&self, input: usize, mut take: impl FnMut(&[u8])) {
        for member in lock(&self.members).iter() {
            take(self.plan.contents(member.tail(), input));
        }
    }

    /// Answer every request with its rows of the outputs, and let go of them. Returns who must be
    /// woken.
    ///
    /// outputs: the bytes of whole arrays, whose first axis has the rows of all requests.
    pub fn answer(&self, form: &Form<'_>, outputs: &[&[u8]], trailers: &HeaderMap) -> Vec<Waker> {
        let members = self.take();
        let count = members.len().max(1);
        let sizes: Vec<_> = outputs.iter().map(|output| output.len() / count).collect();
        let mut rows = Vec::with_capacity(outputs.len());
        let mut wakers = Vec::new();
        for (index, member) in members.iter().enumerate() {
            rows.clear();
            rows.extend(outputs.iter().zip(&sizes).map(|(output, size)| {
                output.get(index * size..(index + 1) * size).unwrap_or_default()
            }));
            wakers.extend(member.answer(form, &rows, trailers));
        }
        wakers
    }

    /// Let go of the requests.
    pub fn take(&self) -> Vec<Member> {
        let owner = lock(&self.owner).take();
        drop(owner); // which may refer to this
        std::mem::take(&mut *lock(&self.members))
    }

    /// Let go of the contents: they have been copied.
    pub fn release(&self) {
        lock(&self.members).iter_mut().for_each(Member::release);
    }

    /// List call, ticket and id of each request.
    pub fn list(&self) -> Vec<(Arc<Call>, u64, Vec<u8>)> {
        let members = lock(&self.members);
        let entry = |member: &Member| (Arc::clone(&member.call), member.ticket, member.id().into());
        members.iter().map(entry).collect()
    }
}

impl Member {
    fn answer(&self, form: &Form<'_>, rows: &[&[u8]], trailers: &HeaderMap) -> Option<Waker> {
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

/// Bundles that are being filled.
#[derive(Default)]
pub struct Open {
    bundles: Vec<Filling>,
}

struct Filling {
    plan: Arc<Plan>,
    has_deadline: bool,
    members: Vec<Member>,
}

impl Open {
    /// Put a request into the bundle that it fits into, or begin another one.
    pub fn add(&mut self, member: Member) {
        let plan = Arc::clone(&member.seen.plan);
        let has_deadline = member.call.head.deadline.is_some();
        let fits = |filling: &&mut Filling| {
            Arc::ptr_eq(&filling.plan, &plan)
                && filling.has_deadline == has_deadline
                && (filling.members.len() + 1) * plan.rows <= plan.max_rows
        };
        match self.bundles.iter_mut().rev().find(fits) {
            Some(filling) => filling.members.push(member),
            None => self.bundles.push(Filling { plan, has_deadline, members: vec![member] }),
        }
    }

    /// The bundles, in the order in which they were begun.
    pub fn close(self) -> impl Iterator<Item = Arc<Bundle>> {
        self.bundles.into_iter().map(|filling| Bundle::new(filling.plan, filling.members))
    }
}

/// Bundles that the application has and has not answered.
#[derive(Default)]
pub struct Outstanding {
    bundles: Mutex<Vec<Weak<Bundle>>>,
}

impl Outstanding {
    pub fn add(&self, bundle: &Arc<Bundle>) {
        let mut bundles = lock(&self.bundles);
        if bundles.len() == bundles.capacity() {
            bundles.retain(|bundle| bundle.strong_count() > 0); // instead of growing, if it helps
        }
        bundles.push(Arc::downgrade(bundle));
    }

    /// List the bundles that callers have left since this was asked before.
    pub fn shrunk(&self) -> Vec<Arc<Bundle>> {
        let mut bundles = lock(&self.bundles);
        bundles.retain(|bundle| bundle.strong_count() > 0);
        let alive: Vec<_> = bundles.iter().filter_map(Weak::upgrade).collect();
        drop(bundles);
        alive.into_iter().filter(|bundle| bundle.has_shrunk()).collect()
    }
}

// Without Python, whose objects a plan would keep.
#[cfg(all(test, not(feature = "python")))]
mod tests {
    use super::*;
    use crate::call::tests::{call, code, written};
    use crate::lane::plans::{raw_message, Plans};
    use std::time::Duration;

    const SIZE: usize = 4; // bytes of the contents of a request

    struct Bench {
        plans: Plans,
        open: Open,
    }

    impl Bench {
        fn new(rows: usize, max_rows: usize) -> Self {
            let plans = Plans::default();
            for head in ["a", "b"] {
                let plan = Plan::new((), vec![SIZE], rows, max_rows);
                plans.keep(head_of(head), plan);
            }
            Self { plans, open: Open::default() }
        }

        fn add(&mut self, call: &Arc<Call>, head: &str, id: &str, contents: u8) {
            let is_stream = call.arity == Arity::Stream;
            let kind = if is_stream { Kind::Message } else { Kind::Request };
            let ticket = if is_stream { call.ticket() } else { 0 };
            let message = raw_message(&head_of(head), id.as_bytes(), &[&[contents; SIZE]]);
            let seen = self.plans.recognise(&message).unwrap();
            let (call, message) = (Arc::clone(call), Bytes::from(message));
            let event = Event { kind, call, message, ticket, seen: None };
            self.open.add(Member::new(event, seen));
        }

        fn close(self) -> Vec<Arc<Bundle>> {
            self.open.close().collect()
        }
    }

    fn head_of(name: &str) -> Vec<u8> {
        [b"\x0a\x01", name.as_bytes()].concat()
    }

    fn unary(deadline: Option<Instant>) -> Arc<Call> {
        call(Arity::Unary, deadline)
    }

    fn contents(bundle: &Bundle) -> Vec<u8> {
        let mut all = Vec::new();
        bundle.contents(0, |contents| all.extend_from_slice(contents));
        all
    }

    fn reply(call: &Call) -> Option<Bytes> {
        call.with_outbox(|outbox| outbox.finish.as_mut()?.reply.take())
    }

    #[test]
    fn requests_of_one_plan_lie_side_by_side() {
        let mut bench = Bench::new(1, 8);
        let calls = [unary(None), call(Arity::Stream, None), unary(None)];
        for (call, (head, value)) in calls.iter().zip([("a", 1), ("b", 2), ("a", 3)]) {
            bench.add(call, head, "", value);
        }
        let bundles = bench.close();
        let all: Vec<_> = bundles.iter().map(|bundle| contents(bundle)).collect();
        assert_eq!(all, [vec![1, 1, 1, 1, 3, 3, 3, 3], vec![2; SIZE]]);
    }

    #[test]
    fn a_bundle_has_no_more_rows_than_a_batch() {
        for (rows, max_rows, expected) in
            [(1, 3, vec![3, 3, 1]), (2, 5, vec![2, 2, 2, 1]), (1, 1, vec![1; 7])]
        {
            let mut bench = Bench::new(rows, max_rows);
            (0..7).for_each(|value| bench.add(&unary(None), "a", "", value));
            let counts: Vec<_> = bench.close().iter().map(|bundle| bundle.count()).collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn deadlines_are_told_from_their_absence() {
        let now = Instant::now();
        let mut bench = Bench::new(1, 8);
        for seconds in [None, Some(5), None, Some(3)] {
            let deadline = seconds.map(|seconds| now + Duration::from_secs(seconds));
            bench.add(&unary(deadline), "a", "", 0);
        }
        let bundles = bench.close();
        let deadlines: Vec<_> = bundles.iter().map(|bundle| bundle.deadlines()).collect();
        let (first, last) = (now + Duration::from_secs(3), now + Duration::from_secs(5));
        assert_eq!(deadlines, [None, Some((first, last))]);
    }

    #[test]
    fn each_gets_its_own_rows() {
        let (single, stream) = (unary(None), call(Arity::Stream, None));
        let mut bench = Bench::new(1, 8);
        bench.add(&single, "a", "one", 0);
        bench.add(&stream, "a", "", 0);
        bench.add(&stream, "a", "3", 0);
        let bundles = bench.close();
        let form = Form { fixed: b"F", tail: b"T", work: None };
        bundles[0].answer(&form, &[b"abcdef", b"123"], &HeaderMap::new());
        assert_eq!(&reply(&single).unwrap()[..], b"\0\0\0\0\x0dF\x1a\x03one\x32\x02ab\x32\x011");
        let expected = b"\0\0\0\0\x0b\x12\x09F\x32\x02cd\x32\x012T\
            \0\0\0\0\x0e\x12\x0cF\x1a\x013\x32\x02ef\x32\x013T";
        assert_eq!(written(&stream), (expected.to_vec(), vec![16, 19]));
        assert_eq!(bundles[0].count(), 0);
    }

    #[test]
    fn who_has_left_keeps_his_rows_unless_he_is_taken_out() {
        let calls = [unary(None), unary(None), unary(None)];
        let fill = || {
            let mut bench = Bench::new(1, 8);
            (1..).zip(&calls).for_each(|(value, call)| bench.add(call, "a", "", value));
            bench.close().remove(0)
        };
        let (left, stripped) = (fill(), fill());
        calls[1].cancel();
        assert_eq!((left.count(), left.waiting()), (3, 2));
        assert_eq!((stripped.strip(), stripped.count()), (2, 2));
        assert_eq!(contents(&stripped), [1, 1, 1, 1, 3, 3, 3, 3]);
        left.answer(&Form { fixed: b"", tail: b"", work: None }, &[b"abc"], &HeaderMap::new());
        assert_eq!(code(&calls[1]), None);
        assert_eq!(&reply(&calls[2]).unwrap()[..], b"\0\0\0\0\x03\x32\x01c");
    }

    #[test]
    fn an_answer_that_is_too_long_ends_its_call_with_an_error() {
        let calls = [unary(None), call(Arity::Stream, None)];
        let mut bench = Bench::new(1, 8);
        calls.iter().for_each(|call| bench.add(call, "a", "", 0));
        let output = vec![0; 1 << 27];
        let outputs = vec![&output[..]; 64]; // 4 GiB for each, which are never copied
        bench.close()[0].answer(
            &Form { fixed: b"", tail: b"", work: None },
            &outputs,
            &HeaderMap::new(),
        );
        for call in calls {
            assert_eq!(code(&call), Some(code::INTERNAL));
            assert_eq!(written(&call), (vec![], vec![]));
        }
    }

    #[test]
    fn a_bundle_is_listed_once_for_each_time_that_callers_leave() {
        let outstanding = Outstanding::default();
        let mut bench = Bench::new(1, 2);
        let calls: Vec<_> = (0..4).map(|_| unary(None)).collect();
        calls.iter().for_each(|call| bench.add(call, "a", "", 0));
        let bundles = bench.close();
        bundles.iter().for_each(|bundle| outstanding.add(bundle));
        let shrunk = || {
            let shrunk = outstanding.shrunk();
            let at = |one| bundles.iter().position(|bundle| Arc::ptr_eq(bundle, one));
            shrunk.iter().filter_map(at).collect::<Vec<_>>()
        };
        assert_eq!(shrunk(), [0; 0]);
        calls[2].cancel();
        assert_eq!(shrunk(), [1]);
        assert_eq!(shrunk(), [0; 0]);
        calls[0].cancel();
        calls[3].cancel();
        assert_eq!(shrunk(), [0, 1]);
        drop(bundles);
        calls[1].cancel();
        assert!(outstanding.shrunk().is_empty());
    }

    #[test]
    fn bundles_that_are_gone_take_no_place() {
        let outstanding = Outstanding::default();
        for _ in 0..1000 {
            let mut bench = Bench::new(1, 1);
            bench.add(&unary(None), "a", "", 0);
            outstanding.add(&bench.close()[0]);
        }
        assert!(lock(&outstanding.bundles).capacity() < 10);
    }

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
