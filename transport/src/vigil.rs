//! When to ping a connection, ask it to leave, or drop it: idle time, age, keep-alive, stalls.
//! A function of what is known at a moment; it sets no timer and sends nothing.

use crate::counters::Counter;
use crate::limits::Limits;
use std::time::{Duration, Instant};

const FAR: Duration = Duration::from_secs(24 * 3600); // when nothing is due

/// What is known of a connection at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Vitals {
    pub last_heard: Instant,
    pub calls: usize,
    /// Something waits for the peer to take it.
    pub is_blocked: bool,
    /// Changes whenever the peer takes something.
    pub progress: (usize, usize),
}

/// What to do, and when to look again.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Wait(Instant),
    Ping(Instant),
    Leave(Instant),
    Drop(Counter),
}

/// Memory of one connection's past.
#[derive(Debug)]
pub struct Vigil {
    idle_since: Instant,
    leave_at: Option<Instant>,
    left_at: Option<Instant>,
    pinged_at: Option<Instant>,
    moved: ((usize, usize), Instant),
}

impl Vigil {
    /// Returns when to look first.
    pub fn new(limits: &Limits, now: Instant) -> (Self, Instant) {
        let vigil = Self {
            idle_since: now,
            leave_at: limits.connection_age.and_then(|age| now.checked_add(age)),
            left_at: None,
            pinged_at: None,
            moved: ((0, 0), now),
        };
        let first = [limits.keepalive_time, limits.connection_idle, limits.connection_age];
        let first = first.into_iter().chain([limits.send_timeout]).flatten().min();
        (vigil, now + first.unwrap_or(FAR).min(FAR))
    }

