//! The frame decoder against everything a peer can write: it gives back what was encoded, however
//! the bytes are cut, and it never stores more than was received or allowed.

use bytes::{Bytes, BytesMut};
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::Compression;
use penstock_transport::wire::encoding::{takes_gzip, Encoding};
use penstock_transport::wire::frame::{encode, encode_as, Decoder, FrameError, HEADER};
use proptest::prelude::*;
use std::io::Write;

const LIMIT: usize = 100_000;

fn framed(messages: &[Vec<u8>]) -> Bytes {
    let mut out = BytesMut::new();
    for message in messages {
        encode(message, &mut out).expect("short enough");
    }
    out.freeze()
}

fn compressed(encoding: Encoding, message: &[u8]) -> Vec<u8> {
    let bytes = match encoding {
        Encoding::Identity => message.to_vec(),
        Encoding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(message).expect("in memory");
            encoder.finish().expect("in memory")
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(message).expect("in memory");
            encoder.finish().expect("in memory")
        }
    };
    let length = u32::try_from(bytes.len()).expect("short");
    [&[1][..], &length.to_be_bytes(), &bytes].concat()
}

/// Decode bytes that come in pieces of `cut`; the messages and how it ended.
fn decode(decoder: &mut Decoder, bytes: &Bytes, cut: usize) -> Result<Vec<Bytes>, FrameError> {
    let mut messages = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let mut piece = rest.split_to(cut.min(rest.len()));
        while !piece.is_empty() {
            messages.extend(decoder.next(&mut piece)?);
        }
    }
    Ok(messages)
}

proptest! {
    #[test]
    fn replies_come_back_whatever_their_encoding(
        message in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20_000),
            prop::collection::vec(0u8..2, 0..20_000),
        ],
        encoding in prop::sample::select(vec![Encoding::Identity, Encoding::Gzip]),
    ) {
        let mut out = BytesMut::new();
        encode_as(encoding, &message, &mut out).expect("short enough");
        prop_assert!(out.len() <= HEADER + message.len(), "larger than without");
        let mut decoder = Decoder::new(encoding, LIMIT);
        let decoded = decode(&mut decoder, &out.freeze(), 1000).expect("well formed");
        prop_assert_eq!(decoded, [message]);
    }

    #[test]
    fn any_list_of_encodings_is_read(accepted: Vec<u8>) {
        let names = accepted.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        prop_assert_eq!(takes_gzip(&accepted), names.into_iter().any(|name| name == b"gzip"));
    }

    #[test]
    fn messages_come_back_however_they_are_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..8),
        cut in 1usize..5000,
    ) {
        let mut decoder = Decoder::new(Encoding::Identity, LIMIT);
        let decoded = decode(&mut decoder, &framed(&messages), cut).expect("well formed");
        prop_assert_eq!(decoded, messages);
        prop_assert!(decoder.is_between_messages());
        prop_assert_eq!(decoder.stored(), 0);
    }

    #[test]
    fn a_call_that_stops_early_is_in_the_middle_of_a_message(
        message in prop::collection::vec(any::<u8>(), 0..3000),
        kept: prop::sample::Index,
    ) {
        let bytes = framed(&[message]);
        let end = 1 + kept.index(bytes.len() - 1);
        let mut decoder = Decoder::new(Encoding::Identity, LIMIT);
        let decoded = decode(&mut decoder, &bytes.slice(..end), 100).expect("well formed");
        prop_assert!(decoded.is_empty());
        prop_assert!(!decoder.is_between_messages());
        prop_assert_eq!(decoder.stored(), end.saturating_sub(HEADER));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        bytes: Vec<u8>,
        cut in 1usize..64,
        encoding in prop::sample::select(vec![Encoding::Identity, Encoding::Gzip, Encoding::Deflate]),
    ) {
        let mut decoder = Decoder::new(encoding, LIMIT);
        if let Ok(messages) = decode(&mut decoder, &Bytes::from(bytes.clone()), cut) {
            let headers = messages.len() * HEADER;
            prop_assert!(headers <= bytes.len());
        }
    }

    #[test]
    fn compressed_messages_come_back(
        message in prop::collection::vec(0u8..4, 0..20_000),
        cut in 1usize..3000,
        encoding in prop::sample::select(vec![Encoding::Gzip, Encoding::Deflate]),
    ) {
        let bytes = Bytes::from(compressed(encoding, &message));
        let mut decoder = Decoder::new(encoding, LIMIT);
        let decoded = decode(&mut decoder, &bytes, cut).expect("well formed");
        prop_assert_eq!(decoded, [message]);
    }

    #[test]
    fn damaged_compression_is_refused_or_gives_no_more_than_the_limit(
        message in prop::collection::vec(any::<u8>(), 1..2000),
        position: prop::sample::Index,
        flip in 1u8..=255,
        encoding in prop::sample::select(vec![Encoding::Gzip, Encoding::Deflate]),
    ) {
        let mut bytes = compressed(encoding, &message);
        let body = bytes.len() - HEADER;
        bytes[HEADER + position.index(body)] ^= flip;
        let mut decoder = Decoder::new(encoding, LIMIT);
        match decode(&mut decoder, &Bytes::from(bytes), 1000) {
            Ok(messages) => prop_assert!(messages.iter().all(|one| one.len() <= LIMIT)),
            Err(error) => {
                let is_known = matches!(error, FrameError::Corrupt | FrameError::TooLarge { .. });
                prop_assert!(is_known, "{error}");
            }
        }
    }
}

