import math
import threading
import time
from dataclasses import dataclass

import pytest

from expertmesh.expert.batcher import Batcher
from expertmesh.wire.failures import CallFailure, FailureCode


@dataclass(eq=False)
class Item:
    name: str
    key: str = "layer 0"
    num_rows: int = 1
    deadline: float = math.inf


def names(items):
    return [item.name for item in items]


def make_batcher(*items, max_batch_rows=8, max_queue_rows=100):
    """A batcher whose turn is taken and in which ``items`` wait."""
    batcher = Batcher(max_batch_rows, max_queue_rows)
    assert names(batcher.submit(Item("first")).jobs) == ["first"]
    for item in items:
        assert batcher.submit(item) is None
    return batcher


def test_who_comes_first_has_the_turn_at_once():
    batcher = Batcher(8, 100)
    assert batcher.is_idle
    item = Item("a")
    batch = batcher.submit(item)
    assert (batch.jobs, batch.expired, batch.first) == ([item], [], item)
    assert not batcher.is_idle
    assert batcher.num_waiting_rows == 0
    assert batcher.submit(Item("b")) is None
    assert batcher.release().first.name == "b"
    assert batcher.release() is None
    assert batcher.is_idle


def test_the_oldest_goes_with_all_of_its_kind():
    batcher = make_batcher(Item("a"), Item("b", "layer 1"), Item("c"), Item("d", "layer 1"), Item("e"))
    assert names(batcher.release().jobs) == ["a", "c", "e"]
    assert names(batcher.release().jobs) == ["b", "d"]


def test_a_batch_is_filled_up_to_its_rows_and_keeps_the_order_of_the_rest():
    batcher = make_batcher(Item("a", num_rows=3), Item("b", num_rows=6), Item("c", num_rows=5), Item("d"))
    assert [names(batcher.release().jobs) for _ in range(2)] == [["a", "c"], ["b", "d"]]
    assert batcher.num_waiting_rows == 0


def test_an_item_larger_than_a_batch_goes_alone():
    batcher = make_batcher(Item("a", num_rows=9), Item("b"))
    assert [names(batcher.release().jobs) for _ in range(2)] == [["a"], ["b"]]


def test_a_full_queue_is_busy_with_numbers_and_has_room_again_after_a_take():
    batcher = make_batcher(Item("a", num_rows=60), max_queue_rows=64)
    with pytest.raises(CallFailure, match="60 rows wait already, 5 more would exceed the limit of 64") as full:
        batcher.submit(Item("b", num_rows=5))
    assert full.value.code == FailureCode.BUSY
    batcher.submit(Item("c", num_rows=4))
    assert batcher.num_waiting_rows == 64
    batcher.release()
    batcher.submit(Item("b", num_rows=5))
    assert batcher.num_waiting_rows == 9


def test_what_is_past_its_deadline_is_not_run():
    now = time.monotonic()
    batcher = make_batcher(Item("a", deadline=now - 1), Item("b", deadline=now + 60), Item("c", deadline=now))
    batch = batcher.release()
    assert (names(batch.jobs), names(batch.expired)) == (["b"], ["a", "c"])


def test_a_batch_of_nothing_but_expired_items_is_handed_out_too():
    batch = make_batcher(Item("a", deadline=0)).release()
    assert (batch.jobs, names(batch.expired), batch.first.name) == ([], ["a"], "a")


def test_what_is_past_its_deadline_is_not_run_on_a_turn_at_once_either():
    batch = Batcher(8, 100).submit(Item("a", deadline=0))
    assert (batch.jobs, names(batch.expired)) == ([], ["a"])


def test_a_cancelled_item_leaves_and_frees_its_rows():
    item = Item("a", num_rows=60)
    batcher = make_batcher(item, Item("b"), max_queue_rows=64)
    assert batcher.cancel(item)
    assert not batcher.cancel(item)
    assert batcher.num_waiting_rows == 1
    assert names(batcher.release().jobs) == ["b"]


def test_draining_refuses_the_new_and_hands_out_the_old():
    batcher = make_batcher(Item("a"))
    batcher.drain()
    with pytest.raises(CallFailure) as refused:
        batcher.submit(Item("b"))
    assert refused.value.code == FailureCode.DRAINING
    assert names(batcher.release().jobs) == ["a"]
    assert batcher.release() is None


def test_nothing_is_lost_between_many_threads_and_one_has_the_turn():
    batcher, taken, running = Batcher(8, 10_000), [], threading.Lock()

    def submit(prefix):
        for number in range(300):
            batch = batcher.submit(Item(f"{prefix}{number:03}", key=str(number % 3)))
            while batch is not None:
                assert running.acquire(blocking=False)
                taken.extend(names(batch.jobs))
                running.release()
                batch = batcher.release()

    submitters = [threading.Thread(target=submit, args=(prefix,)) for prefix in "abcd"]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join()
    assert batcher.is_idle
    assert sorted(taken) == sorted(f"{prefix}{number:03}" for prefix in "abcd" for number in range(300))
