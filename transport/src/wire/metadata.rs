//! Metadata: HTTP headers that applications see. Names are lower case; the value of a `-bin` name
//! is bytes, written in base64.

use super::base64;
use http::{HeaderMap, HeaderName, HeaderValue};

const DETAILS: &str = "grpc-status-details-bin";

/// One value as an application sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Binary(Vec<u8>),
}

/// Name a header whose value is not what its name promises. None: all are well formed.
#[must_use]
pub fn malformed(headers: &HeaderMap) -> Option<&str> {
    let broken = |(name, value): &(&HeaderName, &HeaderValue)| {
        is_binary(name.as_str()) && split(value).any(|part| base64::decode(part).is_none())
    };
    headers.iter().find(broken).map(|(name, _)| name.as_str())
}

/// List what an application sees of the headers of a request, in order.
#[must_use]
pub fn visible(headers: &HeaderMap) -> Vec<(String, Value)> {
    let mut entries = Vec::with_capacity(headers.len());
    for (name, value) in headers.iter().filter(|(name, _)| !is_reserved(name.as_str())) {
        let name = name.as_str().to_owned();
        if is_binary(&name) {
            let parts = split(value).filter_map(base64::decode);
            entries.extend(parts.map(|bytes| (name.clone(), Value::Binary(bytes))));
        } else {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            entries.push((name, Value::Text(text)));
        }
    }
    entries
}

/// Write one entry as a header.
///
/// # Errors
/// With a sentence about what is wrong with it.
pub fn encode(name: &str, value: &Value) -> Result<(HeaderName, HeaderValue), String> {
    let header = HeaderName::from_bytes(name.as_bytes())
        .ok()
        .filter(|header| header.as_str() == name)
        .ok_or_else(|| format!("metadata name {name:?} is not a lower-case header name"))?;
    if is_reserved(name) && name != DETAILS {
        return Err(format!("metadata name {name:?} is reserved"));
    }
    let text = match value {
        Value::Binary(bytes) if is_binary(name) => base64::encode(bytes),
        Value::Text(text) if !is_binary(name) => text.clone(),
        Value::Binary(_) => {
            return Err(format!("metadata {name:?} has bytes, but its name does not end in -bin"))
        }
        Value::Text(_) => {
            return Err(format!("metadata {name:?} needs bytes, as its name ends in -bin"))
        }
    };
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let value = HeaderValue::from_str(&text).ok().filter(|_| printable);
    let value = value.ok_or_else(|| format!("metadata {name:?} is not printable ASCII"))?;
    Ok((header, value))
}

fn is_binary(name: &str) -> bool {
    name.ends_with("-bin")
}

fn is_reserved(name: &str) -> bool {
    name.starts_with("grpc-") || matches!(name, "te" | "content-type" | "content-length")
}

// Several values of one name may come joined by commas, which base64 does not use.
fn split(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::{encode, malformed, visible, Value};
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    #[test]
    fn applications_see_custom_metadata_and_not_what_the_protocol_uses() {
        let mut headers = HeaderMap::new();
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("grpc-timeout", HeaderValue::from_static("1S"));
        headers.insert("user-agent", HeaderValue::from_static("x/1"));
        headers.insert("key-bin", HeaderValue::from_static("Zg==, Zm8"));
        let expected = [
            ("user-agent".to_owned(), Value::Text("x/1".to_owned())),
            ("key-bin".to_owned(), Value::Binary(b"f".to_vec())),
            ("key-bin".to_owned(), Value::Binary(b"fo".to_vec())),
        ];
        assert_eq!(visible(&headers), expected);
    }

    #[test]
    fn a_binary_value_that_is_not_base64_is_named() {
        let mut headers = HeaderMap::new();
        headers.insert("fine-bin", HeaderValue::from_static("Zg"));
        assert_eq!(malformed(&headers), None);
        headers.insert("bad-bin", HeaderValue::from_static("%%"));
        assert_eq!(malformed(&headers), Some("bad-bin"));
    }

    #[test]
    fn trailers_that_cannot_be_written_are_explained() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (name, value, part) in [
            ("Upper", text("x"), "lower-case"),
            ("a b", text("x"), "lower-case"),
            ("", text("x"), "lower-case"),
            ("grpc-status", text("0"), "reserved"),
            ("x", Value::Binary(vec![1]), "-bin"),
            ("x-bin", text("x"), "-bin"),
            ("x", text("a\nb"), "printable"),
            ("x", text("\u{e9}"), "printable"),
        ] {
            let error = encode(name, &value).expect_err(name);
            assert!(error.contains(part), "{error}");
        }
        assert!(encode("grpc-status-details-bin", &Value::Binary(vec![1])).is_ok());
    }

    proptest! {
        #[test]
        fn any_headers_are_visible_or_named(
            pairs in prop::collection::vec(
                ("[a-z]{1,8}(-bin)?", prop::collection::vec(32u8..=255, 0..60)),
                0..10,
            ),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &pairs {
                let value = HeaderValue::from_bytes(value).ok().filter(|_| !value.contains(&127));
                if let (Ok(name), Some(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
                    headers.append(name, value);
                }
            }
            let entries = visible(&headers);
            prop_assert!(malformed(&headers).is_none_or(|name| name.ends_with("-bin")));
            for (name, value) in &entries {
                prop_assert_eq!(matches!(value, Value::Binary(_)), name.ends_with("-bin"));
            }
        }

        #[test]
        fn what_is_encoded_is_a_header_and_what_is_not_is_explained(
            name in "\\PC{0,12}|[a-z-]{1,12}",
            text in "\\PC{0,40}|[ -~]{0,40}",
        ) {
            match encode(&name, &Value::Text(text.clone())) {
                Ok((header, value)) => {
                    prop_assert_eq!(header.as_str(), name);
                    prop_assert_eq!(value.as_bytes(), text.as_bytes());
                }
                Err(error) => {
                    let quoted = format!("{name:?}");
                    prop_assert!(error.contains(&quoted));
                }
            }
        }

        #[test]
        fn binary_metadata_round_trips(bytes: Vec<u8>) {
            let (name, value) = encode("x-bin", &Value::Binary(bytes.clone())).expect("valid");
            let headers = HeaderMap::from_iter([(name, value)]);
            prop_assert_eq!(visible(&headers), [("x-bin".to_owned(), Value::Binary(bytes))]);
        }
    }
}
