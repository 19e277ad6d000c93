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


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def make_batcher(*items, max_batch_rows=8, max_queue_rows=100):
    batcher = Batcher(max_batch_rows, max_queue_rows)
    for item in items:
        batcher.submit(item)
    return batcher


def test_the_oldest_goes_with_all_of_its_kind():
    batcher = make_batcher(Item("a"), Item("b", "layer 1"), Item("c"), Item("d", "layer 1"), Item("e"))
    assert names(batcher.take().jobs) == ["a", "c", "e"]
    assert names(batcher.take().jobs) == ["b", "d"]


def test_a_batch_is_filled_up_to_its_rows_and_keeps_the_order_of_the_rest():
    batcher = make_batcher(Item("a", num_rows=3), Item("b", num_rows=6), Item("c", num_rows=5), Item("d"))
    assert [names(batcher.take().jobs) for _ in range(2)] == [["a", "c"], ["b", "d"]]
    assert batcher.num_waiting_rows == 0


def test_an_item_larger_than_a_batch_goes_alone():
    batcher = make_batcher(Item("a", num_rows=9), Item("b"))
    assert [names(batcher.take().jobs) for _ in range(2)] == [["a"], ["b"]]


def test_a_full_queue_is_busy_with_numbers_and_has_room_again_after_a_take():
    batcher = make_batcher(Item("a", num_rows=60), max_queue_rows=64)
    with pytest.raises(CallFailure, match="60 rows wait already, 5 more would exceed the limit of 64") as full:
        batcher.submit(Item("b", num_rows=5))
    assert full.value.code == FailureCode.BUSY
    batcher.submit(Item("c", num_rows=4))
    assert batcher.num_waiting_rows == 64
    batcher.take()
    batcher.submit(Item("b", num_rows=5))
    assert batcher.num_waiting_rows == 9


def test_what_is_past_its_deadline_is_not_run():
    now = time.monotonic()
    batcher = make_batcher(Item("a", deadline=now - 1), Item("b", deadline=now + 60), Item("c", deadline=now))
    batch = batcher.take()
    assert (names(batch.jobs), names(batch.expired)) == (["b"], ["a", "c"])


def test_a_batch_of_nothing_but_expired_items_is_handed_out_too():
    batch = make_batcher(Item("a", deadline=0)).take()
    assert (batch.jobs, names(batch.expired)) == ([], ["a"])


def test_a_cancelled_item_leaves_and_frees_its_rows():
    item = Item("a", num_rows=60)
    batcher = make_batcher(item, Item("b"), max_queue_rows=64)
    assert batcher.cancel(item)
    assert not batcher.cancel(item)
    assert batcher.num_waiting_rows == 1
    assert names(batcher.take().jobs) == ["b"]


def test_draining_refuses_the_new_and_hands_out_the_old():
    batcher = make_batcher(Item("a"))
    batcher.drain()
    with pytest.raises(CallFailure) as refused:
        batcher.submit(Item("b"))
    assert refused.value.code == FailureCode.DRAINING
    batcher.close()
    assert names(batcher.take().jobs) == ["a"]
    assert batcher.take() is None


@pytest.mark.parametrize("is_item", [True, False])
def test_a_sleeping_taker_is_woken(is_item):
    batcher, taken = make_batcher(), []
    taker = threading.Thread(target=lambda: taken.append(batcher.take()))
    taker.start()
    time.sleep(0.05)
    assert taken == []
    if is_item:
        batcher.submit(Item("a"))
    else:
        batcher.close()
    taker.join(timeout=10)
    assert [batch and names(batch.jobs) for batch in taken] == [["a"] if is_item else None]


def test_it_is_idle_while_its_taker_sleeps():
    batcher = make_batcher()
    assert not batcher.is_idle
    taker = threading.Thread(target=batcher.take)
    taker.start()
    wait_until(lambda: batcher.is_idle)
    batcher.submit(Item("a"))
    assert not batcher.is_idle
    taker.join(timeout=10)
    assert not batcher.is_idle


def test_it_is_not_idle_while_it_drains():
    batcher = make_batcher()
    taker = threading.Thread(target=batcher.take)
    taker.start()
    wait_until(lambda: batcher.is_idle)
    batcher.drain()
    assert not batcher.is_idle
    batcher.close()
    taker.join(timeout=10)


def test_nothing_is_lost_between_many_submitters_and_a_taker():
    batcher, taken = make_batcher(max_queue_rows=10_000), []

    def take_all():
        while (batch := batcher.take()) is not None:
            taken.extend(names(batch.jobs))

    def submit(prefix):
        for number in range(300):
            batcher.submit(Item(f"{prefix}{number:03}", key=str(number % 3)))

    taker = threading.Thread(target=take_all)
    submitters = [threading.Thread(target=submit, args=(prefix,)) for prefix in "abcd"]
    for thread in (taker, *submitters):
        thread.start()
    for thread in submitters:
        thread.join()
    batcher.close()
    taker.join(timeout=10)
    assert sorted(taken) == sorted(f"{prefix}{number:03}" for prefix in "abcd" for number in range(300))
