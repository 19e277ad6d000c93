import random
from collections import Counter
from dataclasses import dataclass

from expertmesh.discovery.picker import pick_less_loaded


@dataclass(frozen=True)
class Replica:
    name: str
    inflight_rows: int


def test_the_only_replica_is_taken_however_busy():
    only = Replica("a", 1000)
    assert pick_less_loaded([only], random.Random(0)) is only


def test_of_two_the_less_busy_is_always_taken():
    idle, busy = Replica("idle", 1), Replica("busy", 2)
    rng = random.Random(0)
    assert {pick_less_loaded([idle, busy], rng) for _ in range(50)} == {idle}


def test_equally_busy_replicas_share_evenly_and_the_busiest_of_many_is_never_taken():
    replicas = [Replica(name, 0) for name in "abcd"] + [Replica("busy", 9)]
    rng = random.Random(0)
    picks = Counter(pick_less_loaded(replicas, rng).name for _ in range(4000))
    assert picks["busy"] == 0
    assert all(abs(picks[name] - 1000) < 120 for name in "abcd")
