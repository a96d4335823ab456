//! The order in which the answers of a stream leave: that of its messages. An answer that comes
//! before its turn waits here; what is detached leaves the order, and is only counted.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The messages of one call, by their tickets.
#[derive(Default)]
pub struct Order {
    handed_out: u64,
    next: u64,
    early: BTreeMap<u64, Bytes>, // framed, and not yet their turn
    early_bytes: usize,
    detached: BTreeSet<u64>, // tickets to pass over when their turn comes
    unfinished: u64,         // detached messages that are not settled
}

/// When the answer to a message leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    Later,
    /// It waits already, or is not given by ticket.
    Taken,
    /// It has left, or nobody has this ticket.
    Never,
}

impl Order {
    /// Give the next message its place.
    pub fn ticket(&mut self) -> u64 {
        self.handed_out += 1;
        self.handed_out - 1
    }

    /// Say when the answer to a message leaves, if it is given now.
    pub fn turn(&self, ticket: u64) -> Turn {
        if !(self.next..self.handed_out).contains(&ticket) {
            Turn::Never
        } else if self.early.contains_key(&ticket) || self.detached.contains(&ticket) {
            Turn::Taken
        } else if ticket == self.next {
            Turn::Now
        } else {
            Turn::Later
        }
    }

    /// The answer whose turn it is has left.
    pub fn pass(&mut self) {
        self.next += 1;
    }

    /// Keep an answer until its turn comes.
    pub fn hold(&mut self, ticket: u64, answer: Bytes) {
        self.early_bytes += answer.len();
        self.early.insert(ticket, answer);
    }

    /// Bytes of the answers that wait for their turn.
    pub fn early_bytes(&self) -> usize {
        self.early_bytes
    }

    /// Take a message out of the order, until it is settled. False: it is answered or detached.
    pub fn detach(&mut self, ticket: u64) -> bool {
        let is_open = matches!(self.turn(ticket), Turn::Now | Turn::Later);
        if is_open {
            self.unfinished += 1;
            self.detached.insert(ticket);
        }
        is_open
    }

    /// Take the next answer that waited and whose turn has come.
    pub fn due(&mut self) -> Option<Bytes> {
        while self.detached.remove(&self.next) {
            self.pass();
        }
        let answer = self.early.remove(&self.next)?;
        self.early_bytes -= answer.len();
        self.pass();
        Some(answer)
    }

    /// So many detached messages are settled.
    pub fn settle(&mut self, count: u32) {
        self.unfinished = self.unfinished.saturating_sub(u64::from(count));
    }

    /// True: every message is answered, and every detached one settled.
    pub fn is_complete(&self) -> bool {
        self.next == self.handed_out && self.unfinished == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(tickets: u64) -> Order {
        let mut order = Order::default();
        (0..tickets).for_each(|ticket| assert_eq!(order.ticket(), ticket));
        order
    }

    fn turns(order: &Order) -> Vec<Turn> {
        (0..5).map(|ticket| order.turn(ticket)).collect()
    }

    #[test]
    fn the_oldest_open_message_is_answered_now_and_the_others_later() {
        let mut order = order(4);
        assert_eq!(turns(&order), [Turn::Now, Turn::Later, Turn::Later, Turn::Later, Turn::Never]);
        order.hold(1, Bytes::from_static(b"1"));
        order.detach(2);
        assert_eq!(turns(&order), [Turn::Now, Turn::Taken, Turn::Taken, Turn::Later, Turn::Never]);
        order.pass();
        assert_eq!(order.due().as_deref(), Some(&b"1"[..]));
        assert_eq!(order.due(), None);
        assert_eq!(turns(&order), [Turn::Never, Turn::Never, Turn::Never, Turn::Now, Turn::Never]);
    }

    #[test]
    fn answers_are_due_one_after_another_and_are_counted_until_then() {
        let mut order = order(3);
        order.hold(2, Bytes::from_static(b"two"));
        order.hold(1, Bytes::from_static(b"1"));
        assert_eq!((order.due(), order.early_bytes()), (None, 4));
        order.pass();
        assert_eq!(order.due().as_deref(), Some(&b"1"[..]));
        assert_eq!(order.early_bytes(), 3);
        assert_eq!(order.due().as_deref(), Some(&b"two"[..]));
        assert_eq!((order.due(), order.early_bytes()), (None, 0));
        assert!(order.is_complete());
    }

    #[test]
    fn only_an_open_message_is_detached() {
        let mut order = order(3);
        order.pass();
        order.hold(2, Bytes::new());
        let detached: Vec<_> =
            [0, 2, 1, 1, 3, u64::MAX].iter().map(|&ticket| order.detach(ticket)).collect();
        assert_eq!(detached, [false, false, true, false, false, false]);
    }

    #[test]
    fn it_is_complete_when_all_are_answered_and_the_detached_settled() {
        let mut order = order(0);
        assert!(order.is_complete());
        order.ticket();
        order.ticket();
        order.detach(0);
        assert_eq!(order.due(), None);
        order.pass();
        assert!(!order.is_complete());
        order.settle(5);
        assert!(order.is_complete());
        order.ticket();
        assert!(!order.is_complete());
    }
}
