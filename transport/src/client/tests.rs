//! The load generator against a server of h2 alone, whose methods misbehave in known ways.

use super::address::Peer;
use super::engine::Engine;
use super::once::{call, Refusal};
use super::outcome::{code, Failure};
use super::sample::Sample;
use super::work::{framed, id_text, Matching, Schedule, Work, ID_DIGITS};
use crate::wire::encoding::Encoding;
use crate::wire::frame::{encode, Decoder};
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::time::sleep;

const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20); // for what takes milliseconds
const SLOW: Duration = Duration::from_millis(10);
const LIMIT: u32 = 4; // calls that a connection may have at once

// Serves until the process ends.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(LIMIT);
                    let Ok(mut connection) = builder.handshake(socket).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        if request.uri().path() == "/hang-up" {
                            return;
                        }
                        tokio::spawn(answer(request, respond));
                    }
                });
            }
        });
    });
    address
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let status = if path == "/http" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let response = Response::builder().status(status).body(()).unwrap();
    match path.as_str() {
        "/reset" => respond.send_reset(Reason::REFUSED_STREAM),
        "/silent" => sleep(Duration::from_secs(60)).await,
        "/http" => drop(respond.send_response(response, true)),
        "/refuse" => {
            let mut refused = response;
            refused.headers_mut().extend(trailers("8", "so%20full"));
            drop(respond.send_response(refused, true));
        }
        "/empty" => {
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_trailers(trailers("0", "")).unwrap();
        }
        "/slow" | "/ok" => {
            if path == "/slow" {
                sleep(SLOW).await;
            }
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_data(framed(b"reply").unwrap(), false).unwrap();
            // It fails when the client has gone.
            let _ = stream.send_trailers(trailers("0", ""));
        }
        _ => {
            let stream = respond.send_response(response, false).unwrap();
            converse(&path, request.into_body(), stream).await;
        }
    }
}

fn trailers(status: &'static str, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers.insert("took-us", HeaderValue::from_static("1500"));
    trailers
}

