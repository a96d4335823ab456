//! Calls that nobody drives, for the tests of what writes into them; and the tests of their end.

use super::*;
use crate::wire::encoding::Encoding;

/// A call on a connection that nobody drives.
pub fn call(arity: Arity, deadline: Option<Instant>) -> Arc<Call> {
    let peer = Arc::new(Peer { address: "unix".to_owned(), certificate: None });
    let (headers, reply_encoding) = (HeaderMap::new(), Encoding::Identity);
    let head = Head { method: 0, headers, reply_encoding, deadline, peer };
    Arc::new(Call::new(head, arity, 0, Arc::default(), 100))
}

/// What has been written, and where each message ends.
pub fn written(call: &Call) -> (Vec<u8>, Vec<usize>) {
    call.with_outbox(|outbox| {
        assert!(outbox.marks.iter().all(|mark| mark.settles == 1));
        (outbox.bytes.to_vec(), outbox.marks.iter().map(|mark| mark.length).collect())
    })
}

/// The code that a call ends with, if it has ended.
pub fn code(call: &Call) -> Option<i32> {
    call.with_outbox(|outbox| outbox.finish.as_ref().map(|finish| finish.code))
}

/// A stream whose messages have these tickets: 0, 1, …
pub fn stream(tickets: u64) -> Arc<Call> {
    let call = call(Arity::Stream, None);
    (0..tickets).for_each(|ticket| assert_eq!(call.ticket(), ticket));
    call
}

/// Answer a message of a stream. True: there is room for more.
pub fn answer(call: &Arc<Call>, ticket: u64, contents: &[u8]) -> bool {
    let write = |out: &mut BytesMut| {
        out.extend_from_slice(contents);
        Some(())
    };
    call.answer(ticket, write).unwrap().has_room
}

/// A last word.
pub fn end(code: i32) -> Finish {
    Finish { code, message: String::new(), reply: None, trailers: HeaderMap::new(), work: None }
}

/// Send a message that is not given by ticket. True: there is room for more.
pub fn send(call: &Arc<Call>, contents: &[u8], settles: u32) -> bool {
    call.send(contents, settles).unwrap().has_room
}

/// What has been written, less the headers of frames, which only `send` writes here.
pub fn sent(call: &Call) -> Vec<u8> {
    call.with_outbox(|outbox| {
        let mut rest = outbox.bytes.to_vec();
        let messages = outbox.marks.iter().map(|mark| {
            let mut message: Vec<_> = rest.drain(..mark.length).collect();
            if message.first() == Some(&0) {
                message.drain(..frame::HEADER);
            }
            message
        });
        messages.collect::<Vec<_>>().concat()
    })
}

#[test]
fn room_is_told_once_when_half_of_the_window_is_free() {
    let call = stream(1);
    call.detach(0);
    assert!(send(&call, &[0; 95], 0)); // with its frame all of the window
    call.sent(60);
    assert!(!call.has_room_again()); // nobody was refused
    assert!(!send(&call, &[0; 95], 0));
    call.sent(60);
    assert!(!call.has_room_again());
    call.sent(30);
    assert!(call.has_room_again());
    assert!(!call.has_room_again());
}

#[test]
fn of_a_call_that_was_left_nothing_more_is_written() {
    let call = stream(2);
    answer(&call, 1, b"early");
    assert!(call.cancel());
    call.finish_answered(end(0));
    assert!(answer(&call, 0, b"late"));
    assert_eq!(written(&call), (vec![], vec![]));
    assert_eq!(code(&call), None);
}

#[test]
fn finish_does_not_wait_for_answers() {
    let call = stream(2);
    call.finish_answered(end(0));
    call.finish(end(13));
    answer(&call, 0, b"0");
    answer(&call, 1, b"1");
    assert_eq!(written(&call), (vec![], vec![]));
    assert_eq!(code(&call), Some(13));
}
