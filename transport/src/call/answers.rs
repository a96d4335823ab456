//! Answers by ticket: each settles the message whose ticket it has, and they leave in the order of
//! the messages.

use super::order::Turn;
use super::{Call, Finish, Sent};
use crate::sync::lock;
use bytes::BytesMut;
use std::sync::Arc;
use std::task::Waker;

impl Call {
    /// Give the next message its place in the order of answers.
    pub fn ticket(&self) -> u64 {
        lock(&self.outbox).order.ticket()
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
        let turn = if self.has_ended() { Turn::Never } else { outbox.order.turn(ticket) };
        match turn {
            Turn::Never => return Some(Sent { has_room: true, wake: None }),
            Turn::Taken => {}
            Turn::Later => {
                let mut early = BytesMut::new();
                write(&mut early)?;
                // Not unsent: they wait for an answer of ours, and not for the peer.
                outbox.order.hold(ticket, early.freeze());
            }
            Turn::Now => {
                let length = outbox.append(1, write)?;
                outbox.order.pass();
                let promoted = outbox.promote();
                self.window.add(length + promoted); // under the lock, as the window asks
            }
        }
        let has_room = self.window.has_room(outbox.order.early_bytes());
        let wake = if turn == Turn::Now { self.close(outbox) } else { None };
        Some(Sent { has_room, wake })
    }

    /// End the call when every message that was handed up is answered. Of several the last one
    /// before that counts; after `finish` it has no effect.
    pub fn finish_answered(self: &Arc<Self>, finish: Finish) -> Option<Waker> {
        let mut outbox = lock(&self.outbox);
        outbox.last_word = Some(finish);
        let last_word = outbox.take_last_word();
        drop(outbox);
        self.finish(last_word?)
    }
}

#[cfg(test)]
mod tests {
    use crate::call::tests::{answer, code, end, stream, written};
    use proptest::prelude::*;

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
}