// Replies are {1: error, 2: {3: id}}, as requests are {3: id}.
async fn converse(path: &str, mut body: RecvStream, mut stream: SendStream<Bytes>) {
    let mut decoder = Decoder::new(Encoding::Identity, 1 << 20);
    let mut held = Vec::new();
    let mut count = 0;
    while let Some(Ok(mut chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        while let Ok(Some(message)) = decoder.next(&mut chunk) {
            count += 1;
            let id = match path {
                "/unknown-id" => &id_text(u32::MAX),
                _ => &message[2..2 + ID_DIGITS],
            };
            let error = if path == "/every-other" && count % 2 == 0 { "\x0a\x03bad" } else { "" };
            let mut reply = BytesMut::from(error.as_bytes());
            reply.extend_from_slice(b"\x12\x0a\x1a\x08");
            reply.extend_from_slice(id);
            held.push(reply.freeze());
            if path == "/ends" && count == 3 {
                let _ = stream.send_trailers(trailers("14", "going"));
                return;
            }
            if path == "/backwards" && held.len() < 2 {
                continue;
            }
            while let Some(reply) = held.pop() {
                let mut framed = BytesMut::new();
                encode(&reply, &mut framed).unwrap();
                let _ = stream.send_data(framed.freeze(), false);
            }
        }
    }
    let _ = stream.send_trailers(trailers("0", ""));
}

fn work(address: &str, path: &str, schedule: Schedule) -> Work {
    Work {
        peer: Peer::new(address, None).unwrap(),
        path: path.to_owned(),
        messages: vec![framed(b"\x1a\x0800000000").unwrap(), framed(b"\x1a\x0811111111").unwrap()],
        headers: HeaderMap::new(),
        streams: 0,
        matching: Matching { id_at: vec![2, 2], reply_id: vec![2, 3], reply_error: vec![1] },
        schedule,
        most_in_flight: 1000,
        timeout: Duration::from_secs(10),
        timings: vec!["took-us".parse().unwrap()],
        connections: 1,
        threads: 1,
    }
}

// Run a load until there is enough in its sample.
fn measure(work: &Work, enough: impl Fn(&Sample) -> bool) -> Sample {
    let engine = Engine::start(work).unwrap();
    let began = Instant::now();
    let mut sample = engine.take().unwrap();
    while !enough(&sample) && began.elapsed() < PATIENCE {
        thread::sleep(LOOK);
        sample.then(&engine.take().unwrap());
    }
    engine.stop(Duration::from_secs(1));
    assert!(engine.take().is_none());
    assert_eq!(sample.answered, sample.latency.count());
    sample
}

fn answers(count: u64) -> impl Fn(&Sample) -> bool {
    move |sample| sample.answered >= count
}

fn has_failed(sample: &Sample) -> bool {
    !sample.failures.is_empty()
}

fn closed(path: &str, in_flight: usize) -> Work {
    work(&serve(), path, Schedule::Closed { in_flight })
}

fn only_failure(sample: &Sample) -> (i32, &str) {
    assert_eq!(sample.answered, 0);
    assert_eq!(sample.failures.len(), 1, "{:?}", sample.failures);
    let (&code, failures) = sample.failures.first_key_value().unwrap();
    assert!(failures.count > 0);
    (code, &failures.first)
}

#[test]
fn answers_are_counted_with_what_the_server_says_of_them() {
    let sample = measure(&closed("/ok", 4), answers(100));
    assert!(sample.answered >= 100 && sample.failures.is_empty(), "{:?}", sample.failures);
    assert_eq!(sample.timings[0].count(), sample.answered);
    assert!((sample.timings[0].mean_s() - 1.5e-3).abs() < 1e-5);
    assert_eq!(sample.lag.count(), 0);
    assert_eq!(sample.stream_limit, None);
    let usage = sample.usage[0];
    assert!(!usage.cpu.is_zero() && !usage.busy.is_zero(), "{usage:?}");
    assert!(usage.busy.as_secs_f64() <= sample.seconds, "{usage:?}");
}

#[test]
fn connections_and_threads_share_the_load() {
    let work = Work { connections: 3, threads: 2, ..closed("/slow", 7) };
    let sample = measure(&work, answers(100));
    assert!(sample.answered >= 100 && sample.failures.is_empty(), "{:?}", sample.failures);
    assert_eq!(sample.usage.len(), 2);
    let rate = 7.0 / SLOW.as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let answered = sample.answered as f64;
    assert!(answered <= rate * sample.seconds + 7.0, "{answered} in {} s", sample.seconds);
}

#[test]
fn a_server_that_allows_fewer_calls_is_named() {
    let sample = measure(&closed("/slow", 9), answers(20));
    assert_eq!(sample.stream_limit, Some(LIMIT as usize));
    assert!(sample.failures.is_empty(), "{:?}", sample.failures);
}

#[test]
fn failures_are_counted_by_code_and_are_no_answers() {
    let expected = [
        ("/refuse", code::RESOURCE_EXHAUSTED, "so full"),
        ("/http", code::UNAVAILABLE, "HTTP status 503"),
        ("/reset", code::UNAVAILABLE, "reset the stream"),
        ("/empty", code::INTERNAL, "without a message"),
        ("/hang-up", code::UNAVAILABLE, "connection"),
    ];
    for (path, code, text) in expected {
        let is_lost = path == "/hang-up";
        let sample = measure(&closed(path, 2), |sample| {
            has_failed(sample) && (sample.reconnects > 0 || !is_lost)
        });
        let (found, first) = only_failure(&sample);
        assert_eq!(found, code, "{path}: {first}");
        assert!(first.contains(text), "{path}: {first}");
        assert_eq!(sample.reconnects > 0, is_lost, "{path}");
    }
}

#[test]
fn a_request_without_an_answer_fails_in_time() {
    let sample = measure(&Work { timeout: SLOW, ..closed("/silent", 2) }, has_failed);
    assert_eq!(only_failure(&sample).0, code::DEADLINE_EXCEEDED);
}

#[test]
fn in_an_open_loop_latency_counts_from_the_schedule() {
    // One at a time and 10 ms each, twice as many arrive: waiting in the client is what grows.
    let schedule = Schedule::Open { per_second: 200.0, seed: 1 };
    let work = Work { most_in_flight: 1, ..work(&serve(), "/slow", schedule) };
    let sample = measure(&work, answers(50));
    assert!(sample.failures.is_empty(), "{:?}", sample.failures);
    assert!(sample.latency.max_s() > 5.0 * SLOW.as_secs_f64(), "{}", sample.latency.max_s());
    assert!(sample.lag.max_s() > 4.0 * SLOW.as_secs_f64(), "{}", sample.lag.max_s());
}

#[test]
fn in_an_open_loop_arrivals_do_not_wait_for_answers() {
    let schedule = Schedule::Open { per_second: 200.0, seed: 1 };
    let work = Work { connections: 2, ..work(&serve(), "/silent", schedule) };
    let sample = measure(&work, |sample| sample.lag.count() >= 6);
    assert!(sample.lag.count() >= 6 && sample.answered == 0, "{}", sample.lag.count());
}

#[test]
fn messages_of_streams_are_answered_in_any_order() {
    for path in ["/talk", "/backwards"] {
        let sample = measure(&Work { streams: 2, ..closed(path, 8) }, answers(100));
        let failures = &sample.failures;
        assert!(sample.answered >= 100 && failures.is_empty(), "{path}: {failures:?}");
    }
}

#[test]
fn without_ids_messages_are_answered_in_order() {
    let work = Work { streams: 1, matching: Matching::default(), ..closed("/talk", 8) };
    let sample = measure(&work, answers(100));
    assert!(sample.answered >= 100 && sample.failures.is_empty(), "{:?}", sample.failures);
}

#[test]
fn an_error_in_a_reply_is_a_failure_of_its_message_alone() {
    let sample = measure(&Work { streams: 1, ..closed("/every-other", 4) }, answers(50));
    let failed = &sample.failures[&code::UNKNOWN];
    assert_eq!(failed.first, "bad");
    assert!(failed.count.abs_diff(sample.answered) <= 4, "{failed:?}");
}

#[test]
fn a_stream_that_breaks_is_opened_again() {
    let sample = measure(&Work { streams: 1, ..closed("/ends", 4) }, answers(3));
    assert!(sample.answered > 2, "{}", sample.answered); // more than one stream has given
    assert_eq!(sample.failures[&code::UNAVAILABLE].first, "going");
    let sample = measure(&Work { streams: 1, ..closed("/unknown-id", 4) }, has_failed);
    let (code, text) = only_failure(&sample);
    assert_eq!(code, code::INTERNAL);
    assert!(text.contains("\"ffffffff\", which waits for no answer"), "{text}");
    let work = Work { streams: 1, timeout: SLOW, ..closed("/silent", 4) };
    let sample = measure(&work, has_failed);
    assert_eq!(only_failure(&sample).0, code::DEADLINE_EXCEEDED);
}

#[test]
fn in_an_open_loop_streams_take_turns() {
    let schedule = Schedule::Open { per_second: 400.0, seed: 1 };
    let sample = measure(&Work { streams: 3, ..work(&serve(), "/talk", schedule) }, answers(20));
    assert!(sample.answered >= 20 && sample.failures.is_empty(), "{:?}", sample.failures);
    assert!(sample.lag.count() >= sample.answered);
}

#[test]
fn one_call_returns_its_reply_or_why_there_is_none() {
    let peer = Peer::new(&serve(), None).unwrap();
    let ask = |path: &str| call(&peer, path, &HeaderMap::new(), b"x", Duration::from_millis(200));
    assert_eq!(ask("/ok"), Ok(Bytes::from_static(b"reply")));
    let refused = Failure::new(code::RESOURCE_EXHAUSTED, "so full");
    assert_eq!(ask("/refuse"), Err(Refusal::Failed(refused)));
    for (path, expected) in
        [("/silent", "did not answer in 0.2 s"), ("/hang-up", "does not speak gRPC without TLS")]
    {
        let unreachable = |error: &Refusal| matches!(error, Refusal::Unreachable(text) if text.contains(expected));
        assert!(ask(path).is_err_and(|error| unreachable(&error)), "{path}");
    }
}

#[test]
fn where_nothing_listens_nothing_starts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Engine::start(&work(&address, "/ok", Schedule::Closed { in_flight: 1 }));
    let error = error.err().unwrap();
    assert!(error.contains(&format!("cannot connect to {address}")), "{error}");
    let work = closed("/ok", 1);
    let error = Engine::start(&Work { path: "no path".to_owned(), ..work }).err().unwrap();
    assert!(error.contains("no request can be made"), "{error}");
}
