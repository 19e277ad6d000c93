import logging
import os
import socket
import stat
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import grpc
import pytest
import torch
from link_server import link_server, make_call
from raw_frames import header_bytes
from raw_links import connect, join, offered
from waiting import wait_until

from expertmesh.mesh import open_link as opening
from expertmesh.mesh.direct_link import DirectLink
from expertmesh.mesh.grpc_link import GrpcLink
from expertmesh.mesh.link import LinkLostError
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.frames import (
    HEADER_BYTES,
    encode_call,
    encode_hello,
    encode_outcome,
    encode_welcome,
)
from expertmesh.wire.offers import SocketKind


def link_threads():
    return [thread for thread in threading.enumerate() if thread.name == "expert-link"]


def greet(offer, token=None):
    """Connect, show a token, and return the connection and what it is answered with."""
    connection = connect(offer)
    connection.sendall(join(encode_hello(token or offer.token)))
    try:
        return connection, connection.recv(HEADER_BYTES)
    except ConnectionError:
        return connection, b""


@pytest.mark.parametrize("kind", SocketKind)
def test_a_token_opens_one_link_and_no_second(kind):
    with link_server() as server, offered(server, kind) as (offer, _):
        connection, answer = greet(offer)
        with closing(connection):
            assert answer == join(encode_welcome())
            with pytest.raises(OSError):
                greet(offer)


@pytest.mark.parametrize("kind", SocketKind)
def test_who_shows_something_else_is_sent_away_and_the_caller_still_welcome(kind, caplog):
    with link_server() as server, offered(server, kind) as (offer, _):
        for greeting in (join(encode_hello(b"guess")), join(encode_welcome()), b"GET / HTTP/1.1\r\n\r\n" * 10):
            with closing(connect(offer)) as stranger:
                stranger.sendall(greeting)
                with suppress(OSError):  # it may be gone already
                    stranger.shutdown(socket.SHUT_WR)
                    assert stranger.recv(100) == b""
        connection, answer = greet(offer)
        connection.close()
        assert answer == join(encode_welcome())
    assert [record.message for record in caplog.records if "without its token" in record.message]


def test_the_socket_is_the_owners_alone_and_gone_once_it_is_used():
    with link_server() as server, offered(server) as (offer, _):
        path = Path(offer.address)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent.stat().st_uid == os.getuid()
        connection, _ = greet(offer)
        assert not path.parent.exists()
        connection.close()


def test_an_offer_that_nobody_takes_is_void(monkeypatch):
    monkeypatch.setattr("expertmesh.expert.link_host.OFFER_SECONDS", 0.05)
    with link_server() as server, offered(server) as (offer, agreement):
        assert next(agreement, "the end") == "the end"
        assert offer.timeout_seconds == 0.05
        wait_until(lambda: not link_threads())
        with pytest.raises(OSError):
            greet(offer)


def test_a_link_of_another_model_is_not_offered():
    with link_server() as server, pytest.raises(grpc.RpcError, match="'f00d'"), offered(server, fingerprint="beef"):
        pass


@pytest.mark.parametrize("is_call_over_first", [True, False])
def test_socket_and_rpc_end_together(is_call_over_first):
    with link_server() as server, offered(server) as (offer, agreement):
        connection, _ = greet(offer)
        with closing(connection):
            wait_until(lambda: len(link_threads()) == 1)
            if is_call_over_first:
                agreement.cancel()
                assert connection.recv(1) == b""
            else:
                connection.close()
                assert next(agreement, "the end") == "the end"
        wait_until(lambda: not link_threads())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.com\r\nAccept: text/html\r\n\r\n" * 2, "begins with b'GET '"),
        (header_bytes(rows=2**32 - 1, width=2**32 - 1, chosen=2**32 - 1), "at most 67108864 would be right"),
        (header_bytes(kind=4, rows=1, width=1) + bytes(4), "kind RESULT"),
        (header_bytes(b"\xff\xff", text=2) + b"\xff\xff", "not UTF-8"),
        (header_bytes()[:20], "after 20 of 64 bytes"),
        (header_bytes(rows=2, width=16, chosen=2), "after 64 of 224 bytes"),
        (header_bytes(rows=2, width=16, chosen=2) + bytes(17), "after 81 of 224 bytes"),
        (header_bytes(rows=2, width=16, place=1), "at place 1, byte 0, of 0 shared bytes"),
    ],
)
def test_what_is_no_call_ends_the_link_with_a_word_and_harms_nobody(data, words, caplog):
    with link_server() as server, offered(server) as (offer, _):
        other = server.open("direct")
        connection, _ = greet(offer)
        with closing(connection):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):  # it did not read everything
                assert connection.recv(1) == b""
        wait_until(lambda: len(link_threads()) == 1)
        other.send(1, make_call())
        assert torch.equal(other.receive(1, 10).partial, server.expected(make_call()))
        other.close()
    [message] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert message.startswith("ending a link: ")
    assert words in message


@pytest.mark.parametrize(("transport", "kind"), [("auto", GrpcLink), ("direct", DirectLink), ("grpc", GrpcLink)])
def test_where_the_unix_socket_is_out_of_reach_another_way_is_taken(transport, kind, monkeypatch):
    def dial(offer, endpoint, dial=opening._dial):
        if isinstance(offer.address, str):
            raise FileNotFoundError(offer.address)
        return dial(offer, endpoint)

    monkeypatch.setattr(opening, "_dial", dial)
    with link_server() as server, closing(server.open(transport)) as link:
        assert isinstance(link, kind)
        call = make_call(300)
        link.send(1, call)
        assert torch.equal(link.receive(1, 10).partial, server.expected(call))


