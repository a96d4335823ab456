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
    use super::{encode, MAX_ENCODED};
    use proptest::prelude::*;

    fn decode(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            if first == b'%' {
                let digits = std::str::from_utf8(&tail[..2]).expect("two digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                rest = &tail[2..];
            } else {
                bytes.push(first);
                rest = tail;
            }
        }
        String::from_utf8(bytes).expect("UTF-8")
    }

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
            prop_assert_eq!(decode(&encoded), text);
        }
    }
}
