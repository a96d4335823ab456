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

    /// Look at the requests.
    pub fn each(&self, look: impl FnMut(&Member)) {
        lock(&self.members).iter().for_each(look);
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
