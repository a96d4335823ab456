//! What the application has taught: the heads of requests that it has judged.

use super::cut::{cut, raw_header};
use crate::call::Handle;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

const MAX_HEAD: usize = 4096; // bytes of a head that is kept
const MAX_ID: usize = 1024; // a longer one is not recognised: the application may refuse it
const MAX_PLANS: usize = 4096; // the application forgets before: each is as good as the next

/// How requests with one head continue.
pub struct Plan {
    /// What the application keeps with it.
    pub object: Handle,
    /// Bytes of the contents of each input.
    pub sizes: Vec<usize>,
    /// Rows of one request, and of the largest bundle.
    pub rows: usize,
    pub max_rows: usize,
    // Where the contents lie, counted from the first of their fields, and what stands in between.
    contents: Vec<Range<usize>>,
    headers: Vec<Vec<u8>>,
    length: usize,
}

impl Plan {
    #[must_use]
    pub fn new(object: Handle, sizes: Vec<usize>, rows: usize, max_rows: usize) -> Self {
        let headers: Vec<_> = sizes.iter().map(|size| raw_header(*size)).collect();
        let mut length = 0;
        let contents = headers.iter().zip(&sizes).map(|(header, size)| {
            let start = length + header.len();
            length = start + size;
            start..length
        });
        let contents = contents.collect();
        Self { object, sizes, rows, max_rows, contents, headers, length }
    }

    /// The contents of one input. tail: a message from its first raw contents on.
    #[must_use]
    pub fn contents<'a>(&self, tail: &'a [u8], input: usize) -> &'a [u8] {
        let range = self.contents.get(input).cloned().unwrap_or_default();
        tail.get(range).unwrap_or_default()
    }

    fn fits(&self, tail: &[u8]) -> bool {
        let mut pairs = self.headers.iter().zip(&self.contents);
        tail.len() == self.length
            && pairs.all(|(header, range)| {
                tail.get(range.start - header.len()..range.start) == Some(header)
            })
    }
}

/// A message whose plan is known.
#[derive(Clone)]
pub struct Recognised {
    pub plan: Arc<Plan>,
    pub id: Range<usize>,
    pub raws: usize,
}

/// The plans of a server, by head.
#[derive(Default)]
pub struct Plans {
    by_head: RwLock<HashMap<Vec<u8>, Arc<Plan>>>,
    is_closed: AtomicBool,
}

impl Plans {
    /// Remember how requests with this head continue.
    pub fn keep(&self, head: Vec<u8>, plan: Plan) {
        if head.len() > MAX_HEAD {
            return;
        }
        let mut by_head = self.by_head.write().unwrap_or_else(PoisonError::into_inner);
        let mut forgotten = Vec::new(); // outside the lock: it may run Python
        if self.is_closed.load(Ordering::Acquire) {
            return;
        }
        if by_head.len() >= MAX_PLANS {
            forgotten.extend(by_head.drain().map(|(_, plan)| plan));
        }
        forgotten.extend(by_head.insert(head, Arc::new(plan)));
        drop(by_head);
        drop(forgotten);
    }

    /// Forget everything, and learn nothing any more.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.clear();
    }

    /// Forget everything.
    pub fn clear(&self) {
        let mut by_head = self.by_head.write().unwrap_or_else(PoisonError::into_inner);
        let forgotten = std::mem::take(&mut *by_head);
        drop(by_head);
        drop(forgotten);
    }

    /// Recognise a message.
    pub fn recognise(&self, message: &[u8]) -> Option<Recognised> {
        let found = cut(message).filter(|found| found.id.len() <= MAX_ID)?;
        let head = found.head(message);
        let by_head = self.by_head.read().unwrap_or_else(PoisonError::into_inner);
        let plan = Arc::clone(by_head.get(&head)?);
        drop(by_head);
        let is_text = std::str::from_utf8(message.get(found.id.clone())?).is_ok();
        let fits = is_text && plan.fits(message.get(found.raws..)?);
        fits.then_some(Recognised { plan, id: found.id, raws: found.raws })
    }
}

/// A message as libraries write it, the id behind the head's first field.
#[cfg(all(test, not(feature = "python")))]
pub fn raw_message(head: &[u8], id: &[u8], contents: &[&[u8]]) -> Vec<u8> {
    use super::cut::put_varint;

    let first = head.get(1).map_or(0, |length| usize::from(*length) + 2);
    let mut message = head[..first].to_vec();
    if !id.is_empty() {
        message.push(0x1A);
        put_varint(id.len(), &mut message);
        message.extend_from_slice(id);
    }
    message.extend_from_slice(&head[first..]);
    for one in contents {
        message.extend(raw_header(one.len()));
        message.extend_from_slice(one);
    }
    message
}

