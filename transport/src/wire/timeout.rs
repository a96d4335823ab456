//! The `grpc-timeout` header: at most eight digits and a unit. Source: gRPC over HTTP/2 "Timeout".

use std::time::Duration;

const MAX_DIGITS: usize = 8;

/// Parse a `grpc-timeout`. None: malformed.
#[must_use]
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS {
        return None;
    }
    let mut amount = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        amount = amount * 10 + u64::from(digit - b'0');
    }
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn every_unit_is_understood() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for text in ["", "S", "1", "123456789S", "-1S", "+1S", "1 S", "1.5S", "1s", "S1", "1SS"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let digits = bytes.len().checked_sub(1);
            prop_assert!(parse(&bytes).is_none() || matches!(digits, Some(1..=8)));
        }

        #[test]
        fn milliseconds_round_trip(amount in 0u64..100_000_000) {
            let text = format!("{amount}m");
            prop_assert_eq!(parse(text.as_bytes()), Some(Duration::from_millis(amount)));
        }
    }
}
