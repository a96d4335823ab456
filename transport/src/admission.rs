//! Whether a request becomes a call: the checks on its headers, and how a refusal is written.

use crate::core::{Arity, CallPermit, Core, Phase};
use crate::counters::Counter;
use crate::wire::encoding::{takes_gzip, Encoding, ACCEPTED};
use crate::wire::{metadata, percent, timeout};
use http::header::{HeaderMap, HeaderName, HeaderValue, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The status codes of gRPC that the transport gives by itself.
pub mod code {
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
}

/// A request that becomes a call.
pub struct Admitted {
    pub method: usize,
    pub arity: Arity,
    pub encoding: Encoding,
    pub reply_encoding: Encoding,
    pub deadline: Option<Instant>,
    pub permit: CallPermit,
}

/// Why a request does not become a call.
pub struct Refusal {
    pub counter: Counter,
    pub response: Response<()>,
}

/// Check the headers of a request.
pub fn admit(core: &Arc<Core>, parts: &Parts, is_unread: bool) -> Result<Admitted, Refusal> {
    if parts.method != Method::POST {
        return Err(not_grpc(StatusCode::METHOD_NOT_ALLOWED));
    }
    if !parts.headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        return Err(not_grpc(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    check_size(core, parts)?;
    let Some((method, arity)) = core.methods.find(parts.uri.path()) else {
        return Err(refuse(Counter::RefusedMethods, code::UNIMPLEMENTED, "Method not found!"));
    };
    let encoding = encoding(&parts.headers)?;
    let deadline = deadline(&parts.headers)?;
    if let Some(name) = metadata::malformed(&parts.headers) {
        let text = format!("Metadata {name:?} is not base64");
        return Err(refuse(Counter::RefusedRequests, code::INTERNAL, &text));
    }
    let permit = permit(core, is_unread)?;
    let reply_encoding = reply_encoding(core, &parts.headers);
    Ok(Admitted { method, arity, encoding, reply_encoding, deadline, permit })
}

/// Headers of every answer.
pub fn response() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// Say how messages are compressed that are flagged as such.
pub fn announce(encoding: Encoding, headers: &mut HeaderMap) {
    if encoding == Encoding::Gzip {
        headers.insert(ENCODING, HeaderValue::from_static("gzip"));
    }
}

/// Write a status where trailers go.
pub fn write_status(headers: &mut HeaderMap, code: i32, message: &str) {
    let code = if code == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(code) };
    headers.insert(STATUS, code);
    if !message.is_empty() {
        if let Ok(value) = HeaderValue::from_str(&percent::encode(message)) {
            headers.insert(MESSAGE, value);
        }
    }
}

fn permit(core: &Arc<Core>, is_unread: bool) -> Result<CallPermit, Refusal> {
    if core.phase() != Phase::Serving {
        let text = "The server is shutting down";
        return Err(refuse(Counter::RefusedDraining, code::UNAVAILABLE, text));
    }
    if is_unread {
        let text = "Too many bytes wait for this connection to read them";
        return Err(refuse(Counter::RefusedUnread, code::RESOURCE_EXHAUSTED, text));
    }
    core.admit_call().ok_or_else(|| {
        let text = format!("Too many calls in progress, at most {}", core.limits.concurrent_calls);
        refuse(Counter::RefusedCalls, code::RESOURCE_EXHAUSTED, &text)
    })
}

fn check_size(core: &Core, parts: &Parts) -> Result<(), Refusal> {
    const ENTRY: usize = 32; // RFC 9113 section 6.5.2
    let limit = core.limits.header_list_bytes as usize;
    let fields =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY);
    let path = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
    let pseudo = ":method:scheme:path:authorityPOSThttps".len() + 4 * ENTRY + path + authority;
    let size = fields.sum::<usize>() + pseudo;
    if size > limit {
        let text = format!("Received headers larger than max ({size} vs. {limit})");
        return Err(refuse(Counter::RefusedHeaders, code::RESOURCE_EXHAUSTED, &text));
    }
    Ok(())
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let Some(value) = headers.get(ENCODING) else { return Ok(Encoding::Identity) };
    Encoding::parse(value.as_bytes()).ok_or_else(|| {
        let text = format!("Compression {value:?} is not supported, only {ACCEPTED}");
        let mut refusal = refuse(Counter::RefusedRequests, code::UNIMPLEMENTED, &text);
        let accepted = HeaderValue::from_static(ACCEPTED);
        refusal.response.headers_mut().insert(ACCEPT_ENCODING, accepted);
        refusal
    })
}

fn reply_encoding(core: &Core, headers: &HeaderMap) -> Encoding {
    let accepted = if core.limits.compress_replies { headers.get(ACCEPT_ENCODING) } else { None };
    match accepted {
        Some(accepted) if takes_gzip(accepted.as_bytes()) => Encoding::Gzip,
        _ => Encoding::Identity,
    }
}

fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Refusal> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let Some(left) = timeout::parse(value.as_bytes()) else {
        let text = format!("grpc-timeout {value:?} is not digits and a unit");
        return Err(refuse(Counter::RefusedRequests, code::INTERNAL, &text));
    };
    if left == Duration::ZERO {
        let text = "Deadline Exceeded";
        return Err(refuse(Counter::DeadlinesExceeded, code::DEADLINE_EXCEEDED, text));
    }
    Ok(Instant::now().checked_add(left))
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(GRPC.as_bytes());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn not_grpc(status: StatusCode) -> Refusal {
    let mut response = Response::new(());
    *response.status_mut() = status;
    Refusal { counter: Counter::RefusedRequests, response }
}

fn refuse(counter: Counter, code: i32, message: &str) -> Refusal {
    let mut response = response();
    write_status(response.headers_mut(), code, message);
    Refusal { counter, response }
}

#[cfg(test)]
mod tests {
    use super::{admit, code, Refusal};
    use crate::core::{Arity, Core, Methods};
    use crate::limits::Limits;
    use http::request::Parts;
    use http::{HeaderName, HeaderValue, Request};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn core() -> Arc<Core> {
        let mut methods = Methods::default();
        methods.insert("/a/b".to_owned(), Arity::Unary);
        Arc::new(Core::new(methods, Limits::for_tests()))
    }

    fn request(path: &str, headers: &[(&str, &[u8])]) -> Parts {
        let mut request = Request::post(path).header("content-type", "application/grpc");
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                request = request.header(name, value);
            }
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn status(refusal: &Refusal) -> Option<i32> {
        refusal.response.headers().get("grpc-status")?.to_str().ok()?.parse().ok()
    }

    #[test]
    fn headers_count_as_http_counts_them_and_the_limit_is_inclusive() {
        let core = core();
        let limit = core.limits.header_list_bytes as usize;
        let fixed = [":method", "POST", ":scheme", "https", ":path", "/a/b", ":authority"];
        let fixed = fixed.concat().len() + "content-typeapplication/grpckey".len() + 6 * 32;
        for (size, fits) in [(limit - fixed, true), (limit - fixed + 1, false)] {
            let admitted = admit(&core, &request("/a/b", &[("key", &vec![b'v'; size])]), false);
            let refused = admitted.as_ref().err().and_then(status);
            assert_eq!(refused, (!fits).then_some(code::RESOURCE_EXHAUSTED));
        }
    }

    proptest! {
        #[test]
        fn any_headers_are_admitted_or_refused_with_a_status(
            path in "/a/b|/[!-~]{0,40}",
            names in prop::collection::vec(
                "grpc-(timeout|encoding|accept-encoding|status)|[a-z]{1,6}-bin|[a-z-]{1,20}",
                0..12,
            ),
            values in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..60),
                    "[0-9]{1,9}[HMSmun]|gzip|deflate|identity|[A-Za-z0-9+/=]{0,20}"
                        .prop_map(String::into_bytes),
                ],
                12,
            ),
        ) {
            if path.parse::<http::Uri>().is_err() {
                return Ok(()); // h2 has refused it
            }
            let core = core();
            let headers: Vec<_> =
                names.iter().map(String::as_str).zip(values.iter().map(Vec::as_slice)).collect();
            match admit(&core, &request(&path, &headers), false) {
                Ok(_) => prop_assert_eq!(path.split(['?', '#']).next(), Some("/a/b")),
                Err(refusal) => {
                    let is_http = refusal.response.status() != http::StatusCode::OK;
                    prop_assert!(is_http || status(&refusal).is_some_and(|code| code > 0));
                }
            }
            prop_assert_eq!(core.calls(), 0); // whoever was admitted has left, nobody else came
        }
    }
}
