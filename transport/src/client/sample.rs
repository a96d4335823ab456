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
        self.0.saturating_record(ns);
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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_s: f64,
    /// Seconds in which it did not wait for the network or for the time to send.
    pub busy_s: f64,
}

/// What happened since the sample before.
#[derive(Clone, Debug)]
pub struct Sample {
    started: Instant,
    pub seconds: f64,
    pub answered: u64,
    /// From when a request was to be sent until it was answered.
    pub latency: Durations,
    /// From when a request was to be sent until it was; nothing without a schedule.
    pub lag: Durations,
    /// What the server says of itself in trailers.
    pub timings: Vec<Durations>,
    pub failures: BTreeMap<i32, Failures>,
    /// Answers in each second.
    pub series: Vec<u64>,
    pub usage: Vec<Usage>,
    /// Requests that a connection could not take when they were due, as the server allows no more
    /// at once: the least such limit.
    pub stream_limit: Option<usize>,
    /// Times that a connection was lost and made again.
    pub reconnects: u64,
}

impl Sample {
    pub fn new(timings: usize, now: Instant) -> Self {
        Self {
            started: now,
            seconds: 0.0,
            answered: 0,
            latency: Durations::new(),
            lag: Durations::new(),
            timings: vec![Durations::new(); timings],
            failures: BTreeMap::new(),
            series: Vec::new(),
            usage: Vec::new(),
            stream_limit: None,
            reconnects: 0,
        }
    }

    pub fn answer(&mut self, since: Instant, now: Instant) {
        self.answered += 1;
        self.latency.record(now.saturating_duration_since(since));
        let second = now.saturating_duration_since(self.started).as_secs();
        let second = usize::try_from(second).unwrap_or(0);
        if self.series.len() <= second {
            self.series.resize(second + 1, 0);
        }
        if let Some(count) = self.series.get_mut(second) {
            *count += 1;
        }
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
        self.seconds = now.saturating_duration_since(self.started).as_secs_f64();
        self.usage = vec![usage];
    }

    /// Join what another thread measured in the same time.
    pub fn beside(&mut self, other: &Self) {
        self.seconds = self.seconds.max(other.seconds);
        if self.series.len() < other.series.len() {
            self.series.resize(other.series.len(), 0);
        }
        for (own, others) in self.series.iter_mut().zip(&other.series) {
            *own += others;
        }
        self.usage.extend_from_slice(&other.usage);
        self.add(other);
    }

    /// Join what was measured afterwards.
    pub fn then(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.series.extend_from_slice(&other.series);
        for (own, others) in self.usage.iter_mut().zip(&other.usage) {
            own.cpu_s += others.cpu_s;
            own.busy_s += others.busy_s;
        }
        self.add(other);
    }

    fn add(&mut self, other: &Self) {
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
