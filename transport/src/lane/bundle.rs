//! Requests of one plan that wait together: copied side by side, answered together.

use super::member::Member;
use super::plans::Plan;
use super::reply::Form;
use crate::call::{Call, Handle};
use crate::sync::lock;
use http::HeaderMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Instant;

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

    /// True: fewer wait than when this was asked before.
    pub fn has_shrunk(&self) -> bool {
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

// Without Python, whose objects a plan would keep.
#[cfg(all(test, not(feature = "python")))]
mod tests {
    use super::*;
    use crate::admission::code::INTERNAL;
    use crate::call::tests::{call, code, written};
    use crate::core::Arity;
    use crate::lane::bench::{contents, unary, Bench};
    use bytes::Bytes;

    fn reply(call: &Call) -> Option<Bytes> {
        call.with_outbox(|outbox| outbox.finish.as_mut()?.reply.take())
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
            assert_eq!(code(&call), Some(INTERNAL));
            assert_eq!(written(&call), (vec![], vec![]));
        }
    }
}
