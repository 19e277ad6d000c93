"""Bits that turn over between gateway and server, on every link and in both directions."""

from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from link_server import link_server, make_call, share_every_call
from linked_mesh import make_step, mesh_of
from raw_links import join
from wires import ANSWERS, CALLS, Wires, lay_direct, turn_bits_over

from expertmesh.mesh import direct_link
from expertmesh.mesh.direct_link import DirectLink
from expertmesh.mesh.link import LinkLostError
from expertmesh.model.experts import run_experts
from expertmesh.wire import frames
from expertmesh.wire.failures import CallFailure, FailureCode

NUM_STEPS = 12
# In the middle of longer pieces lie numbers, not what holds a stream together.
LONG_BYTES = 1000


@pytest.mark.parametrize("transport", ["grpc", "direct"])
@pytest.mark.parametrize("which", [CALLS, ANSWERS])
def test_what_was_damaged_is_sent_again_counted_and_logged(transport, which, monkeypatch, caplog):
    with link_server() as server, Wires(turn_bits_over([which], every=3, min_bytes=LONG_BYTES)) as wires:
        lay_direct(wires, monkeypatch, lambda endpoint: True)
        address = wires.to(server.address) if transport == "grpc" else server.address
        with mesh_of([SimpleNamespace(address=address)], transport, max_piece_rows=999) as mesh:
            for number in range(NUM_STEPS):
                step, call = make_step(60 + number)
                assert torch.equal(run_experts(mesh.remote, step), server.expected(call))
            assert sum(mesh.load.num_damaged) > 0
            assert mesh.load.num_damaged == mesh.load.num_retries
            mesh.assert_nothing_owed()
    loggers = {record.name for record in caplog.records if "was damaged on its way" in record.message}
    assert "expertmesh.mesh.replica" in loggers
    assert ("expertmesh.expert.executor" in loggers) == (which == CALLS)


def test_a_replica_whose_wire_is_bad_is_left_for_another(monkeypatch, caplog):
    with link_server() as bad, link_server() as good, Wires(turn_bits_over([ANSWERS], 1, LONG_BYTES)) as wires:
        lay_direct(wires, monkeypatch, lambda endpoint: endpoint == bad.address)
        with mesh_of([bad, good], "direct", max_piece_rows=999) as mesh:
            while not mesh.replicas[0].health.num_ejections:
                step, call = make_step(60)
                assert torch.equal(run_experts(mesh.remote, step), good.expected(call))
            assert mesh.roster.ready(0) == [mesh.replicas[1]]


@pytest.mark.parametrize("which", [CALLS, ANSWERS])
def test_a_header_that_is_damaged_ends_the_link_before_it_is_believed(which, monkeypatch, caplog):
    def harm(direction, data):
        return data[:24] + b"\x7f" + data[25:] if direction == which and data[5] > frames.Kind.WELCOME else data

    with link_server() as server, Wires(harm) as wires:
        lay_direct(wires, monkeypatch, lambda endpoint: True)
        with closing(server.open("direct")) as link:
            link.send(1, make_call())
            with pytest.raises(LinkLostError, match=r"connection ended|a header was damaged"):
                link.receive(1, 10)
    assert "a header was damaged on its way" in caplog.text


def test_damage_in_shared_memory_is_found(monkeypatch):
    share_every_call(monkeypatch)
    is_damaged = [True]

    def encode_call(call_id, call, place=0):
        frame = frames.encode_call(call_id, call, place)
        if is_damaged[0]:
            call.hidden[0, 0] += 1
        return frame

    monkeypatch.setattr(direct_link, "encode_call", encode_call)
    with link_server() as server:
        link = server.open("direct")
        assert isinstance(link, DirectLink)
        link.send(1, make_call())
        with pytest.raises(CallFailure) as caught:
            link.receive(1, 10)
        assert caught.value.code is FailureCode.DAMAGED
        is_damaged[0] = False
        link.send(2, make_call())
        assert torch.equal(link.receive(2, 10).partial, server.expected(make_call()))
        link.close()


def test_every_bit_of_a_frame_counts():
    call = make_call(2)
    data = join(frames.encode_call(7, call))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(frames.WireError) if bit < 8 * frames.HEADER_BYTES else _found():
            header = frames.decode_header(damaged[: frames.HEADER_BYTES], 1 << 20)
            raise frames.find_damage(header, memoryview(damaged)[frames.HEADER_BYTES :])


def _found():
    return pytest.raises(CallFailure, match="call 7 was damaged on its way")