    /// A call has ended.
    pub fn ended(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// The peer has answered the ping.
    pub fn ponged(&mut self) {
        self.pinged_at = None;
    }

    pub fn look(&mut self, limits: &Limits, now: Instant, vitals: &Vitals) -> Verdict {
        let mut due = now + FAR;
        if let Some(verdict) = self.check_stall(limits, now, vitals, &mut due) {
            return verdict;
        }
        let pings = match self.check_keepalive(limits, now, vitals, &mut due) {
            Some(Verdict::Ping(_)) => true,
            Some(verdict) => return verdict,
            None => false,
        };
        if let Some(left_at) = self.left_at {
            let at = self.drop_at(limits, vitals, left_at);
            if now >= at {
                return Verdict::Drop(Counter::DroppedOld);
            }
            due = due.min(at);
        } else if self.wants_to_leave(limits, now, vitals, &mut due) {
            self.left_at = Some(now);
            return Verdict::Leave(due.min(self.drop_at(limits, vitals, now)));
        }
        if pings {
            Verdict::Ping(due)
        } else {
            Verdict::Wait(due)
        }
    }

    fn check_stall(
        &mut self,
        limits: &Limits,
        now: Instant,
        vitals: &Vitals,
        due: &mut Instant,
    ) -> Option<Verdict> {
        let timeout = limits.send_timeout?;
        if !vitals.is_blocked || self.moved.0 != vitals.progress {
            self.moved = (vitals.progress, now);
        }
        let at = self.moved.1 + timeout;
        if now >= at {
            return Some(Verdict::Drop(Counter::DroppedStalled));
        }
        *due = (*due).min(at);
        None
    }

    fn check_keepalive(
        &mut self,
        limits: &Limits,
        now: Instant,
        vitals: &Vitals,
        due: &mut Instant,
    ) -> Option<Verdict> {
        let time = limits.keepalive_time?;
        if self.pinged_at.is_some_and(|pinged| vitals.last_heard > pinged) {
            self.pinged_at = None;
        }
        if let Some(pinged) = self.pinged_at {
            let at = pinged + limits.keepalive_timeout;
            if now >= at {
                return Some(Verdict::Drop(Counter::DroppedKeepalive));
            }
            *due = (*due).min(at);
            return None;
        }
        let at = vitals.last_heard + time;
        if now < at {
            *due = (*due).min(at);
            return None;
        }
        self.pinged_at = Some(now);
        *due = (*due).min(now + limits.keepalive_timeout);
        Some(Verdict::Ping(*due))
    }

    // A peer that was told to go away and has no calls closes the connection by itself, as soon as
    // it has read that it should.
    fn drop_at(&self, limits: &Limits, vitals: &Vitals, left_at: Instant) -> Instant {
        let last = left_at + limits.connection_age_grace.min(FAR);
        if vitals.calls > 0 {
            return last;
        }
        last.min(left_at.max(self.idle_since) + limits.keepalive_timeout.min(FAR))
    }

    fn wants_to_leave(
        &self,
        limits: &Limits,
        now: Instant,
        vitals: &Vitals,
        due: &mut Instant,
    ) -> bool {
        let idle = limits.connection_idle.map(|idle| {
            let since = if vitals.calls == 0 { self.idle_since } else { now };
            since + idle
        });
        let earliest = idle.into_iter().chain(self.leave_at).min();
        let Some(earliest) = earliest else { return false };
        *due = (*due).min(earliest.max(now));
        now >= earliest
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, Vigil, Vitals};
    use crate::limits::Limits;
    use std::time::{Duration, Instant};

    const SECOND: Duration = Duration::from_secs(1);

    fn quiet(since: Instant) -> Vitals {
        Vitals { last_heard: since, calls: 0, is_blocked: false, progress: (0, 0) }
    }

    /// What a vigil says at each of these seconds: one letter each, and when it looks next.
    fn story(limits: &Limits, seconds: &[u32], vitals: impl Fn(Instant, u32) -> Vitals) -> String {
        let start = Instant::now();
        let (mut vigil, _) = Vigil::new(limits, start);
        let letter = |second: &u32| {
            let now = start + SECOND * *second;
            match vigil.look(limits, now, &vitals(start, *second)) {
                Verdict::Wait(due) => {
                    assert!(due > now, "looks again without end");
                    '-'
                }
                Verdict::Ping(_) => 'p',
                Verdict::Leave(_) => 'l',
                Verdict::Drop(_) => 'D',
            }
        };
        seconds.iter().map(letter).collect()
    }

    #[test]
    fn a_silent_peer_is_pinged_and_then_dropped() {
        let limits = Limits {
            keepalive_time: Some(SECOND * 10),
            keepalive_timeout: SECOND * 3,
            ..Limits::for_tests()
        };
        let seconds = [5, 9, 10, 12, 13];
        assert_eq!(story(&limits, &seconds, |start, _| quiet(start)), "--p-D");
        let answers_at_11 = |start: Instant, second: u32| {
            quiet(if second < 11 { start } else { start + SECOND * 11 })
        };
        assert_eq!(story(&limits, &[10, 12, 13, 20, 21, 24], answers_at_11), "p---pD");
    }

    #[test]
    fn a_connection_leaves_when_idle_but_not_with_a_call() {
        let limits = Limits { connection_idle: Some(SECOND * 10), ..Limits::for_tests() };
        assert_eq!(story(&limits, &[9, 10, 11], |start, _| quiet(start)), "-lD");
        let busy = |start, _| Vitals { calls: 1, ..quiet(start) };
        assert_eq!(story(&limits, &[9, 10, 100], busy), "---");
    }

    #[test]
    fn a_connection_that_was_told_to_leave_has_less_time_without_a_call() {
        let limits = Limits {
            connection_age: Some(SECOND * 10),
            connection_age_grace: SECOND * 100,
            keepalive_timeout: SECOND * 5,
            ..Limits::for_tests()
        };
        assert_eq!(story(&limits, &[9, 10, 14, 15], |start, _| quiet(start)), "-l-D");
        let busy = |start, _| Vitals { calls: 1, ..quiet(start) };
        assert_eq!(story(&limits, &[9, 10, 15, 109, 110], busy), "-l--D");
    }

    #[test]
    fn an_old_connection_leaves_and_is_dropped_after_its_grace() {
        let limits = Limits {
            connection_age: Some(SECOND * 10),
            connection_age_grace: SECOND * 5,
            keepalive_timeout: SECOND * 20,
            ..Limits::for_tests()
        };
        let busy = |start, _| Vitals { calls: 1, ..quiet(start) };
        assert_eq!(story(&limits, &[9, 10, 14, 15], busy), "-l-D");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_dropped_and_a_slow_one_is_not() {
        let limits = Limits { send_timeout: Some(SECOND * 10), ..Limits::for_tests() };
        let stuck = |start, _| Vitals { is_blocked: true, ..quiet(start) };
        assert_eq!(story(&limits, &[1, 9, 10, 11], stuck), "--DD");
        let slow =
            |start, second: u32| Vitals { progress: (second as usize / 9, 0), ..stuck(start, 0) };
        assert_eq!(story(&limits, &[1, 9, 18, 27, 36], slow), "-----");
        let nothing_to_take = |start, _| quiet(start);
        assert_eq!(story(&limits, &[1, 20, 40], nothing_to_take), "---");
    }
}
