//! A load generator: it sends ready-made messages to a gRPC server on a schedule and records how
//! long the answers take. Like the server it knows HTTP/2 and gRPC and nothing of what the
//! messages mean; what a reply's id and error are is told by field numbers.
//!
//! One thread drives any number of connections; a connection is one task that owns all its calls.

pub mod address;
mod alarm;
mod arrivals;
mod conversation;
mod cork;
mod driver;
pub mod engine;
pub mod once;
mod outcome;
mod protobuf;
pub mod sample;
mod stream;
#[cfg(test)]
mod tests;
mod thread;
pub mod tls;
mod unary;
mod wakers;
pub mod work;
