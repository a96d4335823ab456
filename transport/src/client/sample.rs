//! What was measured between two moments, and how samples are joined.

use super::outcome::Failure;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const DIGITS: u8 = 3; // significant ones: a thousandth of a value is told apart
const FIRST_MOST_NS: u64 = 1_000_000_000; // histograms grow beyond it by themselves

/// Durations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Durations(Histogram<u64>);

impl Durations {
    #[allow(clippy::expect_used)] // bounds and digits are constants, and fit
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, FIRST_MOST_NS, DIGITS);
        let mut histogram = histogram.expect("constants that fit");
        histogram.auto(true);
        Self(histogram)
    }

    fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 1);
        // It fails only where a histogram may not grow.
        let _ = self.0.record(ns);
    }

    fn add(&mut self, other: &Self) {
        // Both grow by themselves, so there is always room.
        let _ = self.0.add(&other.0);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value that the given share of all does not exceed, in seconds.
    pub fn quantile_s(&self, quantile: f64) -> f64 {
        seconds(self.0.value_at_quantile(quantile))
    }

    pub fn max_s(&self) -> f64 {
        seconds(self.0.max())
    }

    pub fn mean_s(&self) -> f64 {
        self.0.mean() / 1e9
    }

    /// Values that occurred, with how often, ascending.
    pub fn recorded(&self) -> Vec<(f64, u64)> {
        let recorded = self.0.iter_recorded();
        recorded.map(|one| (seconds(one.value_iterated_to()), one.count_at_value())).collect()
    }
}

#[allow(clippy::cast_precision_loss)] // a double holds 104 days of nanoseconds
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Requests that failed with one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    pub count: u64,
    pub first: String,
}

/// What one thread had of the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: Duration,
    /// It did not wait for the network or for the time to send.
    pub busy: Duration,
    /// It could have run, but others did; zero where the system does not tell.
    pub waiting: Duration,
}

/// What happened since the sample before.
#[derive(Clone, Debug)]
pub struct Sample {
    origin: Instant,  // of the load: its seconds are counted from it
    started: Instant, // as all that follows, of this sample
    ended: Instant,
    pub seconds: f64,
    pub answered: u64,
    /// From when a request was to be sent until it was answered.
    pub latency: Durations,
    /// From when a request was to be sent until it was; nothing without a schedule.
    pub lag: Durations,
    /// What the server says of itself in trailers.
    pub timings: Vec<Durations>,
    pub failures: BTreeMap<i32, Failures>,
    by_second: BTreeMap<u64, u64>, // answers
    pub usage: Vec<Usage>,
    /// Requests that a connection could not take when they were due, as the server allows no more
    /// at once: the least such limit.
    pub stream_limit: Option<usize>,
    /// Times that a connection was lost and made again.
    pub reconnects: u64,
}

impl Sample {
    /// origin: when the load began, the same for all its threads.
    pub fn new(timings: usize, origin: Instant, now: Instant) -> Self {
        Self {
            origin,
            started: now,
            ended: now,
            seconds: 0.0,
            answered: 0,
            latency: Durations::new(),
            lag: Durations::new(),
            timings: vec![Durations::new(); timings],
            failures: BTreeMap::new(),
            by_second: BTreeMap::new(),
            usage: Vec::new(),
            stream_limit: None,
            reconnects: 0,
        }
    }

    pub fn answer(&mut self, since: Instant, now: Instant) {
        self.answered += 1;
        self.latency.record(now.saturating_duration_since(since));
        let second = now.saturating_duration_since(self.origin).as_secs();
        *self.by_second.entry(second).or_default() += 1;
    }

    /// Answers in each second of the load that lies in this sample as a whole.
    pub fn series(&self) -> Vec<u64> {
        let started = self.started.saturating_duration_since(self.origin);
        let first = started.as_secs() + u64::from(started.subsec_nanos() > 0);
        let end = self.ended.saturating_duration_since(self.origin).as_secs();
        (first..end).map(|second| self.by_second.get(&second).copied().unwrap_or(0)).collect()
    }

    pub fn sent(&mut self, due: Instant, now: Instant) {
        self.lag.record(now.saturating_duration_since(due));
    }

    pub fn timing(&mut self, index: usize, duration: Duration) {
        if let Some(timing) = self.timings.get_mut(index) {
            timing.record(duration);
        }
    }

    pub fn fail(&mut self, failure: Failure) {
        let Failure { code, text } = failure;
        let entry = self.failures.entry(code).or_insert(Failures { count: 0, first: text });
        entry.count += 1;
    }

    pub fn held_back(&mut self, limit: usize) {
        self.stream_limit = Some(self.stream_limit.map_or(limit, |least| least.min(limit)));
    }

    /// The sample has ended.
    pub fn end(&mut self, now: Instant, usage: Usage) {
        self.ended = now;
        self.seconds = now.saturating_duration_since(self.started).as_secs_f64();
        self.usage = vec![usage];
    }

