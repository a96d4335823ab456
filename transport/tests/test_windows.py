"""Windows: what is not settled or not read holds back what comes next."""

import threading

import h2.errors
import h2.events

from harness import (
    HOLD_STREAM,
    HOLD_STREAM_HEADERS,
    PATIENCE_S,
    STREAM_HEADERS,
    UNARY_HEADERS,
    App,
    RawClient,
    dialled,
    frame,
    serving,
    stream,
)


def test_stream_window() -> None:
    """A stream is handed no more messages than its window, until some are settled."""
    with serving(stream_window=3) as app, RawClient(app.address) as raw:
        raw.open(HOLD_STREAM_HEADERS, b"".join(frame(b"%d" % n) for n in range(10)))
        call = app.expect("opened").call
        assert [app.expect("message").message for _ in range(3)] == [b"0", b"1", b"2"]
        assert raw.call(UNARY_HEADERS, frame(b"")).status == 0  # time for more to come
        assert app.has_no_event()
        call.settle(2)
        assert [app.expect("message").message for _ in range(2)] == [b"3", b"4"]
        call.send(b"answer", settles=1)
        assert app.expect("message").message == b"5"
        assert app.has_no_event()
        call.settle(100)
        assert [app.expect("message").message for _ in range(3)] == [b"6", b"7", b"8"]


def test_stream_window_bytes() -> None:
    """Large messages close the window earlier; one larger than it is let through alone."""
    with serving(stream_window_bytes=1000) as app, RawClient(app.address) as raw:
        body = frame(b"x" * 5000) + frame(b"y" * 600) + frame(b"z" * 600) + frame(b"!")
        raw.open(HOLD_STREAM_HEADERS, body)
        call = app.expect("opened").call
        assert len(app.expect("message").message) == 5000
        assert raw.call(UNARY_HEADERS, frame(b"")).status == 0
        assert app.has_no_event()
        call.settle(1)
        assert [len(app.expect("message").message) for _ in range(2)] == [600, 600]
        call.settle(2)
        assert app.expect("message").message == b"!"


def test_peer_that_does_not_read_is_not_read_from() -> None:
    """Answers that nobody takes stop the reading of what asks for them."""
    with serving(stream_window=4, http2_stream_window=65535) as app, RawClient(app.address) as raw:
        message = b"x" * 20_000
        number = raw.open(STREAM_HEADERS, b"", end=False)
        sent = 0
        raw.socket.settimeout(0.3)
        try:  # this client never gives the server's answers any window
            while True:
                while raw.http.local_flow_control_window(number) < 16384:
                    for event in raw.http.receive_data(raw.socket.recv(65536)):
                        raw.other.append(event)
                    raw.flush()
                part = (frame(message) * 10)[:16384]
                raw.http.send_data(number, part)
                raw.flush()
                sent += len(part)
        except TimeoutError:
            pass
        assert sent < 1_000_000
        assert app.server.counters()["buffered_bytes"] < 200_000


def test_full_outgoing_window() -> None:
    """`send` says when the peer does not keep up; all is sent when it does."""
    with serving(outgoing_window_bytes=100_000) as app, RawClient(app.address) as raw:
        number = raw.open(HOLD_STREAM_HEADERS, frame(b"go"))
        call = app.expect("opened").call
        had_room = [call.send(bytes([n]) * 20_000) for n in range(20)]
        assert had_room[0]
        assert not had_room[-1]
        call.finish(0)
        answer = raw.answer(number)
        assert answer.body == b"".join(frame(bytes([n]) * 20_000) for n in range(20))
        assert answer.status == 0


def test_detached_message() -> None:
    """It is answered by `send`, beside the others; room that was missing is told of."""
    with serving(outgoing_window_bytes=100_000) as app, RawClient(app.address) as raw:
        number = raw.open(HOLD_STREAM_HEADERS, frame(b"many") + frame(b"one"))
        call = app.expect("opened").call
        tickets = [app.expect("message").ticket for _ in range(2)]
        app.expect("half-closed")
        call.finish_answered(0)
        call.detach(tickets[0])
        call.answer(tickets[1], b"one")
        sent = [b"first" * 100_000]
        assert not call.send(sent[0])
        reader = threading.Thread(target=raw.answer, args=(number,))
        reader.start()
        assert app.expect("writable").call is call
        sent.append(b"last")
        assert call.send(sent[1], settles=1)
        reader.join(PATIENCE_S)
        answer = raw.answers[number]
        assert answer.body == b"".join(map(frame, [b"one", *sent]))
        assert answer.status == 0


def is_refused(raw: RawClient) -> bool:
    """Tell whether a call is refused on a connection that is not read."""
    number = raw.open(UNARY_HEADERS, frame(b""))
    answer = raw.answers[number]
    while not answer.ended:
        for event in raw.http.receive_data(raw.socket.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == number:
                answer.headers.update(event.headers or ())
                answer.ended = True
    return answer.headers.get(b"grpc-status") == b"8"


def test_unread_connection_gets_no_new_calls() -> None:
    """A connection with too much that waits for it is refused more."""
    with serving(connection_outgoing_bytes=100_000) as app, RawClient(app.address) as raw:
        raw.open(HOLD_STREAM_HEADERS, frame(b"go"))
        call = app.expect("opened").call
        app.expect("message")
        app.expect("half-closed")
        call.send(b"x" * 500_000)
        assert is_refused(raw)


def test_unread_bytes_of_all_connections() -> None:
    """When too much is unread in all, those who have more than their share are refused more."""
    with (
        serving(outgoing_bytes=600_000) as app,
        RawClient(app.address) as hoarder,
        RawClient(app.address) as other,
        RawClient(app.address) as reader,
    ):
        for client, size in ((hoarder, 500_000), (other, 300_000)):
            client.open(HOLD_STREAM_HEADERS, frame(b"go"))
            call = app.expect("opened").call
            app.expect("message")
            app.expect("half-closed")
            call.send(b"x" * size)
        while app.server.counters()["unsent_bytes"] <= 600_000:
            pass
        assert is_refused(hoarder)
        assert is_refused(other)
        assert reader.call(UNARY_HEADERS, frame(b"fine")).status == 0
    assert app.server.counters()["refused_unread_total"] == 2


def test_threads_that_answer_at_once(app: App) -> None:
    """Answers of many threads to one stream arrive whole, and the end comes last."""
    with dialled(app) as channel:
        call = stream(channel, HOLD_STREAM)(iter([b""]), timeout=PATIENCE_S)
        served = app.expect("opened").call

        def answer(n: int) -> None:
            for _ in range(200):
                served.send(bytes([n]) * 100)

        threads = [threading.Thread(target=answer, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        served.finish(0)
        replies = list(call)
    assert len(replies) == 1600
    assert all(len(set(reply)) == 1 and len(reply) == 100 for reply in replies)
