//! How a call ended: gRPC's status from trailers, from HTTP, or from what broke.

use crate::wire::percent;
use h2::Reason;
use http::{HeaderMap, StatusCode};

pub mod code {
    pub const CANCELLED: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
    pub const UNAUTHENTICATED: i32 = 16;
}

/// A status that is not OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: i32,
    pub text: String,
}

impl Failure {
    pub fn new(code: i32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The connection is gone, or could not be made.
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::new(code::UNAVAILABLE, text)
    }

    pub fn late() -> Self {
        Self::new(code::DEADLINE_EXCEEDED, "no answer in time")
    }
}

/// The status that stands in trailers. None: there is none.
pub fn status_of(trailers: &HeaderMap) -> Option<Result<(), Failure>> {
    let value = trailers.get("grpc-status")?.as_bytes();
    if value == b"0" {
        return Some(Ok(()));
    }
    let known = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    let code = known.filter(|code| (1..=16).contains(code)).unwrap_or(code::UNKNOWN);
    let text =
        trailers.get("grpc-message").map_or(String::new(), |text| percent::decode(text.as_bytes()));
    Some(Err(Failure::new(code, text)))
}

/// What an HTTP status other than 200 means. Source: gRPC "HTTP to gRPC Status Code Mapping".
pub fn from_http(status: StatusCode) -> Failure {
    let code = match status.as_u16() {
        400 => code::INTERNAL,
        401 => code::UNAUTHENTICATED,
        403 => code::PERMISSION_DENIED,
        404 => code::UNIMPLEMENTED,
        429 | 502..=504 => code::UNAVAILABLE,
        _ => code::UNKNOWN,
    };
    Failure::new(code, format!("HTTP status {}", status.as_u16()))
}

/// What a broken stream means. Source: gRPC over HTTP/2 "Errors".
pub fn from_h2(error: &h2::Error) -> Failure {
    if !error.is_reset() {
        return Failure::unavailable(format!("the connection broke: {error}"));
    }
    let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
    let code = match reason {
        Reason::REFUSED_STREAM => code::UNAVAILABLE,
        Reason::CANCEL => code::CANCELLED,
        Reason::ENHANCE_YOUR_CALM => code::RESOURCE_EXHAUSTED,
        Reason::INADEQUATE_SECURITY => code::PERMISSION_DENIED,
        _ => code::INTERNAL,
    };
    Failure::new(code, format!("the server reset the stream: {}", reason.description()))
}

#[cfg(test)]
mod tests {
    use super::{code, from_http, status_of, Failure};
    use http::{HeaderMap, HeaderValue, StatusCode};

    fn trailers(status: &'static str, message: &'static str) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        trailers.insert("grpc-message", HeaderValue::from_static(message));
        trailers
    }

    #[test]
    fn the_status_of_trailers_is_read_with_its_text() {
        assert_eq!(status_of(&HeaderMap::new()), None);
        assert_eq!(status_of(&trailers("0", "")), Some(Ok(())));
        let failed = |code, text: &str| Some(Err(Failure::new(code, text)));
        assert_eq!(status_of(&trailers("5", "no%20such%25")), failed(5, "no such%"));
        for broken in ["", "x", "-1", "17", "99999999999999999999"] {
            assert_eq!(status_of(&trailers(broken, "m")), failed(code::UNKNOWN, "m"), "{broken}");
        }
    }

    #[test]
    fn an_http_status_has_a_meaning_in_grpc() {
        assert_eq!(from_http(StatusCode::NOT_FOUND).code, code::UNIMPLEMENTED);
        assert_eq!(from_http(StatusCode::BAD_GATEWAY).code, code::UNAVAILABLE);
        assert_eq!(from_http(StatusCode::IM_A_TEAPOT).code, code::UNKNOWN);
    }
}