#[test]
fn gzip_is_found_among_what_a_peer_takes() {
    for (accepted, expected) in [
        (&b"gzip"[..], true),
        (b"identity, deflate, gzip", true),
        (b"identity,gzip", true),
        (b"gzipped", false),
        (b"identity", false),
        (b"", false),
    ] {
        assert_eq!(takes_gzip(accepted), expected);
    }
}

#[test]
fn the_limit_is_inclusive_plain_and_compressed() {
    for (size, fits) in [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
        let message = vec![7; size];
        let mut plain = Decoder::new(Encoding::Identity, LIMIT);
        let decoded = decode(&mut plain, &framed(std::slice::from_ref(&message)), 1000);
        assert_eq!(decoded.is_ok(), fits, "{size} plain");
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let mut decoder = Decoder::new(encoding, LIMIT);
            let decoded = decode(&mut decoder, &compressed(encoding, &message).into(), 1000);
            let error = FrameError::TooLarge { announced: None, limit: LIMIT };
            assert_eq!(decoded.err(), (!fits).then_some(error), "{size} {encoding:?}");
        }
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let bomb = compressed(Encoding::Gzip, &vec![0; 100 * LIMIT]);
    assert!(bomb.len() < LIMIT);
    let mut decoder = Decoder::new(Encoding::Gzip, LIMIT);
    let decoded = decode(&mut decoder, &Bytes::from(bomb), 16_384);
    assert_eq!(decoded, Err(FrameError::TooLarge { announced: None, limit: LIMIT }));
    assert!(decoder.stored() <= LIMIT);
}

#[test]
fn nothing_is_stored_for_what_is_only_announced() {
    let mut decoder = Decoder::new(Encoding::Identity, LIMIT);
    let announced = u32::try_from(LIMIT).expect("short").to_be_bytes();
    let mut bytes = Bytes::from([&[0][..], &announced].concat());
    assert_eq!(decoder.next(&mut bytes), Ok(None));
    assert_eq!(decoder.stored(), 0);
}

#[test]
fn flags_and_lengths_that_cannot_be_are_named() {
    for (bytes, error) in [
        ([2, 0, 0, 0, 0], FrameError::Flag(2)),
        ([255, 0, 0, 0, 0], FrameError::Flag(255)),
        ([1, 0, 0, 0, 0], FrameError::NoEncoding),
        (
            [0, 255, 255, 255, 255],
            FrameError::TooLarge { announced: Some(4_294_967_295), limit: LIMIT },
        ),
    ] {
        let mut decoder = Decoder::new(Encoding::Identity, LIMIT);
        assert_eq!(decoder.next(&mut Bytes::copy_from_slice(&bytes)), Err(error));
    }
}
