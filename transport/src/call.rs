//! One RPC, as the application and its connection share it. The application writes into the
//! outbox from any thread; the connection's task is the only one that reads it and that touches
//! HTTP/2. A call ends once: by `finish`, or by the peer, whichever comes first.

use crate::core::Arity;
use crate::mailbox::Mailbox;
use crate::sync::lock;
use crate::wire::encoding::Encoding;
use crate::wire::frame;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// Who sits at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// For logs: "127.0.0.1:50123", "unix".
    pub address: String,
    /// The certificate that the client presented, DER.
    pub certificate: Option<Vec<u8>>,
}

/// What the peer said when it made the call.
pub struct Head {
    /// Index in the server's list of methods.
    pub method: usize,
    pub headers: HeaderMap,
    /// How replies are compressed, where that pays.
    pub reply_encoding: Encoding,
    pub deadline: Option<Instant>,
    pub peer: Arc<Peer>,
}

/// How a call ends.
pub struct Finish {
    pub code: i32,
    pub message: String,
    /// The framed answer of a unary call.
    pub reply: Option<Bytes>,
    pub trailers: HeaderMap,
    /// How long the application worked for the answer, where it says so.
    pub work: Option<Duration>,
}

/// What the application has written and the connection has not taken yet.
#[derive(Default)]
pub struct Outbox {
    /// Metadata that is sent before anything else.
    pub initial: Option<HeaderMap>,
    /// The connection has taken something: it is too late for initial metadata.
    pub has_begun: bool,
    /// Framed messages, one after another.
    pub bytes: BytesMut,
    pub marks: VecDeque<Mark>,
    pub finish: Option<Finish>,
    order: Order,
}

/// The answers of a stream that are given by ticket leave in the order of the messages.
#[derive(Default)]
struct Order {
    handed_out: u64,
    next: u64,
    early: BTreeMap<u64, Bytes>, // framed, and not yet their turn
    early_bytes: usize,
    detached: BTreeSet<u64>,   // tickets to pass over when their turn comes
    unfinished: u64,           // detached messages that are not settled
    last_word: Option<Finish>, // ends the call when every message is answered
}

impl Order {
    fn is_complete(&self) -> bool {
        self.next == self.handed_out && self.unfinished == 0
    }

    // Nobody has answered or detached the message with this ticket.
    fn is_open(&self, ticket: u64) -> bool {
        (self.next..self.handed_out).contains(&ticket)
            && !self.early.contains_key(&ticket)
            && !self.detached.contains(&ticket)
    }

    fn settle(&mut self, count: u32) {
        self.unfinished = self.unfinished.saturating_sub(u64::from(count));
    }
}

impl Outbox {
    // Answers whose turn has come.
    fn promote(&mut self) {
        loop {
            if let Some(early) = self.order.early.remove(&self.order.next) {
                self.order.early_bytes -= early.len();
                self.bytes.extend_from_slice(&early);
                self.marks.push_back(Mark { length: early.len(), settles: 1 });
            } else if !self.order.detached.remove(&self.order.next) {
                return;
            }
            self.order.next += 1;
        }
    }

    fn take_last_word(&mut self) -> Option<Finish> {
        if self.order.is_complete() {
            self.order.last_word.take()
        } else {
            None
        }
    }
}

/// Where a message ends, and what it settles.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub length: usize,
    pub settles: u32,
}

pub struct Call {
    pub head: Head,
    pub arity: Arity,
    /// Where the connection keeps its half of the call.
    pub slot: usize,
    mailbox: Arc<Mailbox>,
    posted: AtomicBool,
    // Set by whoever ends the call first: the application, or the connection.
    ended: AtomicBool,
    // Set by the application's finish alone, early or late.
    finished: AtomicBool,
    outbox: Mutex<Outbox>,
    unsent: AtomicUsize,
    outgoing_window: usize,
    // Somebody was told that there is no room, and is to be told when there is.
    is_awaited: AtomicBool,
    settled: AtomicU32,
    // What the application sees of this call. It refers to the call and the call to it, until
    // `forget` when the last word has been said.
    handle: Mutex<Option<Handle>>,
}

