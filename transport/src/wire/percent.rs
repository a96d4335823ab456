//! The percent encoding of `grpc-message`: printable ASCII stands for itself, everything else and
//! `%` are written as `%XX` of their UTF-8 bytes. Source: gRPC over HTTP/2 "Percent-Byte-Encoded".

const MAX_ENCODED: usize = 4096; // clients cap all trailers at 8 KiB, details need room too
const ELLIPSIS: &str = "...";

/// Encode a status message. A longer text is cut at a character and ends in "...".
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        let before = encoded.len();
        push(&mut encoded, character);
        if encoded.len() > MAX_ENCODED - ELLIPSIS.len() {
            encoded.truncate(before);
            encoded.push_str(ELLIPSIS);
            break;
        }
    }
    encoded
}

/// Decode a status message. A `%` without two digits stands for itself, and what is not UTF-8 is
/// replaced: the text is for people.
#[must_use]
pub fn decode(encoded: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = if first == b'%' { tail.split_at_checked(2) } else { None };
        let byte = digits.and_then(|(digits, _)| nibbles(digits));
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn nibbles(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0u8, |value, &digit| {
        let nibble = char::from(digit).to_digit(16)?;
        Some(value << 4 | u8::try_from(nibble).ok()?)
    })
}

fn push(encoded: &mut String, character: char) {
    if matches!(character, ' '..='~') && character != '%' {
        encoded.push(character);
        return;
    }
    let mut utf8 = [0; 4];
    for byte in character.encode_utf8(&mut utf8).bytes() {
        encoded.push('%');
        encoded.push(hexadecimal(byte >> 4));
        encoded.push(hexadecimal(byte & 0xf));
    }
}

fn hexadecimal(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::{decode, encode, MAX_ENCODED};
    use proptest::prelude::*;

    #[test]
    fn the_special_message_of_the_interop_suite_is_encoded() {
        let message =
            "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
        let expected = "%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP \
                        %F0%9F%98%88%09%0A";
        assert_eq!(encode(message), expected);
        assert_eq!(encode("100%"), "100%25");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let encoded = encode(&"\u{263a}".repeat(10_000));
        assert!(encoded.len() <= MAX_ENCODED);
        assert!(encoded.ends_with("%BA..."));
    }

    proptest! {
        #[test]
        fn encoded_text_is_printable_and_decodes_to_itself(text in "\\PC{0,200}|[\\x00-\\x7f]{0,200}") {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(decode(encoded.as_bytes()), text);
        }

        #[test]
        fn what_is_not_encoded_well_stands_for_itself(text in "[%0-9a-zA-Z]{0,20}") {
            let decoded = decode(text.as_bytes());
            prop_assert!(decoded.chars().count() <= text.len());
            prop_assert_eq!(decode(b"50% of %zz%4"), "50% of %zz%4");
        }
    }
}
