//! What gRPC writes on top of HTTP/2: pure parsers and encoders. They know no socket, no stream
//! and no Python; everything they are given may come from a hostile peer.

pub mod base64;
pub mod encoding;
pub mod frame;
pub mod metadata;
pub mod percent;
pub mod timeout;