    /// Join what another thread measured in the same time.
    pub fn beside(&mut self, other: &Self) {
        self.seconds = self.seconds.max(other.seconds);
        self.usage.extend_from_slice(&other.usage);
        self.add(other);
    }

    /// Join what was measured afterwards.
    pub fn then(&mut self, other: &Self) {
        self.seconds += other.seconds;
        for (own, others) in self.usage.iter_mut().zip(&other.usage) {
            own.cpu += others.cpu;
            own.busy += others.busy;
            own.waiting += others.waiting;
        }
        self.add(other);
    }

    fn add(&mut self, other: &Self) {
        self.started = self.started.min(other.started);
        self.ended = self.ended.max(other.ended);
        for (&second, count) in &other.by_second {
            *self.by_second.entry(second).or_default() += count;
        }
        self.answered += other.answered;
        self.latency.add(&other.latency);
        self.lag.add(&other.lag);
        for (own, others) in self.timings.iter_mut().zip(&other.timings) {
            own.add(others);
        }
        for (&code, others) in &other.failures {
            let entry = self.failures.entry(code);
            let first = others.first.clone();
            entry.or_insert(Failures { count: 0, first }).count += others.count;
        }
        if let Some(limit) = other.stream_limit {
            self.held_back(limit);
        }
        self.reconnects += other.reconnects;
    }
}

#[cfg(test)]
mod tests {
    use super::{Durations, Failure, Sample, Usage};
    use std::time::{Duration, Instant};

    const SECOND: Duration = Duration::from_secs(1);

    // From one time after the origin to another, with answers so long after the origin.
    fn sample(origin: Instant, from: Duration, to: Duration, answers_ms: &[u64]) -> Sample {
        let mut sample = Sample::new(1, origin, origin + from);
        for &ms in answers_ms {
            sample.answer(origin, origin + Duration::from_millis(ms));
            sample.timing(0, Duration::from_millis(ms));
        }
        sample.end(origin + to, Usage { cpu: SECOND / 2, busy: SECOND, waiting: SECOND / 4 });
        sample
    }

    #[test]
    fn durations_from_nanoseconds_to_hours_are_kept_to_a_thousandth() {
        for expected in [1e-9, 1e-6, 1.5e-3, 1.0, 70.0, 1e4] {
            let mut durations = Durations::new();
            durations.record(Duration::from_secs_f64(expected));
            for got in [durations.quantile_s(0.5), durations.max_s(), durations.mean_s()] {
                assert!((got / expected - 1.0).abs() < 1e-3, "{got} for {expected}");
            }
        }
    }

    #[test]
    fn answers_lie_in_their_seconds_and_whole_seconds_are_told() {
        let origin = Instant::now();
        let sample = sample(origin, SECOND / 2, 3 * SECOND + SECOND / 2, &[600, 1100, 1200, 3100]);
        assert_eq!(sample.series(), [2, 0]);
        assert_eq!((sample.answered, sample.latency.count()), (4, 4));
        assert_eq!(sample.latency.recorded().len(), 4);
    }

    #[test]
    fn samples_beside_each_other_last_as_long_as_one() {
        let origin = Instant::now();
        let mut joined = sample(origin, SECOND, 3 * SECOND, &[1001, 2500]);
        joined.fail(Failure::new(8, "first"));
        let mut other = sample(origin, SECOND, 3 * SECOND, &[1002, 1003]);
        other.fail(Failure::new(8, "second"));
        other.fail(Failure::new(4, "late"));
        other.held_back(100);
        joined.beside(&other);
        assert_eq!((joined.answered, joined.series().as_slice()), (4, &[3, 1][..]));
        assert!((joined.seconds - 2.0).abs() < 1e-6);
        assert_eq!(joined.usage.len(), 2);
        assert_eq!((joined.failures[&8].count, joined.failures[&8].first.as_str()), (2, "first"));
        assert_eq!((joined.failures[&4].count, joined.stream_limit), (1, Some(100)));
        assert_eq!(joined.timings[0].count(), 4);
    }

    #[test]
    fn samples_after_each_other_last_as_long_as_both() {
        let origin = Instant::now();
        let middle = 2 * SECOND + SECOND / 2;
        let mut joined = sample(origin, SECOND, middle, &[1001, 2400]);
        joined.held_back(50);
        let mut later = sample(origin, middle, 71 * SECOND, &[2600, 70_000]);
        later.held_back(100);
        joined.then(&later);
        assert!((joined.seconds - 70.0).abs() < 1e-6);
        assert_eq!(joined.series().len(), 70);
        assert_eq!(joined.series()[..3], [1, 2, 0]); // the second between them is whole
        assert_eq!(joined.usage, [Usage { cpu: SECOND, busy: 2 * SECOND, waiting: SECOND / 2 }]);
        assert_eq!(joined.stream_limit, Some(50));
        assert!((joined.latency.max_s() - 70.0).abs() < 0.1); // the other's range is larger
    }
}
