//! Where a serialised request has its id and its raw contents. Nothing is judged here: what is
//! not written as libraries write it is not recognised, and goes up as it is.

use std::ops::Range;

// Tags of the fields, all length-delimited, in the order in which they are written.
const ID: u8 = 0x1A;
const RAW: u8 = 0x3A;
const HEAD: [u8; 5] = [0x0A, 0x12, 0x22, 0x2A, 0x32];

/// The parts of a message. Its head is what is neither of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The id's field, tag and length included; empty if there is none.
    pub id_field: Range<usize>,
    pub id: Range<usize>,
    /// Where the first of the raw contents' fields begins; the rest of the message is theirs.
    pub raws: usize,
}

impl Cut {
    /// Copy the head of the message.
    #[must_use]
    pub fn head(&self, message: &[u8]) -> Vec<u8> {
        let before = message.get(..self.id_field.start).unwrap_or_default();
        let behind = message.get(self.id_field.end..self.raws).unwrap_or_default();
        [before, behind].concat()
    }
}

/// Cut a message in front of its raw contents. None: it is not written as usual.
#[must_use]
pub fn cut(message: &[u8]) -> Option<Cut> {
    let (mut at, mut last) = (0, 0);
    let mut found = Cut { id_field: 0..0, id: 0..0, raws: 0 };
    loop {
        let tag = *message.get(at)?;
        if tag == RAW {
            found.raws = at;
            return Some(found);
        }
        let (length, start) = varint(message, at + 1)?;
        let stop = start.checked_add(length).filter(|stop| *stop <= message.len())?;
        if tag < last || (tag == ID && last == ID) || (tag != ID && !HEAD.contains(&tag)) {
            return None;
        }
        if tag == ID {
            found.id_field = at..stop;
            found.id = start..stop;
        }
        last = tag;
        at = stop;
    }
}

/// Bytes in front of raw contents of this size: tag and length.
#[must_use]
pub fn raw_header(size: usize) -> Vec<u8> {
    let mut header = vec![RAW];
    put_varint(size, &mut header);
    header
}

/// Append a varint.
pub fn put_varint(mut value: usize, out: &mut impl Extend<u8>) {
    while value > 0x7F {
        out.extend([u8::try_from(value & 0x7F).unwrap_or_default() | 0x80]);
        value >>= 7;
    }
    out.extend([u8::try_from(value).unwrap_or_default()]);
}

/// Bytes of a varint.
#[must_use]
pub fn varint_length(value: usize) -> usize {
    let bits = (usize::BITS - value.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

// Value, and where it ends. None: cut off, or longer than any length of a field.
fn varint(message: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let byte = *message.get(at)?;
        at += 1;
        value |= usize::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some((value, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(tag: u8, contents: &[u8]) -> Vec<u8> {
        let mut field = vec![tag];
        put_varint(contents.len(), &mut field);
        field.extend_from_slice(contents);
        field
    }

    fn head_of(message: &[u8]) -> Option<Vec<u8>> {
        Some(cut(message)?.head(message))
    }

    #[test]
    fn the_head_is_all_but_id_and_contents() {
        let (name, input) = (field(0x0A, b"model"), field(0x2A, b"spec"));
        let message = [&name[..], &field(ID, b"7"), &input, &field(RAW, &[1; 300])].concat();
        assert_eq!(head_of(&message).unwrap(), [name, input].concat());
        let found = cut(&message).unwrap();
        assert_eq!(&message[found.id], b"7");
        assert_eq!(&message[found.raws..found.raws + 3], &raw_header(300)[..]);
    }

    #[test]
    fn other_forms_are_not_recognised() {
        let (name, id, raw) = (field(0x0A, b"m"), field(ID, b"7"), field(RAW, b"1234"));
        for parts in [
            vec![&id, &name, &raw],         // out of order
            vec![&name, &id, &id, &raw],    // twice
            vec![&name, &id],               // no contents
            vec![&field(0x42, b"?"), &raw], // a field that nobody knows
        ] {
            let message = parts.into_iter().flatten().copied().collect::<Vec<_>>();
            assert_eq!(cut(&message), None, "{message:?}");
        }
        assert_eq!(cut(&[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]), None);
        assert_eq!(cut(&[0x0A, 9, 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_inside_the_message(message: Vec<u8>) {
            if let Some(found) = cut(&message) {
                prop_assert!(found.raws < message.len());
                prop_assert!(found.id_field.end <= found.raws);
                prop_assert!(found.id.end <= found.id_field.end);
            }
        }

        #[test]
        fn a_varint_is_as_long_as_is_said(value in 0_usize..1 << 35) {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            prop_assert_eq!(out.len(), varint_length(value));
            prop_assert_eq!(varint(&out, 0), Some((value, out.len())));
        }
    }
}