/// What the application sees of a call; only `python` looks into it.
#[cfg(feature = "python")]
pub type Handle = pyo3::Py<pyo3::PyAny>;
#[cfg(not(feature = "python"))]
pub type Handle = ();

impl Call {
    pub fn new(
        head: Head,
        arity: Arity,
        slot: usize,
        mailbox: Arc<Mailbox>,
        outgoing_window: usize,
    ) -> Self {
        Self {
            head,
            arity,
            slot,
            mailbox,
            posted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            outbox: Mutex::default(),
            unsent: AtomicUsize::new(0),
            outgoing_window,
            is_awaited: AtomicBool::new(false),
            settled: AtomicU32::new(0),
            handle: Mutex::default(),
        }
    }

    /// Send the headers of the answer, with this metadata.
    ///
    /// # Errors
    /// When something was sent before.
    pub fn begin(self: &Arc<Self>, initial: HeaderMap) -> Result<Option<Waker>, TooLate> {
        let mut outbox = lock(&self.outbox);
        let is_late = outbox.has_begun
            || outbox.initial.is_some()
            || outbox.finish.is_some()
            || !outbox.bytes.is_empty();
        if is_late && !self.has_ended() {
            return Err(TooLate);
        }
        outbox.initial = Some(initial);
        drop(outbox);
        Ok(self.post())
    }

