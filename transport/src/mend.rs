//! Two pseudo headers that are mended on the way in, because h2 breaks over them: it ends the
//! whole connection for a `:path` that is not UTF-8, and refuses every call of a gRPC client on a
//! Unix socket that writes the socket's path, percent-encoded, into `:authority`.
//!
//! The bytes are exchanged in place, one for one, so lengths and HPACK's tables stay right, and
//! HPACK need only be walked through, not decoded. Values in Huffman code are left as they are.
//! Sources: RFC 7541 sections 5 and 6, RFC 9113 sections 6.2 and 6.10.

const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_FIELDS: usize = 5;
const LONGEST_NAME: usize = 10; // ":authority"
const MAX_INTEGER_BYTES: u32 = 5; // longer ones are an error to h2

/// Walks through the header blocks of one connection.
#[derive(Debug, Default)]
pub struct Mender {
    lead: usize, // bytes before the block: pad length and priority
    is_padded: bool,
    block: usize, // bytes of the block in this frame
    state: State,
    target: Target,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Target {
    #[default]
    Nothing,
    Path,
    Authority,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Field,
    /// The rest of an integer whose value does not matter.
    Integer(Next),
    Length(Text),
    LongLength(Text, Integer),
    Text(Text, usize),
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Field,
    Value,
}

#[derive(Clone, Copy, Debug)]
struct Text {
    is_name: bool,
    is_huffman: bool,
    name: [u8; LONGEST_NAME],
    read: usize,
}

#[derive(Clone, Copy, Debug)]
struct Integer {
    value: usize,
    bytes: u32,
}

impl Text {
    fn new(is_name: bool) -> Self {
        Self { is_name, is_huffman: false, name: [0; LONGEST_NAME], read: 0 }
    }
}

impl Mender {
    /// A HEADERS frame begins.
    pub fn headers(&mut self, length: usize, flags: u8) {
        self.is_padded = flags & PADDED != 0;
        let priority = if flags & PRIORITY == 0 { 0 } else { PRIORITY_FIELDS };
        self.lead = usize::from(self.is_padded) + priority;
        self.block = length.saturating_sub(self.lead);
        self.state = State::Field;
    }

    /// A CONTINUATION frame begins.
    pub fn continuation(&mut self, length: usize) {
        self.lead = 0;
        self.block = length;
    }

    /// Mend the next bytes of the frame.
    pub fn mend(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.lead > 0 {
                self.lead -= 1;
                if std::mem::take(&mut self.is_padded) {
                    self.block = self.block.saturating_sub(usize::from(*byte));
                }
            } else if self.block > 0 {
                self.block -= 1;
                self.walk(byte);
            }
        }
    }

    fn walk(&mut self, byte: &mut u8) {
        self.state = match std::mem::take(&mut self.state) {
            State::Field => self.field(*byte),
            State::Integer(next) if *byte & 0x80 != 0 => State::Integer(next),
            State::Integer(Next::Field) => State::Field,
            State::Integer(Next::Value) => State::Length(Text::new(false)),
            State::Length(text) => length(text, *byte),
            State::LongLength(text, integer) => long_length(text, integer, *byte),
            State::Text(text, left) => self.text(text, left, byte),
        };
    }

    // The first byte of a field says what it is and where its name is.
    fn field(&mut self, byte: u8) -> State {
        let (prefix, index) = match byte {
            0x80.. => return skip(byte & 0x7f == 0x7f, Next::Field), // indexed
            0x40.. => (0x3f, byte & 0x3f),                           // literal, to be indexed
            0x20.. => return skip(byte & 0x1f == 0x1f, Next::Field), // size of the table
            _ => (0x0f, byte & 0x0f),                                // literal
        };
        self.target = match index {
            1 => Target::Authority,
            4 | 5 => Target::Path,
            _ => Target::Nothing,
        };
        match index {
            0 => State::Length(Text::new(true)),
            _ => skip(index == prefix, Next::Value),
        }
    }

    fn text(&mut self, mut text: Text, left: usize, byte: &mut u8) -> State {
        if text.is_name {
            if let Some(slot) = text.name.get_mut(text.read) {
                *slot = *byte;
            }
            text.read += 1;
        } else if !text.is_huffman {
            *byte = self.target.mended(*byte);
        }
        match (left, text.is_name) {
            (2.., _) => State::Text(text, left - 1),
            (_, false) => State::Field,
            (_, true) => {
                self.target = Target::of(&text);
                State::Length(Text::new(false))
            }
        }
    }
}

impl Target {
    fn of(name: &Text) -> Self {
        match name.name.get(..name.read) {
            _ if name.is_huffman => Self::Nothing,
            Some(b":path") => Self::Path,
            Some(b":authority") => Self::Authority,
            _ => Self::Nothing,
        }
    }

