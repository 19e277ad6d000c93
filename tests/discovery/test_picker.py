import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertmesh.discovery.picker import SLOW_START_SECONDS, pick_replica

NOW = 1000.0


@dataclass(frozen=True)
class Replica:
    name: str
    inflight_rows: int = 0
    started_at: float = 0.0
    seconds: float | None = None

    def expected_seconds(self, num_rows: int) -> float | None:
        return self.seconds and self.seconds * num_rows


def count_picks(replicas: list[Replica], now: float = NOW, num_picks: int = 4000) -> Counter[str]:
    rng = random.Random(0)
    return Counter(pick_replica(replicas, 1, now, rng).name for _ in range(num_picks))


def test_the_only_replica_is_taken_however_busy_and_new():
    only = Replica("a", 1000, NOW)
    assert pick_replica([only], 1, NOW, random.Random(0)) is only


def test_of_two_the_less_busy_is_always_taken():
    assert count_picks([Replica("idle", 1), Replica("busy", 2)]) == {"idle": 4000}


def test_equally_busy_replicas_share_evenly_and_the_busiest_of_many_is_never_taken():
    picks = count_picks([Replica(name) for name in "abcd"] + [Replica("busy", 9)])
    assert picks["busy"] == 0
    assert all(abs(picks[name] - 1000) < 120 for name in "abcd")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 2 * NOW)), min_size=1, max_size=6), st.integers())
def test_any_replicas_give_one_of_them(states, seed):
    replicas = [Replica(str(index), *state) for index, state in enumerate(states)]
    assert pick_replica(replicas, 1, NOW, random.Random(seed)) in replicas


@pytest.mark.parametrize(("age_seconds", "share"), [(0.0, 0.1), (1.0, 0.1), (5.0, 0.5), (10.0, 1.0), (-3.0, 0.1)])
def test_a_new_replica_gets_its_share_and_no_more_although_it_is_idle(age_seconds, share):
    picks = count_picks([Replica("proven", 5), Replica("new", 0, NOW - age_seconds)])
    assert picks["new"] == pytest.approx(4000 * share, abs=120)


def test_replicas_that_start_together_share_evenly():
    picks = count_picks([Replica(name, 0, NOW - 0.01 * index) for index, name in enumerate("abcd")])
    assert all(abs(picks[name] - 1000) < 120 for name in "abcd")


def test_slow_start_ends():
    assert count_picks([Replica("proven", 1), Replica("new", 0, NOW - SLOW_START_SECONDS)]) == {"new": 4000}


@pytest.mark.parametrize(("seconds", "share"), [(0.9, 1), (1.1, 1), (2.0, 1), (4.0, 1 / 4), (10.0, 1 / 25)])
def test_the_slower_of_two_gets_less_unless_it_could_be_chance(seconds, share):
    picks = count_picks([Replica("slow", 0, 0.0, seconds), Replica("fast", 1, 0.0, 1.0)])
    assert picks["slow"] == pytest.approx(4000 * share, abs=120)


def test_the_slowest_is_looked_at_now_and_then():
    picks = count_picks([Replica("slow", 0, 0.0, 100.0), Replica("fast", 0, 0.0, 0.001)])
    assert 1 <= picks["slow"] <= 40


def test_one_that_has_not_answered_yet_is_not_slow():
    assert count_picks([Replica("new", 0), Replica("fast", 1, 0.0, 0.001)]) == {"new": 4000}
