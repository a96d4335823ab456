//! What the application has given and the network has not taken yet, and whether there is room for
//! more. Any thread adds, the connection's task subtracts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The outgoing window of one call, in bytes.
pub struct Window {
    size: usize,
    unsent: AtomicUsize,
    // Somebody was told that there is no room, and is to be told when there is.
    is_awaited: AtomicBool,
}

impl Window {
    pub fn new(size: usize) -> Self {
        Self { size, unsent: AtomicUsize::new(0), is_awaited: AtomicBool::new(false) }
    }

    /// The application has given so many bytes. Before the connection can see them: it subtracts
    /// them once they are sent.
    pub fn add(&self, bytes: usize) {
        self.unsent.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The network has taken so many bytes.
    pub fn sent(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Acquire)
    }

    /// True: the window is not exceeded, with so many bytes that nobody sends yet.
    pub fn has_room(&self, waiting: usize) -> bool {
        self.unsent() + waiting <= self.size
    }

    /// Ask to be told of room. Before the connection can see the bytes that exceed the window: it
    /// looks whether somebody waits when it has sent them at the latest.
    pub fn await_room(&self) {
        self.is_awaited.store(true, Ordering::Release);
    }

    /// True once after `await_room`, when half of the window is free.
    pub fn has_room_again(&self) -> bool {
        self.is_awaited.load(Ordering::Acquire)
            && self.unsent() <= self.size / 2
            && self.is_awaited.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_until_more_is_unsent_than_the_window_holds() {
        let window = Window::new(100);
        window.add(90);
        assert!(window.has_room(10));
        assert!(!window.has_room(11));
        window.add(11);
        assert!(!window.has_room(0));
        window.sent(1);
        assert!(window.has_room(0));
        assert_eq!(window.unsent(), 100);
    }

    #[test]
    fn room_is_told_once_to_who_asked_when_half_of_the_window_is_free() {
        let window = Window::new(100);
        window.add(20);
        assert!(!window.has_room_again()); // nobody asked
        window.add(100);
        window.await_room();
        window.sent(69);
        assert!(!window.has_room_again());
        window.sent(1);
        assert!(window.has_room_again());
        assert!(!window.has_room_again());
    }
}
