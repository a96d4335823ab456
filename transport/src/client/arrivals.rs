//! When requests arrive: a Poisson process, the same for the same seed. Knows no clock but its own.

use std::time::{Duration, Instant};

const LONGEST_GAP_S: f64 = 1e9; // never, for all that this is used for

/// An endless series of arrivals.
#[derive(Clone, Debug)]
pub struct Arrivals {
    next: Instant,
    mean_s: f64,
    state: u64,
}

impl Arrivals {
    /// `per_second`: mean rate, above zero. The first arrival is one gap after start.
    pub fn new(per_second: f64, seed: u64, start: Instant) -> Self {
        let mut arrivals = Self { next: start, mean_s: 1.0 / per_second, state: seed };
        arrivals.advance();
        arrivals
    }

    /// When the next request is to be sent.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Go on to the arrival after that.
    pub fn advance(&mut self) {
        let gap = -self.mean_s * (1.0 - self.uniform()).ln();
        self.next += Duration::from_secs_f64(gap.min(LONGEST_GAP_S));
    }

    // In [0, 1). The generator is SplitMix64.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        #[allow(clippy::cast_precision_loss)] // 53 bits are what a double holds
        let numerator = (mixed >> 11) as f64;
        numerator / 2f64.powi(53)
    }
}

#[cfg(test)]
mod tests {
    use super::Arrivals;
    use std::time::Instant;

    fn gaps(seed: u64, count: usize) -> Vec<f64> {
        let mut last = Instant::now();
        let mut arrivals = Arrivals::new(1000.0, seed, last);
        let gap = |_| {
            let gap = arrivals.next() - last;
            last = arrivals.next();
            arrivals.advance();
            gap.as_secs_f64()
        };
        (0..count).map(gap).collect()
    }

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_a_poisson_process() {
        let gaps = gaps(7, 100_000);
        let mean = gaps.iter().sum::<f64>() / 1e5;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / 1e5;
        assert!((mean - 1e-3).abs() < 2e-5, "{mean}");
        assert!((variance.sqrt() - 1e-3).abs() < 3e-5, "{variance}");
        let above = gaps.iter().filter(|&&gap| gap > 1e-3).count();
        assert!((36_000..37_600).contains(&above), "{above}"); // 1/e of them
    }

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(gaps(7, 100), gaps(7, 100));
        assert_ne!(gaps(7, 100), gaps(8, 100));
    }
}
