//! Base64 as gRPC uses it for `-bin` metadata: written without padding, read with or without.
//! Source: RFC 4648 section 4, gRPC over HTTP/2 "Custom-Metadata".

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encode without padding.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain([0u8, 0].iter())
            .take(3)
            .fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        for position in 0..=group.len() {
            let index = word >> (18 - 6 * position) & 0x3f;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

/// Decode, with or without padding. None: not base64.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = strip_padding(text)?;
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut word = 0u32;
        for &symbol in group {
            word = word << 6 | u32::from(value(symbol)?);
        }
        // A short last group of n symbols carries n - 1 bytes in its upper bits.
        word <<= 6 * (4 - group.len());
        let [_, first, second, third] = word.to_be_bytes();
        bytes.extend([first, second, third].iter().take(group.len() - 1));
    }
    Some(bytes)
}

fn strip_padding(text: &[u8]) -> Option<&[u8]> {
    let kept = text.iter().rposition(|&symbol| symbol != b'=').map_or(0, |last| last + 1);
    let padding = text.len() - kept;
    let well_formed = padding == 0 || (padding <= 2 && text.len() % 4 == 0);
    well_formed.then(|| text.split_at(kept).0)
}

fn value(symbol: u8) -> Option<u8> {
    match symbol {
        b'A'..=b'Z' => Some(symbol - b'A'),
        b'a'..=b'z' => Some(symbol - b'a' + 26),
        b'0'..=b'9' => Some(symbol - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use proptest::prelude::*;

    #[test]
    fn vectors_of_rfc_4648_decode_with_and_without_padding() {
        for (plain, padded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(decode(padded.as_bytes()).as_deref(), Some(plain.as_bytes()));
            let bare = padded.trim_end_matches('=');
            assert_eq!(decode(bare.as_bytes()).as_deref(), Some(plain.as_bytes()));
            assert_eq!(encode(plain.as_bytes()), bare);
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["A", "AAAAA", "A=A=", "====", "AA=", "A A=", "\u{e9}\u{e9}", "AA-_"] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_it_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            if let Some(decoded) = decode(&bytes) {
                prop_assert!(decoded.len() <= bytes.len());
            }
        }
    }
}
