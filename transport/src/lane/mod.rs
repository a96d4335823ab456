//! The lane: requests that look like one before go up in bundles instead of one by one.
//!
//! The application judges the first request of a form and teaches the lane its head: all that is
//! not the id and not the raw contents. Later requests with an equal head are recognised by their
//! bytes on the connection's task, gathered in bundles, copied side by side into the application's
//! buffers and answered together, so that the application runs once a bundle. The lane knows the
//! wire form of these messages, and nothing of what their fields mean.

// Without Python, whose objects a plan would keep.
#[cfg(all(test, not(feature = "python")))]
mod bench;
pub mod bundle;
pub mod cut;
pub mod member;
pub mod open;
pub mod outstanding;
pub mod plans;
pub mod reply;
