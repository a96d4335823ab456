//! How long the server has a request, less the time that the application says its work took: from
//! the last byte read to the answer's first byte in the kernel. Counted for unary calls that were
//! answered with such a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upper bounds of the buckets in microseconds; what is longer is in one more.
pub const BOUNDS_US: [u64; 18] = [
    10, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 100_000,
    1_000_000,
];

/// An answer that is on its way to the kernel.
pub struct Timed {
    pub received: Instant,
    pub work: Duration,
}

/// The totals of one server.
#[derive(Debug, Default)]
pub struct Overhead {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Overhead {
    /// Count answers that are in the kernel now, and empty the list.
    pub fn count(&self, timed: &mut Vec<Timed>) {
        if timed.is_empty() {
            return;
        }
        let now = Instant::now();
        for Timed { received, work } in timed.drain(..) {
            self.add(now.saturating_duration_since(received).saturating_sub(work));
        }
    }

    /// Counts of the buckets, the last without a bound, and the sum in nanoseconds.
    pub fn snapshot(&self) -> (Vec<u64>, u64) {
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        (counts, self.sum_ns.load(Ordering::Relaxed))
    }

    fn add(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        let overhead = Overhead::default();
        for us in [0, 10, 11, 1_000_000, 1_000_001] {
            overhead.add(Duration::from_micros(us));
        }
        let (counts, sum_ns) = overhead.snapshot();
        assert_eq!((counts[0], counts[1], counts[17], counts[18]), (2, 1, 1, 1));
        assert_eq!(sum_ns, 2_000_022_000);
    }

    #[test]
    fn work_is_not_overhead() {
        let overhead = Overhead::default();
        let received = Instant::now();
        let mut timed = vec![Timed { received, work: Duration::from_secs(5) }];
        overhead.count(&mut timed);
        assert!(timed.is_empty());
        assert_eq!(overhead.snapshot().0[0], 1);
    }
}
