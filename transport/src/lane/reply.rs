//! How the answers of a bundle are written: fields that the application gave once, the id of each
//! request, and its rows of the outputs.

use super::cut::{put_varint, varint_length};
use crate::wire::frame;
use bytes::{BufMut, BytesMut};
use std::time::Duration;

const ID: u8 = 0x1A;
const RAW: u8 = 0x32;
const ENVELOPE: u8 = 0x12;

/// What all answers of a bundle have in common.
pub struct Form<'a> {
    /// Fields in front of the id.
    pub fixed: &'a [u8],
    /// Fields behind the contents, on streams, where the answer lies in an envelope.
    pub tail: &'a [u8],
    /// How long the application worked for all of them together.
    pub work: Option<Duration>,
}

impl Form<'_> {
    /// Append the framed answer to one request. rows: its part of each output.
    /// None, and nothing is appended: it is longer than a frame can be.
    pub fn write(
        &self,
        is_stream: bool,
        id: &[u8],
        rows: &[&[u8]],
        out: &mut BytesMut,
    ) -> Option<()> {
        let tail = if is_stream { self.tail } else { &[] };
        let mut length = self.fixed.len() + tail.len();
        if !id.is_empty() {
            length += field_length(id);
        }
        length += rows.iter().map(|row| field_length(row)).sum::<usize>();
        let framed = if is_stream { 1 + varint_length(length) + length } else { length };
        let prefix = u32::try_from(framed).ok()?;
        out.reserve(frame::HEADER + framed);
        out.put_u8(0);
        out.put_u32(prefix);
        if is_stream {
            out.put_u8(ENVELOPE);
            put_varint(length, out);
        }
        out.put_slice(self.fixed);
        if !id.is_empty() {
            put_field(ID, id, out);
        }
        for row in rows {
            put_field(RAW, row, out);
        }
        out.put_slice(tail);
        Some(())
    }
}

fn field_length(contents: &[u8]) -> usize {
    1 + varint_length(contents.len()) + contents.len()
}

fn put_field(tag: u8, contents: &[u8], out: &mut BytesMut) {
    out.put_u8(tag);
    put_varint(contents.len(), out);
    out.put_slice(contents);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_framed_with_its_id_and_rows() {
        let form = Form { fixed: b"fixed", tail: b"tail", work: None };
        let mut out = BytesMut::new();
        form.write(false, b"7", &[b"row"], &mut out).unwrap();
        assert_eq!(&out[..], b"\0\0\0\0\x0dfixed\x1a\x017\x32\x03row");
        out.clear();
        form.write(true, b"", &[b"row"], &mut out).unwrap();
        assert_eq!(&out[..], b"\0\0\0\0\x10\x12\x0efixed\x32\x03rowtail");
    }

    #[test]
    fn of_an_answer_that_is_too_long_nothing_is_written() {
        let form = Form { fixed: b"", tail: b"", work: None };
        let row = vec![0; 1 << 26];
        let rows = vec![&row[..]; 64]; // 4 GiB in all, which are never copied
        let mut out = BytesMut::from(&b"before"[..]);
        assert!(form.write(false, b"", &rows, &mut out).is_none());
        assert!(form.write(true, b"", &rows, &mut out).is_none());
        assert_eq!(&out[..], b"before");
    }
}
