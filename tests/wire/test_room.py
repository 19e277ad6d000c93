import numpy as np
import pytest
import torch

from expertmesh.wire.room import UNIT_BYTES, open_room, place_of, room_bytes, start_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8), (3, 7), (5, 64)])
def test_a_call_and_its_answer_lie_side_by_side_and_fill_their_room(shape, dtype):
    memory = np.zeros(room_bytes(shape, dtype), np.uint8)
    room = open_room(3, memory, shape, dtype)
    hidden, partial = torch.randn(shape).to(dtype), torch.randn(shape)
    room.hidden.copy_(hidden)
    room.partial.copy_(partial)
    again = open_room(3, memory, shape, dtype)
    assert torch.equal(again.hidden, hidden)
    assert torch.equal(again.partial, partial)
    assert (again.place, again.hidden.dtype, again.partial.dtype) == (3, dtype, torch.float32)
    assert again.partial.data_ptr() + again.partial.nbytes == memory.ctypes.data + memory.nbytes


def test_a_place_names_where_a_room_begins():
    assert [place_of(start) for start in (0, UNIT_BYTES, 5 * UNIT_BYTES)] == [1, 2, 6]
    assert [start_of(place) for place in (1, 2, 6)] == [0, UNIT_BYTES, 5 * UNIT_BYTES]
