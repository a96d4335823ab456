//! One unary call on a connection of its own, for what is asked before and after a load.

use super::address::Peer;
use super::outcome::{code, from_h2, from_http, status_of, Failure};
use super::work::{framed, request};
use crate::wire::encoding::Encoding;
use crate::wire::frame::Decoder;
use bytes::{Bytes, BytesMut};
use h2::client::{handshake, SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use std::future::poll_fn;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::time::timeout;

const ANSWER_BYTES: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no connection: a sentence about the address.
    Unreachable(String),
    /// The call failed.
    Failed(Failure),
}

/// Call a method and return its reply.
///
/// # Errors
/// When there is no connection, and when the call fails.
pub fn call(
    peer: &Peer,
    path: &str,
    headers: &HeaderMap,
    message: &[u8],
    patience: Duration,
) -> Result<Bytes, Refusal> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Refusal::Unreachable(error.to_string()))?;
    let limited = async { timeout(patience, ask(peer, path, headers, message)).await };
    runtime.block_on(limited).unwrap_or_else(|_| {
        let text = format!("{} did not answer in {} s", peer.text(), patience.as_secs_f64());
        Err(Refusal::Unreachable(text))
    })
}

async fn ask(
    peer: &Peer,
    path: &str,
    headers: &HeaderMap,
    message: &[u8],
) -> Result<Bytes, Refusal> {
    let framed = framed(message).ok_or_else(|| internal("the message is too long"))?;
    let request = request(peer, path, headers).map_err(internal)?;
    let stream = peer.connect().await.map_err(Refusal::Unreachable)?;
    let (send, connection) = handshake(stream).await.map_err(|error| refusal(peer, &error))?;
    let exchange = exchange(request, framed, send);
    tokio::pin!(connection, exchange);
    let reply = tokio::select! {
        biased;
        reply = &mut exchange => reply,
        ended = &mut connection => match ended {
            Err(error) => return Err(refusal(peer, &error)),
            // It has been answered before it was closed, or not at all.
            Ok(()) => exchange.await,
        },
    };
    let (head, trailers, reply) = reply.map_err(|error| refusal(peer, &error))?;
    judge(&head, &trailers, reply)
}

type Answer = (Response<()>, HeaderMap, Bytes);

async fn exchange(
    request: Request<()>,
    message: Bytes,
    send: SendRequest<Bytes>,
) -> Result<Answer, h2::Error> {
    let mut send = send.ready().await?;
    let (response, mut outgoing) = send.send_request(request, false)?;
    outgoing.send_data(message, true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut received = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        // It fails when the stream has ended, and then nothing is held back.
        let _ = body.flow_control().release_capacity(chunk.len());
        received.extend_from_slice(&chunk);
        if received.len() > ANSWER_BYTES {
            return Ok((Response::from_parts(head, ()), HeaderMap::new(), received.freeze()));
        }
    }
    let trailers = poll_fn(|context| body.poll_trailers(context)).await?.unwrap_or_default();
    Ok((Response::from_parts(head, ()), trailers, received.freeze()))
}

fn judge(head: &Response<()>, trailers: &HeaderMap, reply: Bytes) -> Result<Bytes, Refusal> {
    if head.status() != StatusCode::OK {
        return Err(Refusal::Failed(from_http(head.status())));
    }
    if reply.len() > ANSWER_BYTES {
        return Err(internal(format!("the answer is larger than {ANSWER_BYTES} bytes")));
    }
    let status = status_of(head.headers()).or_else(|| status_of(trailers));
    match status {
        None => return Err(internal("the server ended the call without a status")),
        Some(Err(failure)) => return Err(Refusal::Failed(failure)),
        Some(Ok(())) => {}
    }
    let mut decoder = Decoder::new(Encoding::Identity, ANSWER_BYTES);
    let mut reply = reply;
    let message = decoder.next(&mut reply).map_err(|error| internal(error.to_string()))?;
    message.ok_or_else(|| internal("the server answered OK, without a message"))
}

fn refusal(peer: &Peer, error: &h2::Error) -> Refusal {
    if error.is_reset() {
        return Refusal::Failed(from_h2(error));
    }
    let how = if peer.scheme() == "https" { "over TLS" } else { "without TLS" };
    Refusal::Unreachable(format!("{} does not speak gRPC {how}: {error}", peer.text()))
}

fn internal(text: impl Into<String>) -> Refusal {
    Refusal::Failed(Failure::new(code::INTERNAL, text))
}