    /// Put a message into its frame. None: it is longer than a frame can be.
    pub fn framed(&self, message: &[u8]) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        frame::encode_as(self.head.reply_encoding, message, &mut out)?;
        Some(out)
    }

    /// Queue a message. None: it is longer than a frame can be. Without room for more the
    /// application is told when there is again.
    pub fn send(self: &Arc<Self>, message: &[u8], settles: u32) -> Option<Sent> {
        if self.has_ended() {
            return Some(Sent { has_room: true, wake: None });
        }
        // Compressed outside the lock: the connection's task waits for it.
        let compressed = match self.head.reply_encoding {
            Encoding::Identity => None,
            _ => Some(self.framed(message)?),
        };
        let mut outbox = lock(&self.outbox);
        let before = outbox.bytes.len();
        match compressed {
            None => frame::encode(message, &mut outbox.bytes)?,
            Some(framed) => outbox.bytes.unsplit(framed),
        }
        let length = outbox.bytes.len() - before;
        outbox.marks.push_back(Mark { length, settles });
        // Under the lock: once it is free the connection may send these bytes and subtract them.
        let unsent = self.unsent.fetch_add(length, Ordering::AcqRel) + length;
        let has_room = unsent <= self.outgoing_window;
        if !has_room {
            // Also under the lock: the connection looks when it has sent these bytes at the latest.
            self.is_awaited.store(true, Ordering::Release);
        }
        outbox.order.settle(settles);
        let last_word = outbox.take_last_word();
        drop(outbox);
        let ended = last_word.and_then(|finish| self.finish(finish));
        Some(Sent { has_room, wake: ended.or_else(|| self.post()) })
    }

    /// True once after `send` found no room, when half of the window is free again.
    pub fn has_room_again(&self) -> bool {
        self.is_awaited.load(Ordering::Acquire)
            && self.unsent() <= self.outgoing_window / 2
            && self.is_awaited.swap(false, Ordering::AcqRel)
    }

    /// Give the next message its place in the order of answers.
    pub fn ticket(&self) -> u64 {
        let order = &mut lock(&self.outbox).order;
        order.handed_out += 1;
        order.handed_out - 1
    }

    /// Take a message out of the order of answers: it is answered by `send`, whenever that is, and
    /// ends when it is settled. Without effect on one that is answered or detached.
    pub fn detach(self: &Arc<Self>, ticket: u64) -> Option<Waker> {
        let mut outbox = lock(&self.outbox);
        if self.has_ended() || !outbox.order.is_open(ticket) {
            return None;
        }
        outbox.order.unfinished += 1;
        outbox.order.detached.insert(ticket);
        let before = outbox.bytes.len();
        outbox.promote();
        let promoted = outbox.bytes.len() - before;
        self.unsent.fetch_add(promoted, Ordering::AcqRel);
        drop(outbox);
        if promoted == 0 {
            None
        } else {
            self.post()
        }
    }

    /// Answer the message with this ticket, which settles it. The answer leaves when everything
    /// before it is answered. None: it cannot be written.
    ///
    /// write: appends the framed answer, and nothing if it fails.
    pub fn answer(
        self: &Arc<Self>,
        ticket: u64,
        write: impl FnOnce(&mut BytesMut) -> Option<()>,
    ) -> Option<Sent> {
        let mut outbox = lock(&self.outbox);
        let order = &outbox.order;
        if self.has_ended() || ticket < order.next || ticket >= order.handed_out {
            return Some(Sent { has_room: true, wake: None });
        }
        if ticket > order.next {
            if !order.is_open(ticket) {
                return Some(Sent { has_room: self.has_room(&outbox), wake: None });
            }
            let mut early = BytesMut::new();
            write(&mut early)?;
            // Not unsent: they wait for an answer of ours, and not for the peer.
            outbox.order.early_bytes += early.len();
            outbox.order.early.insert(ticket, early.freeze());
            return Some(Sent { has_room: self.has_room(&outbox), wake: None });
        }
        let before = outbox.bytes.len();
        write(&mut outbox.bytes)?;
        let length = outbox.bytes.len() - before;
        outbox.marks.push_back(Mark { length, settles: 1 });
        outbox.order.next += 1;
        outbox.promote();
        // Under the lock: once it is free the connection may send these bytes and subtract them.
        self.unsent.fetch_add(outbox.bytes.len() - before, Ordering::AcqRel);
        let has_room = self.has_room(&outbox);
        let last_word = outbox.take_last_word();
        drop(outbox);
        let ended = last_word.and_then(|finish| self.finish(finish));
        Some(Sent { has_room, wake: ended.or_else(|| self.post()) })
    }

    fn has_room(&self, outbox: &Outbox) -> bool {
        self.unsent() + outbox.order.early_bytes <= self.outgoing_window
    }

    /// End the call when every message that was handed up is answered. Of several the last one
    /// before that counts; after `finish` it has no effect.
    pub fn finish_answered(self: &Arc<Self>, finish: Finish) -> Option<Waker> {
        let mut outbox = lock(&self.outbox);
        outbox.order.last_word = Some(finish);
        let last_word = outbox.take_last_word();
        drop(outbox);
        self.finish(last_word?)
    }

    /// Settle messages that have no answer to wait for.
    pub fn settle(self: &Arc<Self>, count: u32) -> Option<Waker> {
        self.settled.fetch_add(count, Ordering::AcqRel);
        let mut outbox = lock(&self.outbox);
        outbox.order.settle(count);
        let last_word = outbox.take_last_word();
        drop(outbox);
        let ended = last_word.and_then(|finish| self.finish(finish));
        ended.or_else(|| self.post())
    }

    /// End the call. Only the first call has an effect.
    pub fn finish(self: &Arc<Self>, finish: Finish) -> Option<Waker> {
        self.finished.store(true, Ordering::Release);
        let already = self.ended.swap(true, Ordering::AcqRel);
        self.forget();
        if already {
            return None;
        }
        let length = finish.reply.as_ref().map_or(0, Bytes::len);
        self.unsent.fetch_add(length, Ordering::AcqRel);
        lock(&self.outbox).finish = Some(finish);
        self.post()
    }

    /// End the call from the connection's side. True: the application had not ended it.
    pub fn cancel(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// True once the application has said its last word, or has never seen the call.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// The application is not told of this call, so it need not be told of its end.
    pub fn hide(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Run with the outbox; the connection's task only.
    pub fn with_outbox<T>(&self, look: impl FnOnce(&mut Outbox) -> T) -> T {
        look(&mut lock(&self.outbox))
    }

    /// Say that the network has taken so many bytes.
    pub fn sent(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Bytes that the application has given and the network has not taken.
    pub fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Acquire)
    }

    /// Messages that `settle` has settled since the last look.
    pub fn take_settled(&self) -> u32 {
        self.settled.swap(0, Ordering::AcqRel)
    }

    /// The connection is about to look: what is posted from here on is seen by the next look.
    pub fn collected(&self) {
        // Read and written in one step, to see all that was written before a post that found true.
        self.posted.swap(false, Ordering::AcqRel);
    }

    /// Run with the slot for what the application sees of this call.
    pub fn with_handle<T>(&self, look: impl FnOnce(&mut Option<Handle>) -> T) -> T {
        look(&mut lock(&self.handle))
    }

    /// True if the application has an object for this call.
    pub fn has_handle(&self) -> bool {
        lock(&self.handle).is_some()
    }

    /// Let go of what the application sees of this call.
    pub fn forget(&self) {
        let handle = lock(&self.handle).take();
        drop(handle);
    }

    fn post(self: &Arc<Self>) -> Option<Waker> {
        if self.posted.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.mailbox.post(Arc::clone(self))
    }
}

