import pytest
import torch

from expertmesh.mesh.rooms import Rooms
from expertmesh.rpc.shared_memory import make_shared
from expertmesh.wire.room import UNIT_BYTES

# With its answer, and rounded up: one unit for 100 rows, two for 1500.
WIDTH = 8


@pytest.fixture
def rooms():
    with make_shared(4 * UNIT_BYTES) as (memory, _):
        yield Rooms(memory)


def place(rooms, hidden):
    return rooms.room_of(hidden).place


def test_rooms_lie_side_by_side_until_there_is_no_more(rooms):
    taken = [rooms.take((num_rows, WIDTH), torch.float32) for num_rows in (100, 1500, 100)]
    assert [place(rooms, hidden) for hidden in taken] == [1, 2, 4]
    assert rooms.take((1, WIDTH), torch.float32) is None
    for number, hidden in enumerate(taken):
        rooms.room_of(hidden).partial.fill_(number)
        hidden.fill_(-number)
    assert [rooms.room_of(hidden).partial.unique().tolist() for hidden in taken] == [[0], [1], [2]]


def test_a_room_is_free_once_nobody_looks_at_call_or_answer(rooms):
    first, second = (rooms.take((100, WIDTH), torch.bfloat16) for _ in range(2))
    answer = rooms.room_of(first).partial[3:5]
    del first
    assert place(rooms, rooms.take((100, WIDTH), torch.bfloat16)) == 3
    del answer
    assert place(rooms, rooms.take((100, WIDTH), torch.bfloat16)) == 1
    assert place(rooms, second) == 2


def test_a_gap_that_is_too_small_is_left(rooms):
    first, second = (rooms.take((100, WIDTH), torch.float32) for _ in range(2))
    assert (place(rooms, first), place(rooms, second)) == (1, 2)
    del first
    large, small = rooms.take((1500, WIDTH), torch.float32), rooms.take((100, WIDTH), torch.float32)
    assert (place(rooms, large), place(rooms, small)) == (3, 1)


def test_what_lies_elsewhere_has_no_room(rooms):
    hidden = rooms.take((100, WIDTH), torch.float32)
    assert rooms.room_of(torch.empty(100, WIDTH)) is None
    assert rooms.room_of(hidden[1:]) is None
