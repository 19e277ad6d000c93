import random
import socket
import threading
from contextlib import closing

import pytest
import torch
from link_server import make_call
from raw_frames import header_bytes

from expertmesh.expert.budget import CallBudget
from expertmesh.expert.frame_reader import MAX_KEPT_BYTES, MIN_MEMORY_BYTES, FrameReader
from expertmesh.rpc.exact_io import limit_stalls
from expertmesh.rpc.shared_memory import make_shared
from expertmesh.wire.failures import CallFailure, FailureCode, WireError
from expertmesh.wire.frames import encode_call, encode_welcome
from expertmesh.wire.room import UNIT_BYTES, open_room, room_bytes, start_of

BUDGET_BYTES = 2**24


def join(frame):
    return b"".join(memoryview(part).tobytes() for part in frame)


@pytest.fixture
def ends():
    here, there = socket.socketpair()
    here.settimeout(10)
    with closing(here), closing(there):
        yield FrameReader(here, CallBudget(BUDGET_BYTES)), there


def assert_same(call, expected):
    assert torch.equal(call.hidden, expected.hidden)
    assert (call.topk_ids == expected.topk_ids).all()
    assert (call.topk_weights == expected.topk_weights).all()


@pytest.mark.parametrize("max_piece_bytes", [1, 100, 10**6])
def test_calls_of_any_size_are_read_however_their_bytes_arrive(ends, max_piece_bytes):
    reader, there = ends
    sizes = (1, 2, 1, 40) if max_piece_bytes == 1 else (1, 300, 2, MIN_MEMORY_BYTES // 16, 1, 1)
    calls = [make_call(num_rows, seed=number) for number, num_rows in enumerate(sizes)]
    data = b"".join(join(encode_call(number, call)) for number, call in enumerate(calls))
    rng = random.Random(0)

    def send() -> None:
        start = 0
        while start < len(data):
            num_bytes = rng.randint(1, max_piece_bytes)
            there.sendall(data[start : start + num_bytes])
            start += num_bytes
        there.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()
    for number, expected in enumerate(calls):
        read = reader.read()
        assert (read.call_id, read.room) == (number, None)
        assert_same(read.call, expected)
    assert reader.read() is None
    sending.join()


@pytest.mark.parametrize("num_bytes", [1, 55, 57, 100])
def test_a_call_that_is_cut_off_is_an_error(ends, num_bytes):
    reader, there = ends
    frame = join(encode_call(0, make_call()))
    there.sendall(frame[:num_bytes])
    there.close()
    with pytest.raises(EOFError, match=rf"after {num_bytes} of \d+ bytes of a frame"):
        reader.read()


def test_only_calls_are_read(ends):
    reader, there = ends
    there.sendall(join(encode_welcome()))
    with pytest.raises(WireError, match="kind WELCOME; CALL would be right"):
        reader.read()


def test_an_announcement_of_more_than_a_message_takes_no_memory(ends):
    reader, there = ends
    there.sendall(header_bytes(rows=2**20, width=2**12))
    with pytest.raises(WireError, match="at most"):
        reader.read()
    assert len(reader._memory) == MIN_MEMORY_BYTES


def test_a_call_without_room_is_skipped_and_the_next_is_read(ends):
    reader, there = ends
    large, small = make_call(MIN_MEMORY_BYTES // 8), make_call()
    frames = join(encode_call(1, large)) + join(encode_call(2, small))
    reader._budget.take(BUDGET_BYTES - small.num_bytes - 4 * small.hidden.numel())
    sending = threading.Thread(target=there.sendall, args=(frames,))
    sending.start()
    refused, read = reader.read(), reader.read()
    sending.join()
    assert (refused.call_id, refused.call.code) == (1, FailureCode.BUSY)
    assert isinstance(refused.call, CallFailure)
    assert len(reader._memory) == MIN_MEMORY_BYTES
    assert_same(read.call, small)


def test_memory_and_budget_of_a_large_call_are_let_go(ends):
    reader, there = ends
    frames = join(encode_call(1, make_call(MAX_KEPT_BYTES // 32))) + join(encode_call(2, make_call()))
    sending = threading.Thread(target=there.sendall, args=(frames,))
    sending.start()
    for _ in range(2):
        assert isinstance(reader.read().call.layer, int)
    sending.join()
    assert len(reader._memory) == MIN_MEMORY_BYTES
    reader.close()
    assert reader._budget.num_held == 0


def test_a_caller_that_stops_within_a_call_is_not_waited_for(ends):
    reader, there = ends
    reader._connection.settimeout(None)
    limit_stalls(reader._connection, 0.05)
    there.sendall(join(encode_call(1, make_call()))[:70])
    with pytest.raises(EOFError, match="stopped after 70 bytes of a frame"):
        reader.read()


@pytest.fixture
def sharing():
    here, there = socket.socketpair()
    here.settimeout(10)
    with closing(here), closing(there), make_shared(4 * UNIT_BYTES) as (memory, _):
        yield FrameReader(here, CallBudget(BUDGET_BYTES), memory), there, memory


def test_hidden_states_are_read_where_they_lie(sharing):
    reader, there, memory = sharing
    calls = [make_call(num_rows, seed=num_rows) for num_rows in (300, 2, 40)]
    for place, call in enumerate(calls, 1):
        shape, dtype = call.hidden.shape, call.hidden.dtype
        open_room(place, memory.view(start_of(place), room_bytes(shape, dtype)), shape, dtype).hidden.copy_(call.hidden)
        there.sendall(join(encode_call(place, call, place)))
    for place, expected in enumerate(calls, 1):
        read = reader.read()
        assert (read.call_id, read.room.place) == (place, place)
        assert_same(read.call, expected)
        address = read.call.hidden.data_ptr()
        read.call.hidden.zero_()
        assert address == memory.address + start_of(place)


@pytest.mark.parametrize(
    "fields",
    [
        {"place": 5, "rows": 1, "width": 1},
        {"place": 4, "rows": UNIT_BYTES // 8, "width": 2},
        {"place": 1, "rows": 2**32 - 1, "width": 2**32 - 1},
        {"place": 2**32 - 1, "rows": 1, "width": 1},
        {"place": 1, "rows": 0, "width": 16},
    ],
)
def test_a_place_beyond_the_shared_memory_is_refused_with_the_numbers(sharing, fields):
    reader, there, _ = sharing
    there.sendall(header_bytes(**fields))
    with pytest.raises(WireError, match=rf"place {fields['place']}, byte \d+, of {4 * UNIT_BYTES} shared bytes"):
        reader.read()


def test_a_place_without_shared_memory_is_refused(ends):
    reader, there = ends
    there.sendall(header_bytes(place=1))
    with pytest.raises(WireError, match="of 0 shared bytes"):
        reader.read()
