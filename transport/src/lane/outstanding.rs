//! Bundles that are not answered yet, to find those whose callers have left.

use super::bundle::Bundle;
use crate::sync::lock;
use std::sync::{Arc, Mutex, Weak};

/// Bundles that the application has and has not answered.
#[derive(Default)]
pub struct Outstanding {
    bundles: Mutex<Vec<Weak<Bundle>>>,
}

impl Outstanding {
    pub fn add(&self, bundle: &Arc<Bundle>) {
        let mut bundles = lock(&self.bundles);
        if bundles.len() == bundles.capacity() {
            bundles.retain(|bundle| bundle.strong_count() > 0); // instead of growing, if it helps
        }
        bundles.push(Arc::downgrade(bundle));
    }

    /// List the bundles that callers have left since this was asked before.
    pub fn shrunk(&self) -> Vec<Arc<Bundle>> {
        let mut bundles = lock(&self.bundles);
        bundles.retain(|bundle| bundle.strong_count() > 0);
        let alive: Vec<_> = bundles.iter().filter_map(Weak::upgrade).collect();
        drop(bundles);
        alive.into_iter().filter(|bundle| bundle.has_shrunk()).collect()
    }
}

// Without Python, whose objects a plan would keep.
#[cfg(all(test, not(feature = "python")))]
mod tests {
    use super::*;
    use crate::lane::bench::{unary, Bench};

    #[test]
    fn a_bundle_is_listed_once_for_each_time_that_callers_leave() {
        let outstanding = Outstanding::default();
        let mut bench = Bench::new(1, 2);
        let calls: Vec<_> = (0..4).map(|_| unary(None)).collect();
        calls.iter().for_each(|call| bench.add(call, "a", "", 0));
        let bundles = bench.close();
        bundles.iter().for_each(|bundle| outstanding.add(bundle));
        let shrunk = || {
            let shrunk = outstanding.shrunk();
            let at = |one| bundles.iter().position(|bundle| Arc::ptr_eq(bundle, one));
            shrunk.iter().filter_map(at).collect::<Vec<_>>()
        };
        assert_eq!(shrunk(), [0; 0]);
        calls[2].cancel();
        assert_eq!(shrunk(), [1]);
        assert_eq!(shrunk(), [0; 0]);
        calls[0].cancel();
        calls[3].cancel();
        assert_eq!(shrunk(), [0, 1]);
        drop(bundles);
        calls[1].cancel();
        assert!(outstanding.shrunk().is_empty());
    }

    #[test]
    fn bundles_that_are_gone_take_no_place() {
        let outstanding = Outstanding::default();
        for _ in 0..1000 {
            let mut bench = Bench::new(1, 1);
            bench.add(&unary(None), "a", "", 0);
            outstanding.add(&bench.close()[0]);
        }
        assert!(lock(&outstanding.bundles).capacity() < 10);
    }
}