/// HTTP/2 wakes a call when it has something for it.
impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.post().into_iter().for_each(Waker::wake);
    }
}

/// Initial metadata comes before everything else, and once.
#[derive(Debug)]
pub struct TooLate;

/// What `send` tells its caller.
pub struct Sent {
    pub has_room: bool,
    /// To be woken when everything has been posted.
    pub wake: Option<Waker>,
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::wire::encoding::Encoding;
    use proptest::prelude::*;

    /// A call on a connection that nobody drives.
    pub fn call(arity: Arity, deadline: Option<Instant>) -> Arc<Call> {
        let peer = Arc::new(Peer { address: "unix".to_owned(), certificate: None });
        let (headers, reply_encoding) = (HeaderMap::new(), Encoding::Identity);
        let head = Head { method: 0, headers, reply_encoding, deadline, peer };
        Arc::new(Call::new(head, arity, 0, Arc::default(), 100))
    }

    /// What has been written, and where each message ends.
    pub fn written(call: &Call) -> (Vec<u8>, Vec<usize>) {
        call.with_outbox(|outbox| {
            assert!(outbox.marks.iter().all(|mark| mark.settles == 1));
            (outbox.bytes.to_vec(), outbox.marks.iter().map(|mark| mark.length).collect())
        })
    }

    /// The code that a call ends with, if it has ended.
    pub fn code(call: &Call) -> Option<i32> {
        call.with_outbox(|outbox| outbox.finish.as_ref().map(|finish| finish.code))
    }

    fn stream(tickets: u64) -> Arc<Call> {
        let call = call(Arity::Stream, None);
        (0..tickets).for_each(|ticket| assert_eq!(call.ticket(), ticket));
        call
    }

    fn answer(call: &Arc<Call>, ticket: u64, contents: &[u8]) -> bool {
        let write = |out: &mut BytesMut| {
            out.extend_from_slice(contents);
            Some(())
        };
        call.answer(ticket, write).unwrap().has_room
    }

    fn end(code: i32) -> Finish {
        Finish { code, message: String::new(), reply: None, trailers: HeaderMap::new(), work: None }
    }

    proptest! {
        #[test]
        fn answers_leave_in_the_order_of_messages(
            order in Just((0..12_u8).collect::<Vec<_>>()).prop_shuffle(),
            last_word_at in 0..=12_usize,
        ) {
            let call = stream(12);
            for (at, ticket) in order.iter().enumerate() {
                if at == last_word_at {
                    call.finish_answered(end(0));
                }
                prop_assert_eq!(code(&call), None);
                answer(&call, u64::from(*ticket), &vec![*ticket; usize::from(*ticket) + 1]);
            }
            call.finish_answered(end(0));
            let expected = (0..12).flat_map(|ticket| vec![ticket; usize::from(ticket) + 1]);
            prop_assert_eq!(written(&call), (expected.collect(), (1..=12).collect()));
            prop_assert_eq!(code(&call), Some(0));
            prop_assert_eq!(call.unsent(), (1..=12).sum::<usize>());
        }
    }

