import threading

import pytest
import torch

from expertmesh.checkpoint.read_ahead import Slot, read_ahead


def test_the_next_one_is_read_while_one_is_in_use():
    started = [threading.Event() for _ in range(4)]

    def read(number: int, turn: int) -> tuple[int, int]:
        started[number].set()
        return number, turn

    found = []
    for number, result in read_ahead(read, range(4)):
        assert all(event.wait(10) for event in started[: number + 2])
        # Its slot is still in use.
        assert not any(event.is_set() for event in started[number + 2 :])
        found.append((number, result))
    assert found == [(number, (number, number % 2)) for number in range(4)]


def test_an_error_comes_after_all_that_was_read_before_it():
    def read(number: int, turn: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = []
    with pytest.raises(ValueError, match="two"):
        for number, _ in read_ahead(read, range(4)):
            found.append(number)
    assert found == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_nothing_is_nothing():
    assert not list(read_ahead(lambda number, turn: number, []))


def test_a_slot_gives_the_same_memory_again_and_grows_when_it_must():
    slot = Slot(torch.device("cpu"))
    one, other = slot.room("one")(100), slot.room("other")(100)
    assert one.data_ptr() != other.data_ptr()
    again = slot.room("one")(60)
    assert (again.data_ptr(), again.shape) == (one.data_ptr(), (60,))
    assert slot.room("one")(1000).shape == (1000,)