    fn mended(self, byte: u8) -> u8 {
        match self {
            // No method of gRPC has it: the call is UNIMPLEMENTED.
            Self::Path if !byte.is_ascii() => b'~',
            // Nobody reads it; RFC 3986 allows the others in a host and port.
            Self::Authority if byte == b'%' || !byte.is_ascii() => b'-',
            _ => byte,
        }
    }
}

fn length(mut text: Text, byte: u8) -> State {
    text.is_huffman = byte & 0x80 != 0;
    match byte & 0x7f {
        0x7f => State::LongLength(text, Integer { value: 0x7f, bytes: 0 }),
        length => begin(text, usize::from(length)),
    }
}

fn long_length(text: Text, mut integer: Integer, byte: u8) -> State {
    if integer.bytes < MAX_INTEGER_BYTES {
        let part = usize::from(byte & 0x7f) << (7 * integer.bytes);
        integer.value = integer.value.saturating_add(part);
    }
    integer.bytes += 1;
    if byte & 0x80 != 0 {
        return State::LongLength(text, integer);
    }
    begin(text, integer.value)
}

fn begin(text: Text, length: usize) -> State {
    match (length, text.is_name) {
        (0, true) => State::Length(Text::new(false)),
        (0, false) => State::Field,
        _ => State::Text(text, length),
    }
}

fn skip(goes_on: bool, next: Next) -> State {
    match (goes_on, next) {
        (true, next) => State::Integer(next),
        (false, Next::Field) => State::Field,
        (false, Next::Value) => State::Length(Text::new(false)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Mender, PADDED, PRIORITY};
    use proptest::prelude::*;

    fn literal(first: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        if value.len() < 0x7f {
            bytes.push(u8::try_from(value.len()).expect("short"));
        } else {
            let rest = value.len() - 0x7f;
            let low = u8::try_from(rest & 0x7f).expect("seven bits");
            bytes.extend([0x7f, low | 0x80, u8::try_from(rest >> 7).expect("short")]);
        }
        bytes.extend(value);
        bytes
    }

    fn mended(block: &[u8], cut: usize) -> Vec<u8> {
        let mut block = block.to_vec();
        let mut mender = Mender::default();
        mender.headers(block.len(), 0);
        block.chunks_mut(cut).for_each(|chunk| mender.mend(chunk));
        block
    }

    #[test]
    fn path_and_authority_are_mended_wherever_their_names_are() {
        for first in [0x44, 0x45, 0x04, 0x14] {
            assert_eq!(mended(&literal(first, b"/a\xff"), 1), literal(first, b"/a~"));
        }
        assert_eq!(mended(&literal(0x41, b"%2Ftmp"), 3), literal(0x41, b"-2Ftmp"));
        let named = [&b"\x40\x05:path"[..], b"\x02/\x80"].concat();
        assert_eq!(mended(&named, 2), [&b"\x40\x05:path"[..], b"\x02/~"].concat());
    }

    #[test]
    fn other_fields_and_huffman_code_stay_as_they_are() {
        let huffman = b"\x44\x82\xff\xff";
        let block = [&literal(0x50, b"%\xff")[..], huffman, b"\x82\x3f\xe1\x1f\xff\x80\x01"];
        let block = block.concat();
        assert_eq!(mended(&block, 4), block);
    }

    #[test]
    fn padding_and_priority_are_no_part_of_the_block() {
        let block = literal(0x44, b"/\xff");
        let mut frame = [&[2, 0xff, 0xff, 0xff, 0xff, 0xff][..], &block, b"\xff\xff"].concat();
        let expected = [&frame[..6], &literal(0x44, b"/~"), b"\xff\xff"].concat();
        let mut mender = Mender::default();
        mender.headers(frame.len(), PADDED | PRIORITY);
        mender.mend(&mut frame);
        assert_eq!(frame, expected);
    }

    proptest! {
        #[test]
        fn a_path_is_mended_however_it_is_cut(
            value in prop::collection::vec(any::<u8>(), 0..400),
            cut in 1usize..50,
        ) {
            let before = literal(0x7f, b"x"); // a name far down the table: an integer of two bytes
            let before = [&before[..1], &[0x10], &before[1..]].concat();
            let clean: Vec<u8> = value.iter().map(|b| if b.is_ascii() { *b } else { b'~' }).collect();
            let block = [&before[..], &literal(0x44, &value)].concat();
            let expected = [&before[..], &literal(0x44, &clean)].concat();
            prop_assert_eq!(mended(&block, cut), expected);
        }

        #[test]
        fn any_bytes_are_walked_through(block: Vec<u8>, flags: u8, length: u16) {
            let mut mender = Mender::default();
            mender.headers(usize::from(length), flags);
            let mut bytes = block.clone();
            mender.mend(&mut bytes);
            mender.continuation(usize::from(length));
            mender.mend(&mut bytes);
            prop_assert_eq!(bytes.len(), block.len());
        }
    }
}
