//! One field of a serialised message, found by the numbers on the way to it. Nothing is decoded
//! that is not on the way. Source: protobuf "Encoding".

/// The contents of a length-delimited field, the last of that number at each level as protobuf
/// has it. None: it is not there, or the message is malformed before it is found.
pub fn find<'message>(message: &'message [u8], path: &[u32]) -> Option<&'message [u8]> {
    let (&number, rest) = path.split_first()?;
    let mut found = None;
    let mut left = message;
    while !left.is_empty() {
        let tag = varint(&mut left)?;
        let contents = skip(&mut left, tag & 7)?;
        if tag >> 3 == u64::from(number) && tag & 7 == 2 {
            found = Some(contents);
        }
    }
    match (found, rest) {
        (Some(contents), []) => Some(contents),
        (Some(contents), rest) => find(contents, rest),
        (None, _) => None,
    }
}

// The contents of a field, which is taken off the front.
fn skip<'message>(left: &mut &'message [u8], wire_type: u64) -> Option<&'message [u8]> {
    let length = match wire_type {
        0 => {
            varint(left)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(left)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (contents, rest) = left.split_at_checked(length)?;
    *left = rest;
    Some(contents)
}

fn varint(left: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = left.split_first()?;
        *left = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::find;
    use proptest::prelude::*;

    // 1: varint 300, 3: "old", 2: {3: "id", 9: fixed32}, 3: "new"
    const MESSAGE: &[u8] = b"\x08\xac\x02\x1a\x03old\x12\x09\x1a\x02id\x4d\0\0\0\0\x1a\x03new";

    #[test]
    fn a_field_is_found_by_its_path() {
        assert_eq!(find(MESSAGE, &[3]), Some(&b"new"[..]));
        assert_eq!(find(MESSAGE, &[2, 3]), Some(&b"id"[..]));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for path in [&[][..], &[1], &[4], &[2, 1], &[2, 9], &[3, 1]] {
            assert_eq!(find(MESSAGE, path), None, "{path:?}");
        }
        assert_eq!(find(b"", &[1]), None);
    }

    #[test]
    fn a_message_that_is_cut_is_not_read() {
        for end in 1..MESSAGE.len() - 5 {
            assert_ne!(find(&MESSAGE[..end], &[3]), Some(&b"new"[..]));
        }
        assert_eq!(find(b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[3]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>, path in prop::collection::vec(0u32..9, 0..4)) {
            find(&bytes, &path);
        }
    }
}
