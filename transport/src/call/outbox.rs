//! What the application has written of a call and the connection has not taken yet.

use super::order::Order;
use super::Finish;
use bytes::BytesMut;
use http::HeaderMap;
use std::collections::VecDeque;

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
    pub order: Order,
    /// Ends the call when every message is answered.
    pub last_word: Option<Finish>,
}

/// Where a message ends, and what it settles.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub length: usize,
    pub settles: u32,
}

impl Outbox {
    /// Append a message. Returns its length; None: it cannot be written.
    ///
    /// write: appends the framed message, and nothing if it fails.
    pub fn append(
        &mut self,
        settles: u32,
        write: impl FnOnce(&mut BytesMut) -> Option<()>,
    ) -> Option<usize> {
        let before = self.bytes.len();
        write(&mut self.bytes)?;
        let length = self.bytes.len() - before;
        self.marks.push_back(Mark { length, settles });
        Some(length)
    }

    /// Append the answers whose turn has come. Returns their bytes.
    pub fn promote(&mut self) -> usize {
        let before = self.bytes.len();
        while let Some(answer) = self.order.due() {
            self.bytes.extend_from_slice(&answer);
            self.marks.push_back(Mark { length: answer.len(), settles: 1 });
        }
        self.bytes.len() - before
    }

    /// Take the last word, if every message is answered.
    pub fn take_last_word(&mut self) -> Option<Finish> {
        if self.order.is_complete() {
            self.last_word.take()
        } else {
            None
        }
    }

    /// True: something is sent or about to be, so it is too late for initial metadata.
    pub fn has_contents(&self) -> bool {
        self.has_begun || self.initial.is_some() || self.finish.is_some() || !self.bytes.is_empty()
    }
}
