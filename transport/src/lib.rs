//! gRPC over HTTP/2 for Python servers: bytes in, bytes out, in bursts.
//!
//! The crate knows HTTP/2 and gRPC and nothing of what its methods mean. HTTP/2 is `h2` itself
//! rather than hyper or tonic above it: a connection is one task that owns all its streams, and
//! flow control, resets, pings and limits stay in reach. One task a connection, no task a call.

#![forbid(unsafe_code)]
#![warn(clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(
    clippy::module_name_repetitions, // `FrameError` reads better than `frame::Error` at its users
    clippy::must_use_candidate,      // getters
    clippy::missing_panics_doc,      // nothing panics
)]
// Without Python there is only the library that `cargo test` tests, and no linking with libpython.
#![cfg_attr(not(feature = "python"), allow(dead_code))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod admission;
mod call;
mod client;
mod connection;
mod core;
mod counters;
mod events;
mod inbound;
mod lane;
mod limits;
mod listen;
mod mailbox;
mod mend;
mod meter;
mod outbound;
mod overhead;
mod pool;
#[cfg(feature = "python")]
mod python;
mod scan;
mod server;
mod stream;
mod sync;
mod tls;
mod vigil;
pub mod wire;
