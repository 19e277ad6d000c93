"""Direct links whose calls lie in memory that both ends share, and ends of them that mean harm."""

import os
import socket
from contextlib import closing, suppress
from dataclasses import replace

import pytest
import torch
from link_server import link_server, make_call
from raw_frames import header_bytes
from raw_links import connect, join, offered

from expertmesh.mesh.direct_link import DirectLink
from expertmesh.mesh.link import LinkLostError
from expertmesh.rpc.shared_memory import make_shared
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.frames import HEADER_BYTES, decode_header, encode_call, encode_hello, encode_outcome
from expertmesh.wire.room import UNIT_BYTES, open_room


def shared_ends(num_bytes=4 * UNIT_BYTES):
    """The two ends of a link with memory; the one there reads and writes it as it likes."""
    here, there = socket.socketpair()
    with make_shared(num_bytes) as (memory, _):
        return DirectLink(here, "there", memory=memory), there, memory


def in_room(link, call):
    return replace(call, hidden=link.take_room(call.hidden.shape, call.hidden.dtype).copy_(call.hidden))


@pytest.mark.parametrize(
    ("place", "shape"), [(2, (2, 16)), (1, (3, 16)), (1, (2, 15)), (2**32 - 1, (2, 16)), (1, (0, 0))], ids=str
)
def test_an_answer_that_lies_where_it_cannot_ends_the_link(place, shape, monkeypatch, caplog):
    monkeypatch.setattr("expertmesh.mesh.direct_link.MIN_SHARED_BYTES", 1)
    link, there, _ = shared_ends()
    with closing(link), closing(there):
        link.send(1, in_room(link, make_call()))
        there.sendall(header_bytes(kind=4, call_id=1, rows=shape[0], width=shape[1], place=place))
        with pytest.raises(LinkLostError, match=rf"at place {place}; \[2, 16\] at 1 would be right"):
            link.receive(1, 20)


def test_an_answer_has_no_place_where_its_call_had_none(caplog):
    link, there, _ = shared_ends()
    with closing(link), closing(there):
        link.send(1, make_call())
        there.sendall(header_bytes(kind=4, call_id=1, rows=2, width=16, place=1))
        with pytest.raises(LinkLostError, match=r"at place 1; \[2, 16\] at 0 would be right"):
            link.receive(1, 20)


def test_a_call_in_a_room_may_be_answered_inline(monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.direct_link.MIN_SHARED_BYTES", 1)
    link, there, _ = shared_ends()
    with closing(link), closing(there):
        call = make_call()
        link.send(1, in_room(link, call))
        result = ExpertResult(torch.randn(call.hidden.shape), 0.25, 0.5)
        there.sendall(join(encode_outcome(1, result)))
        assert torch.equal(link.receive(1, 20).partial, result.partial)


def test_the_end_of_a_link_gives_its_memory_back(monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.direct_link.MIN_SHARED_BYTES", 1)
    link, there, memory = shared_ends()
    link.send(1, in_room(link, make_call()))
    there.close()
    del memory
    with pytest.raises(LinkLostError):
        link.receive(1, 20)
    assert link.take_room((2, 16), torch.float32) is None
    link.close()
    assert shared_files() == []


def hello_with(offer, *descriptors):
    """Show the token and descriptors; returns the connection and whether the server shares memory."""
    connection = connect(offer)
    socket.send_fds(connection, [join(encode_hello(offer.token))], descriptors)
    return connection, bool(decode_header(connection.recv(HEADER_BYTES), 0).place)


def test_memory_that_could_do_harm_is_not_shared_and_the_link_is_opened(caplog):
    with link_server() as server, offered(server) as (offer, _):
        descriptor = os.memfd_create("unsealed")
        connection, shares = hello_with(offer, descriptor)
        os.close(descriptor)
        with closing(connection):
            assert not shares
            call = make_call()
            connection.sendall(join(encode_call(1, call)))
            received = connection.recv(1 << 16)
            assert received == join(encode_outcome(1, ExpertResult(server.expected(call), 0, 0)))[:16] + received[16:]
    assert "seals" in caplog.text


def shared_files():
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # such as that of the directory itself
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [link for link in links if "memfd:" in link]


def test_descriptors_of_strangers_are_closed():
    with link_server() as server, offered(server) as (offer, _):
        with closing(connect(offer)) as stranger, make_shared(4096) as (memory, descriptor):
            socket.send_fds(stranger, [join(encode_hello(b"guess"))], [descriptor] * 40)
            assert stranger.recv(1) == b""
        del memory
        assert shared_files() == []


def test_a_caller_that_writes_to_its_memory_while_it_is_read_harms_nobody():
    with link_server(closed_layers=[0]) as server, offered(server) as (offer, _):
        with make_shared(4 * UNIT_BYTES) as (memory, descriptor):
            connection, shares = hello_with(offer, descriptor)
        with closing(connection):
            assert shares
            call = make_call()
            open_room(1, memory.view(0, UNIT_BYTES), call.hidden.shape, call.hidden.dtype).hidden.copy_(call.hidden)
            connection.sendall(join(encode_call(1, call, place=1)))
            assert server.layers[0].entered.acquire(timeout=30)
            memory.view(0, memory.num_bytes)[:] = 0xFF  # not a number, whichever dtype
            server.layers[0].releases.release()
            assert decode_header(connection.recv(HEADER_BYTES), 1 << 20).call_id == 1
        with closing(server.open("direct")) as link:
            link.send(1, make_call(layer=1))
            assert torch.equal(link.receive(1, 10).partial, server.expected(make_call(layer=1)))


def test_without_memory_to_share_links_work_as_ever(monkeypatch):
    def refuse(_):
        raise OSError("none")

    monkeypatch.setattr("expertmesh.mesh.direct_link.MIN_SHARED_BYTES", 1)
    for target in ("expertmesh.mesh.open_link.make_shared", "expertmesh.expert.direct_link.take_shared"):
        with monkeypatch.context() as patch, link_server() as server:
            patch.setattr(target, refuse)
            with closing(server.open("direct")) as link:
                assert link.take_room((2, 16), torch.float32) is None
                link.send(1, make_call())
                assert torch.equal(link.receive(1, 10).partial, server.expected(make_call()))


def test_over_tcp_no_memory_is_shared(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with link_server() as server, closing(server.open("direct")) as link:
        assert link._rooms is None
