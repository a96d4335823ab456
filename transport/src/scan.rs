//! The HTTP/2 frames that cost a peer nothing and the server something: their rate.
//!
//! h2 bounds the memory that such frames can take; their rate is bounded here. Only the nine bytes
//! of each frame header are looked at; what is in header blocks is for `mend`.

use crate::limits::Limits;
use crate::mend::Mender;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PREFACE: usize = 24; // RFC 9113 section 3.4
const FRAME_HEADER: usize = 9; // RFC 9113 section 4.1
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const PING_STRIKES: u32 = 2; // as gRPC's servers: the third ping in too short a time is too many

/// Finds the frame headers in what a peer sends and counts the cheap ones.
pub struct Scanner {
    skip: usize, // bytes of the preface or of a frame that are still to come
    in_block: bool,
    mender: Mender,
    header: [u8; FRAME_HEADER],
    have: usize,
    resets: Allowance,
    control: Allowance,
    min_ping_interval: Option<Duration>,
    last_ping: Option<Instant>,
    strikes: u32,
}

impl Scanner {
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            skip: PREFACE,
            in_block: false,
            mender: Mender::default(),
            header: [0; FRAME_HEADER],
            have: 0,
            resets: Allowance::new(limits.resets_per_second, now),
            control: Allowance::new(limits.control_frames_per_second, now),
            min_ping_interval: limits.min_ping_interval,
            last_ping: None,
            strikes: 0,
        }
    }

    /// Look at what was received, and mend it. False: the peer has gone over a limit.
    pub fn accept(&mut self, mut bytes: &mut [u8], now: Instant, answered: &AtomicBool) -> bool {
        let mut within = true;
        while !bytes.is_empty() {
            let (payload, rest) = bytes.split_at_mut(self.skip.min(bytes.len()));
            self.skip -= payload.len();
            if self.in_block {
                self.mender.mend(payload);
            }
            let (part, rest) = rest.split_at_mut(rest.len().min(FRAME_HEADER - self.have));
            for (slot, byte) in self.header.iter_mut().skip(self.have).zip(&*part) {
                *slot = *byte;
            }
            self.have += part.len();
            bytes = rest;
            if self.have == FRAME_HEADER {
                self.have = 0;
                within &= self.begin_frame(now, answered);
            }
        }
        within
    }

    fn begin_frame(&mut self, now: Instant, answered: &AtomicBool) -> bool {
        let [a, b, c, kind, flags, ..] = self.header;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        self.in_block = matches!(kind, HEADERS | CONTINUATION);
        match kind {
            HEADERS => self.mender.headers(self.skip, flags),
            CONTINUATION => self.mender.continuation(self.skip),
            _ => {}
        }
        self.allow(kind, flags, now, answered)
    }

    fn allow(&mut self, kind: u8, flags: u8, now: Instant, answered: &AtomicBool) -> bool {
        match kind {
            RST_STREAM => self.resets.take(now),
            PING if flags & ACK == 0 => self.allow_ping(now, answered) && self.control.take(now),
            SETTINGS if flags & ACK == 0 => self.control.take(now),
            PRIORITY => self.control.take(now),
            _ => true,
        }
    }

    fn allow_ping(&mut self, now: Instant, answered: &AtomicBool) -> bool {
        let Some(interval) = self.min_ping_interval else { return true };
        let last = self.last_ping.replace(now);
        if answered.swap(false, Ordering::Relaxed) {
            self.strikes = 0;
        } else if last.is_some_and(|last| now.duration_since(last) < interval) {
            self.strikes += 1;
        }
        self.strikes <= PING_STRIKES
    }
}

/// So many a second, a second's worth at once.
struct Allowance {
    per_second: u32,
    left: f64,
    filled: Instant,
}

impl Allowance {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: f64::from(per_second), filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let rate = f64::from(self.per_second);
        let grown = now.duration_since(self.filled).as_secs_f64() * rate;
        self.left = (self.left + grown).min(rate);
        self.filled = now;
        self.left -= 1.0;
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, Scanner, FRAME_HEADER, PREFACE};
    use crate::limits::Limits;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    fn limits(interval: Option<Duration>) -> Limits {
        Limits {
            resets_per_second: 10,
            control_frames_per_second: 10,
            min_ping_interval: interval,
            ..Limits::for_tests()
        }
    }

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("short").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEADER + payload, 0xff);
        bytes
    }

    #[test]
    fn an_allowance_is_a_second_s_worth_and_grows_back() {
        let start = Instant::now();
        let mut allowance = Allowance::new(10, start);
        assert!((0..10).all(|_| allowance.take(start)));
        assert!(!allowance.take(start));
        assert!(allowance.take(start + Duration::from_secs(1)));
    }

    #[test]
    fn the_third_hasty_ping_is_too_many_unless_the_peer_was_answered() {
        let now = Instant::now();
        let mut scanner = Scanner::new(&limits(Some(Duration::from_secs(10))), now);
        let silent = AtomicBool::new(false);
        assert!(scanner.accept(&mut [0; PREFACE], now, &silent));
        let mut ping = frame(6, 0, 8);
        let verdicts = [(); 4].map(|()| scanner.accept(&mut ping, now, &silent));
        assert_eq!(verdicts, [true, true, true, false]);
        assert!(scanner.accept(&mut ping, now, &AtomicBool::new(true)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned_and_their_verdict_does_not_depend_on_the_cuts(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            cut in 1usize..64,
        ) {
            let now = Instant::now();
            let answered = AtomicBool::new(false);
            let verdict = |cut: usize| {
                let mut scanner = Scanner::new(&limits(Some(Duration::from_secs(10))), now);
                let mut copy = bytes.clone();
                let mut within = true;
                for part in copy.chunks_mut(cut) {
                    within &= scanner.accept(part, now, &answered);
                }
                (within, copy)
            };
            let (whole, mended) = verdict(bytes.len().max(1));
            prop_assert_eq!(verdict(cut), (whole, mended.clone()));
            prop_assert_eq!(mended.len(), bytes.len());
        }

        #[test]
        fn resets_are_counted_however_the_bytes_are_cut(
            payloads in prop::collection::vec(0usize..300, 0..8),
            resets in 0u32..20,
            cut in 1usize..64,
        ) {
            let now = Instant::now();
            let mut scanner = Scanner::new(&limits(None), now);
            let mut bytes = vec![0; PREFACE];
            bytes.extend(payloads.iter().flat_map(|&payload| frame(0, 0, payload)));
            bytes.extend((0..resets).flat_map(|_| frame(3, 0, 4)));
            let answered = AtomicBool::new(false);
            let mut within = true;
            for chunk in bytes.chunks_mut(cut) {
                within &= scanner.accept(chunk, now, &answered);
            }
            prop_assert_eq!(within, resets <= 10);
        }
    }
}
