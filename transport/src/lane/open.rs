//! Bundles that are being filled with the requests of one burst.

use super::bundle::Bundle;
use super::member::Member;
use super::plans::Plan;
use std::sync::Arc;

/// Bundles that are being filled.
#[derive(Default)]
pub struct Open {
    bundles: Vec<Filling>,
}

struct Filling {
    plan: Arc<Plan>,
    has_deadline: bool,
    members: Vec<Member>,
}

impl Open {
    /// Put a request into the bundle that it fits into, or begin another one.
    pub fn add(&mut self, member: Member) {
        let plan = Arc::clone(member.plan());
        let has_deadline = member.call.head.deadline.is_some();
        let fits = |filling: &&mut Filling| {
            Arc::ptr_eq(&filling.plan, &plan)
                && filling.has_deadline == has_deadline
                && (filling.members.len() + 1) * plan.rows <= plan.max_rows
        };
        match self.bundles.iter_mut().rev().find(fits) {
            Some(filling) => filling.members.push(member),
            None => self.bundles.push(Filling { plan, has_deadline, members: vec![member] }),
        }
    }

    /// The bundles, in the order in which they were begun.
    pub fn close(self) -> impl Iterator<Item = Arc<Bundle>> {
        self.bundles.into_iter().map(|filling| Bundle::new(filling.plan, filling.members))
    }
}

// Without Python, whose objects a plan would keep.
#[cfg(all(test, not(feature = "python")))]
mod tests {
    use crate::call::tests::call;
    use crate::core::Arity;
    use crate::lane::bench::{contents, unary, Bench, SIZE};
    use std::time::{Duration, Instant};

    #[test]
    fn requests_of_one_plan_lie_side_by_side() {
        let mut bench = Bench::new(1, 8);
        let calls = [unary(None), call(Arity::Stream, None), unary(None)];
        for (call, (head, value)) in calls.iter().zip([("a", 1), ("b", 2), ("a", 3)]) {
            bench.add(call, head, "", value);
        }
        let bundles = bench.close();
        let all: Vec<_> = bundles.iter().map(|bundle| contents(bundle)).collect();
        assert_eq!(all, [vec![1, 1, 1, 1, 3, 3, 3, 3], vec![2; SIZE]]);
    }

    #[test]
    fn a_bundle_has_no_more_rows_than_a_batch() {
        for (rows, max_rows, expected) in
            [(1, 3, vec![3, 3, 1]), (2, 5, vec![2, 2, 2, 1]), (1, 1, vec![1; 7])]
        {
            let mut bench = Bench::new(rows, max_rows);
            (0..7).for_each(|value| bench.add(&unary(None), "a", "", value));
            let counts: Vec<_> = bench.close().iter().map(|bundle| bundle.count()).collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn deadlines_are_told_from_their_absence() {
        let now = Instant::now();
        let mut bench = Bench::new(1, 8);
        for seconds in [None, Some(5), None, Some(3)] {
            let deadline = seconds.map(|seconds| now + Duration::from_secs(seconds));
            bench.add(&unary(deadline), "a", "", 0);
        }
        let bundles = bench.close();
        let deadlines: Vec<_> = bundles.iter().map(|bundle| bundle.deadlines()).collect();
        let (first, last) = (now + Duration::from_secs(3), now + Duration::from_secs(5));
        assert_eq!(deadlines, [None, Some((first, last))]);
    }
}