// Without Python, whose objects a plan would keep.
#[cfg(all(test, not(feature = "python")))]
mod tests {
    use super::*;
    use crate::lane::cut::put_varint;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const HEAD: &[u8] = b"\x0a\x01m\x2a\x03spe";

    fn taught(sizes: &[usize]) -> Plans {
        let plans = Plans::default();
        plans.keep(HEAD.to_vec(), Plan::new((), sizes.to_vec(), 1, 1));
        plans
    }

    fn filled(sizes: &[usize]) -> Vec<Vec<u8>> {
        let fill = |(index, size): (usize, &usize)| vec![u8::try_from(index).unwrap(); *size];
        sizes.iter().enumerate().map(fill).collect()
    }

    fn message(id: &[u8], contents: &[Vec<u8>]) -> Vec<u8> {
        let contents: Vec<_> = contents.iter().map(Vec::as_slice).collect();
        raw_message(HEAD, id, &contents)
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(message: Vec<u8>, sizes in vec(0..9_usize, 1..3)) {
            let plans = taught(&sizes);
            plans.keep(Vec::new(), Plan::new((), sizes.clone(), 1, 1));
            if let Some(seen) = plans.recognise(&message) {
                prop_assert!(seen.raws < message.len() && seen.id.end <= seen.raws);
                prop_assert!(message.ends_with(&message[seen.raws..]));
            }
        }

        #[test]
        fn a_head_that_was_kept_is_recognised(
            id in ".{0,40}",
            sizes in vec(prop_oneof![0..300_usize, 16_380..16_390_usize], 1..4),
        ) {
            let contents = filled(&sizes);
            let message = message(id.as_bytes(), &contents);
            let seen = taught(&sizes).recognise(&message).unwrap();
            prop_assert_eq!(&message[seen.id], id.as_bytes());
            for (input, expected) in contents.iter().enumerate() {
                prop_assert_eq!(seen.plan.contents(&message[seen.raws..], input), &expected[..]);
            }
        }

        #[test]
        fn other_sizes_are_not_recognised(
            sizes in vec(0..300_usize, 1..4),
            others in vec(0..300_usize, 1..4),
        ) {
            prop_assume!(sizes != others);
            prop_assert!(taught(&sizes).recognise(&message(b"", &filled(&others))).is_none());
        }

        #[test]
        fn one_byte_more_or_less_is_not_recognised(sizes in vec(0..300_usize, 1..4), at: usize) {
            let plans = taught(&sizes);
            let whole = message(b"id", &filled(&sizes));
            prop_assert!(plans.recognise(&whole).is_some());
            let shorter = &whole[..at % whole.len()];
            prop_assert!(plans.recognise(shorter).is_none());
            prop_assert!(plans.recognise(&[&whole[..], b"\0"].concat()).is_none());
        }
    }

    #[test]
    fn ids_are_text_of_some_length() {
        let plans = taught(&[4]);
        let is_seen = |id: &[u8]| plans.recognise(&message(id, &filled(&[4]))).is_some();
        assert!(is_seen(&[b'x'; 1024]));
        assert!(!is_seen(&[b'x'; 1025]));
        assert!(is_seen("größer".as_bytes()));
        assert!(!is_seen(b"\xff"));
    }

    #[test]
    fn a_length_is_written_as_short_as_can_be() {
        let long = [HEAD, b"\x3a\x84\x00abcd"].concat();
        assert!(taught(&[4]).recognise(&long).is_none());
    }

    #[test]
    fn what_is_forgotten_is_not_recognised() {
        let plans = taught(&[4]);
        let message = message(b"", &filled(&[4]));
        assert!(plans.recognise(&message).is_some());
        plans.clear();
        assert!(plans.recognise(&message).is_none());
    }

    #[test]
    fn heads_are_bounded_in_size_and_number() {
        let plans = Plans::default();
        let head = |index: usize, size: usize| {
            let mut name = format!("{index:04}").into_bytes();
            name.resize(size - 3, b'.');
            let mut head = vec![0x0A];
            put_varint(name.len(), &mut head);
            head.extend(name);
            head
        };
        let is_kept =
            |head: &[u8]| plans.recognise(&[head, &raw_header(4), b"abcd"].concat()).is_some();
        for size in [4096, 4097] {
            plans.keep(head(0, size), Plan::new((), vec![4], 1, 1));
            assert_eq!(is_kept(&head(0, size)), size == 4096);
        }
        for index in 1..=MAX_PLANS {
            plans.keep(head(index, 200), Plan::new((), vec![4], 1, 1));
        }
        assert!(!is_kept(&head(0, 4096)) && !is_kept(&head(MAX_PLANS - 1, 200)));
        assert!(is_kept(&head(MAX_PLANS, 200)));
    }
}