def test_a_server_that_has_no_place_for_sockets_is_called_over_grpc(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with link_server() as server:
        with closing(server.open("auto")) as link:
            assert isinstance(link, GrpcLink)
        with closing(server.open("direct")) as link:
            assert link._connection.family == socket.AF_INET


def test_on_one_host_a_link_is_direct():
    with link_server() as server, closing(server.open("auto")) as link:
        assert isinstance(link, DirectLink)
        assert link._connection.family == socket.AF_UNIX


def test_answers_come_late_where_that_is_asked_for():
    with link_server(chaos_delay_seconds=0.05) as server, closing(server.open("direct")) as link:
        started = time.monotonic()
        link.send(1, make_call())
        link.receive(1, 10)
        assert time.monotonic() - started >= 0.05


@pytest.fixture
def ends():
    """A link and the other end of its socket."""
    here, there = socket.socketpair()
    with closing(DirectLink(here, "there")) as link, there:
        yield link, there


def answer(call):
    return ExpertResult(torch.randn(call.hidden.shape), 0.25, 0.5)


def test_an_answer_that_comes_in_pieces_is_put_together(ends):
    link, there = ends
    call = make_call()
    link.send(7, call)
    result = answer(call)
    data = join(encode_outcome(7, result))
    for start in range(0, len(data), 50):
        with pytest.raises(TimeoutError):
            link.receive(7, 0.01)
        there.sendall(data[start : start + 50])
    received = link.receive(7, 20)
    assert torch.equal(received.partial, result.partial)
    assert (received.queue_seconds, received.compute_seconds) == (0.25, 0.5)


def test_a_forgotten_answer_is_dropped_and_a_failure_raised(ends):
    link, there = ends
    call = make_call()
    for number in (1, 2):
        link.send(number, call)
    link.forget(1)
    there.sendall(join(encode_outcome(1, answer(call))))
    there.sendall(join(encode_outcome(2, CallFailure(FailureCode.BUSY, "full"))))
    with pytest.raises(CallFailure, match="full"):
        link.receive(2, 20)
    with pytest.raises(KeyError):
        link.receive(1, 0)


def test_what_arrived_before_the_end_can_be_received(ends):
    link, there = ends
    call = make_call()
    for number in (1, 2, 3):
        link.send(number, call)
    for number in (1, 2):
        there.sendall(join(encode_outcome(number, answer(call))))
    there.close()
    link.receive(2, 20)
    link.receive(1, 20)
    with pytest.raises(LinkLostError, match="the connection ended|Connection reset"):
        link.receive(3, 20)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(HEADER_BYTES), "begins with"),
        (join(encode_outcome(2, CallFailure(FailureCode.BUSY, ""))), "call 2, which was not asked"),
        (join(encode_call(1, make_call())), "kind CALL"),
    ],
)
def test_a_server_that_answers_nonsense_is_given_up(ends, data, words, caplog):
    link, there = ends
    link.send(1, make_call())
    there.sendall(data)
    with pytest.raises(LinkLostError, match=words):
        link.receive(1, 20)
    with pytest.raises(LinkLostError):
        link.send(2, make_call())
    assert [record.message.partition(":")[0] for record in caplog.records] == ["giving up the link to there"]


@pytest.mark.parametrize("shape", [(0, 0), (1, 16), (2, 1), (3, 16), (300, 400)])
@pytest.mark.parametrize("num_calls", [1, 2])
def test_an_answer_of_another_shape_is_read_to_its_end(ends, shape, num_calls):
    link, there = ends
    call, expected = make_call(), torch.rand(shape)
    for number in range(num_calls):
        link.send(number, call)
    outcomes = [ExpertResult(expected, 0, 0), answer(call)][:num_calls]
    frames = b"".join(join(encode_outcome(number, outcome)) for number, outcome in enumerate(outcomes))
    sending = threading.Thread(target=there.sendall, args=(frames,))
    sending.start()
    for number, outcome in enumerate(outcomes):
        assert torch.equal(link.receive(number, 20).partial, outcome.partial)
    sending.join()


def test_what_was_answered_can_be_received_after_nothing_can_be_sent(ends):
    link, there = ends
    call = make_call()
    link.send(1, call)
    there.sendall(join(encode_outcome(1, answer(call))))
    there.shutdown(socket.SHUT_RD)
    with pytest.raises(LinkLostError):
        link.send(2, call)
    with pytest.raises(LinkLostError):
        link.send(3, call)
    link.receive(1, 20)
    there.close()
    with pytest.raises(LinkLostError):
        link.receive(2, 20)


def test_a_link_can_be_ended_by_another_thread(ends):
    link, _ = ends
    link.send(1, make_call())
    threading.Timer(0.05, link.end).start()
    with pytest.raises(LinkLostError):
        link.receive(1, 10)


def test_sending_does_not_wait_for_a_server_that_reads_nothing(ends):
    link, there = ends
    call = make_call(20_000)
    started = time.monotonic()
    for number in range(3):
        link.send(number, call)
    assert time.monotonic() - started < 5
    with pytest.raises(TimeoutError):
        link.receive(0, 0.05)
    expected = b"".join(join(encode_call(number, call)) for number in range(3))
    received = bytearray()

    def read():
        while len(received) < len(expected):
            received.extend(there.recv(1 << 20))
        there.sendall(join(encode_outcome(0, ExpertResult(torch.ones(20_000, 16), 0, 0))))

    reader = threading.Thread(target=read)
    reader.start()
    assert link.receive(0, 10).partial.sum() == 320_000
    reader.join()
    assert received == expected
