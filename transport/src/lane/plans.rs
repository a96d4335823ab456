//! What the application has taught: the heads of requests that it has judged.

use super::cut::{cut, raw_header};
use crate::call::Handle;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

const MAX_HEAD: usize = 4096; // bytes of a head that is kept
const MAX_ID: usize = 1024; // a longer one is not recognised: the application may refuse it
const MAX_PLANS: usize = 512;

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
}

impl Plans {
    /// Remember how requests with this head continue.
    pub fn keep(&self, head: Vec<u8>, plan: Plan) {
        if head.len() > MAX_HEAD {
            return;
        }
        let mut by_head = self.by_head.write().unwrap_or_else(PoisonError::into_inner);
        let forgotten = if by_head.len() >= MAX_PLANS { by_head.drain().collect() } else { vec![] };
        by_head.insert(head, Arc::new(plan));
        drop(by_head);
        drop(forgotten); // outside the lock: it may run Python
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