    proptest! {
        #[test]
        fn detached_messages_leave_the_order_of_the_others(
            order in Just((0..12_u8).collect::<Vec<_>>()).prop_shuffle(),
            is_detached in proptest::collection::vec(any::<bool>(), 12),
        ) {
            let call = stream(12);
            call.finish_answered(end(0));
            let detached = |ticket: u8| is_detached[usize::from(ticket)];
            for &ticket in &order {
                prop_assert_eq!(code(&call), None);
                if detached(ticket) {
                    call.detach(u64::from(ticket));
                } else {
                    answer(&call, u64::from(ticket), &[ticket + 1]);
                }
            }
            let expected: Vec<_> = (0..12).filter(|&ticket| !detached(ticket)).map(|t| t + 1).collect();
            let count = 12 - expected.len();
            prop_assert_eq!(written(&call), (expected.clone(), vec![1; expected.len()]));
            for left in (0..count).rev() {
                prop_assert_eq!(code(&call), None);
                send(&call, b"part", 0);
                if left % 2 == 0 {
                    send(&call, b"last", 1);
                } else {
                    call.settle(1);
                }
            }
            prop_assert_eq!(code(&call), Some(0));
        }
    }

    #[test]
    fn the_first_answer_to_a_message_counts() {
        let call = stream(3);
        answer(&call, 1, b"early");
        answer(&call, 1, b"too late");
        answer(&call, 0, b"in turn ");
        answer(&call, 0, b"again");
        answer(&call, 1, b"once more");
        assert_eq!(written(&call), (b"in turn early".to_vec(), vec![8, 5]));
        assert_eq!(call.unsent(), 13);
    }

    #[test]
    fn tickets_that_nobody_has_have_no_effect() {
        let call = stream(1);
        assert!(answer(&call, 1, b"?"));
        assert!(answer(&call, u64::MAX, b"?"));
        assert_eq!(call.ticket(), 1);
        answer(&call, 0, b"0");
        assert_eq!(written(&call), (b"0".to_vec(), vec![1]));
    }

    #[test]
    fn early_answers_fill_the_outgoing_window() {
        let call = stream(3);
        assert!(answer(&call, 2, &[2; 100]));
        assert!(!answer(&call, 1, &[1; 1]));
        assert!(!answer(&call, 2, &[2; 1]));
        assert_eq!(call.unsent(), 0); // nobody but us is waited for
        assert!(!answer(&call, 0, &[0; 1]));
        assert_eq!(call.unsent(), 102);
    }

    #[test]
    fn an_answer_that_cannot_be_written_changes_nothing() {
        let call = stream(2);
        assert!(call.answer(1, |_| None).is_none());
        assert!(call.answer(0, |_| None).is_none());
        answer(&call, 1, b"1");
        answer(&call, 0, b"0");
        assert_eq!(written(&call), (b"01".to_vec(), vec![1, 1]));
    }

    #[test]
    fn the_last_word_waits_for_every_message_that_was_handed_up() {
        let call = stream(1);
        call.finish_answered(end(14));
        assert_eq!(call.ticket(), 1); // a message that comes afterwards
        answer(&call, 0, b"0");
        assert_eq!(code(&call), None);
        call.finish_answered(end(0)); // and the word that counts
        answer(&call, 1, b"1");
        assert_eq!(code(&call), Some(0));
        call.finish_answered(end(14));
        assert_eq!(code(&call), Some(0));
    }

    #[test]
    fn of_a_call_that_was_left_nothing_more_is_written() {
        let call = stream(2);
        answer(&call, 1, b"early");
        assert!(call.cancel());
        call.finish_answered(end(0));
        assert!(answer(&call, 0, b"late"));
        assert_eq!(written(&call), (vec![], vec![]));
        assert_eq!(code(&call), None);
    }

