//! Which calls of a connection have news. h2 wakes a call by its waker; all of a connection share
//! one list, and the task that owns them looks at those on it alone.

use crate::sync::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

#[derive(Debug, Default)]
struct Shared {
    slots: Mutex<Vec<usize>>,
    task: Mutex<Option<Waker>>, // None while the task runs: it looks before it sleeps
}

#[derive(Debug)]
struct Slot {
    number: usize,
    is_listed: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_listed.swap(true, Ordering::AcqRel) {
            lock(&self.shared.slots).push(self.number);
            if let Some(task) = lock(&self.shared.task).take() {
                task.wake();
            }
        }
    }
}

/// The wakers of one connection.
#[derive(Debug, Default)]
pub struct Wakers {
    shared: Arc<Shared>,
    slots: Vec<(Arc<Slot>, Waker)>,
}

impl Wakers {
    /// The waker of a slot.
    pub fn of(&mut self, slot: usize) -> Waker {
        while self.slots.len() <= slot {
            let number = self.slots.len();
            let shared = Arc::clone(&self.shared);
            let made = Arc::new(Slot { number, is_listed: AtomicBool::new(false), shared });
            self.slots.push((Arc::clone(&made), Waker::from(made)));
        }
        self.slots.get(slot).map_or_else(|| Waker::noop().clone(), |(_, waker)| waker.clone())
    }

    /// Move the slots that have been woken into an empty list.
    pub fn collect(&self, woken: &mut Vec<usize>) {
        std::mem::swap(&mut *lock(&self.shared.slots), woken);
        for slot in &*woken {
            if let Some((slot, _)) = self.slots.get(*slot) {
                slot.is_listed.store(false, Ordering::Release);
            }
        }
    }

    /// Let the task sleep until a slot is woken. False: one has been.
    pub fn park(&self, context: &Context<'_>) -> bool {
        *lock(&self.shared.task) = Some(context.waker().clone());
        lock(&self.shared.slots).is_empty()
    }
}
