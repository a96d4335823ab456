//! Messages that leave the order of answers: what is sent for them does not wait for the others.

use super::Call;
use crate::sync::lock;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::task::Waker;

impl Call {
    /// Take a message out of the order of answers: it is answered by `send`, whenever that is, and
    /// ends when it is settled. Without effect on one that is answered or detached.
    pub fn detach(self: &Arc<Self>, ticket: u64) -> Option<Waker> {
        let mut outbox = lock(&self.outbox);
        if self.has_ended() || !outbox.order.detach(ticket) {
            return None;
        }
        let promoted = outbox.promote();
        self.window.add(promoted);
        drop(outbox);
        if promoted == 0 {
            None
        } else {
            self.post()
        }
    }

    /// Settle messages that have no answer to wait for.
    pub fn settle(self: &Arc<Self>, count: u32) -> Option<Waker> {
        self.settled.fetch_add(count, Ordering::AcqRel);
        let mut outbox = lock(&self.outbox);
        outbox.order.settle(count);
        self.close(outbox)
    }

    /// Messages that `settle` has settled since the last look.
    pub fn take_settled(&self) -> u32 {
        self.settled.swap(0, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use crate::call::tests::{answer, code, end, send, sent, stream, written};
    use proptest::prelude::*;

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
}
