from collections import Counter

import pytest

from expertmesh.engine.fair_queue import FairQueue
from expertmesh.engine.request import Caller, Request, Sequence
from expertmesh.model.sampling import SamplingParams


def sequence(caller: str) -> Sequence:
    return Sequence(Request((1,), SamplingParams(), caller=Caller(caller)), max_tokens=1, seed=0)


def take_all(queue: FairQueue, **num_running: int) -> list[Sequence]:
    """Take who stands first, until nobody does."""
    running, taken = Counter({Caller(name): number for name, number in num_running.items()}), []
    while queue:
        taken.append(queue.first(running))
        queue.take(taken[-1])
        running[taken[-1].request.caller] += 1
    return taken


def test_one_caller_is_served_in_order_of_arrival():
    queue, waiting = FairQueue(), [sequence("a") for _ in range(5)]
    for one in waiting:
        queue.append(one)
    assert len(queue) == 5
    assert take_all(queue) == waiting
    assert len(queue) == 0


def test_callers_with_as_many_running_take_turns():
    queue = FairQueue()
    for name in "aaabbc":
        queue.append(sequence(name))
    assert [one.request.caller.id for one in take_all(queue)] == [*"abcaba"]


def test_whoever_has_the_fewest_running_comes_first():
    queue = FairQueue()
    for name in "aabbcc":
        queue.append(sequence(name))
    assert [one.request.caller.id for one in take_all(queue, a=3, b=1)] == [*"cbcbaa"]


def test_who_is_put_back_comes_before_the_others_of_its_caller():
    queue, waiting = FairQueue(), [sequence("a") for _ in range(3)]
    for one in waiting[:2]:
        queue.append(one)
    queue.put_back(waiting[2])
    assert take_all(queue) == [waiting[2], *waiting[:2]]


def test_who_leaves_is_forgotten_with_its_caller():
    queue, mine, other = FairQueue(), [sequence("a"), sequence("a")], sequence("b")
    for one in (*mine, other):
        queue.append(one)
    queue.remove(mine[0])
    assert queue.lengths() == {Caller("a"): 1, Caller("b"): 1}
    queue.remove(mine[1])
    assert [*queue] == [Caller("b")]
    assert queue.length(Caller("a")) == 0
    with pytest.raises(ValueError, match="not in deque"):
        queue.remove(mine[0])