    fn send(call: &Arc<Call>, contents: &[u8], settles: u32) -> bool {
        call.send(contents, settles).unwrap().has_room
    }

    // What has been written, less the headers of frames, which only `send` writes here.
    fn sent(call: &Call) -> Vec<u8> {
        call.with_outbox(|outbox| {
            let mut rest = outbox.bytes.to_vec();
            let messages = outbox.marks.iter().map(|mark| {
                let mut message: Vec<_> = rest.drain(..mark.length).collect();
                if message.first() == Some(&0) {
                    message.drain(..frame::HEADER);
                }
                message
            });
            messages.collect::<Vec<_>>().concat()
        })
    }

    #[test]
    fn a_detached_message_holds_nobody_back() {
        let call = stream(4);
        answer(&call, 1, b"b");
        answer(&call, 3, b"d");
        call.detach(2);
        assert_eq!(sent(&call), b"");
        call.detach(0);
        assert_eq!(sent(&call), b"bd");
        assert_eq!(call.unsent(), 2);
        send(&call, b"a", 1);
        assert_eq!(sent(&call), b"bda");
    }

    #[test]
    fn a_message_is_detached_once_and_only_while_it_is_open() {
        let call = stream(3);
        answer(&call, 0, b"a");
        answer(&call, 2, b"c");
        for ticket in [0, 2, 1, 1, 3, u64::MAX] {
            call.detach(ticket);
        }
        call.finish_answered(end(0));
        assert_eq!((sent(&call), code(&call)), (b"ac".to_vec(), None));
        answer(&call, 1, b"not by ticket");
        send(&call, b"b", 1);
        assert_eq!((sent(&call), code(&call)), (b"acb".to_vec(), Some(0)));
    }

    #[test]
    fn a_message_that_is_detached_ahead_of_its_turn_stays_so() {
        let call = stream(3);
        call.detach(2);
        call.detach(2);
        answer(&call, 2, b"not by ticket");
        call.finish_answered(end(0));
        answer(&call, 0, b"a");
        answer(&call, 1, b"b");
        assert_eq!((sent(&call), code(&call)), (b"ab".to_vec(), None));
        call.settle(1);
        assert_eq!(code(&call), Some(0));
    }

    #[test]
    fn the_last_word_waits_for_detached_messages() {
        let call = stream(3);
        (0..3).for_each(|ticket| drop(call.detach(ticket)));
        call.finish_answered(end(0));
        send(&call, b"first", 0);
        assert_eq!(code(&call), None);
        send(&call, b"last", 1);
        call.settle(1);
        assert_eq!(code(&call), None);
        call.settle(1);
        assert_eq!(code(&call), Some(0));
        assert_eq!(sent(&call), b"firstlast");
    }

    #[test]
    fn settling_what_was_never_detached_ends_nothing() {
        let call = stream(1);
        call.settle(5);
        send(&call, b"0", 1);
        call.finish_answered(end(0));
        assert_eq!(code(&call), None);
        call.detach(0);
        call.settle(1);
        assert_eq!(code(&call), Some(0));
    }

    #[test]
    fn room_is_told_once_when_half_of_the_window_is_free() {
        let call = stream(1);
        call.detach(0);
        assert!(send(&call, &[0; 95], 0)); // with its frame all of the window
        call.sent(60);
        assert!(!call.has_room_again()); // nobody was refused
        assert!(!send(&call, &[0; 95], 0));
        call.sent(60);
        assert!(!call.has_room_again());
        call.sent(30);
        assert!(call.has_room_again());
        assert!(!call.has_room_again());
    }

    #[test]
    fn finish_does_not_wait_for_answers() {
        let call = stream(2);
        call.finish_answered(end(0));
        call.finish(end(13));
        answer(&call, 0, b"0");
        answer(&call, 1, b"1");
        assert_eq!(written(&call), (vec![], vec![]));
        assert_eq!(code(&call), Some(13));
    }
}
