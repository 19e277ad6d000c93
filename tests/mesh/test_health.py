import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertmesh.mesh.health import (
    MAX_CONSECUTIVE_ERRORS,
    MAX_EJECTION_SECONDS,
    MIN_EJECTION_SECONDS,
    Health,
    leave_out_ejected,
)

NOW = 1000.0


@dataclass(frozen=True)
class Replica:
    name: str
    health: Health


def fail(health: Health, now: float, times: int = MAX_CONSECUTIVE_ERRORS) -> Health:
    for _ in range(times):
        health = health.after_error(now, random.Random(0))
    return health


def test_errors_in_a_row_eject_and_a_success_between_them_forgives():
    almost = fail(Health(), NOW, MAX_CONSECUTIVE_ERRORS - 1)
    assert not almost.is_ejected(NOW)
    assert fail(almost, NOW, 1).is_ejected(NOW)
    assert not fail(almost.after_success(NOW), NOW, MAX_CONSECUTIVE_ERRORS - 1).is_ejected(NOW)


def test_each_ejection_is_longer_up_to_a_bound_and_ends():
    health, now, lengths = Health(), NOW, []
    for _ in range(9):
        health = fail(health, now)
        lengths.append(health.ejected_until - now)
        assert health.is_ejected(now) and not health.is_ejected(health.ejected_until)
        now = health.ejected_until
    for length, least in zip(lengths, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert least <= length <= 1.5 * least


@pytest.mark.parametrize("pause_seconds", [0.0, 2 * MAX_EJECTION_SECONDS])
def test_a_replica_that_never_answers_is_ejected_longer_each_time_however_long_its_errors_take(pause_seconds):
    health, now, lengths = fail(Health(), NOW), NOW, []
    for _ in range(4):
        now = health.ejected_until + pause_seconds
        health = fail(health, now, 1)
        lengths.append(health.ejected_until - now)
    assert all(least <= length <= 1.5 * least for length, least in zip(lengths, [2, 4, 8, 16], strict=True))


def test_only_a_long_time_without_errors_forgives_ejections():
    health = fail(Health(), NOW).after_success(NOW + 2)
    assert health.is_proven
    again = [fail(health, NOW + 2 + age).num_ejections for age in (1.0, MAX_EJECTION_SECONDS + 1)]
    assert again == [2, 1]
    assert not fail(health, NOW + 3, 1).is_proven


def test_a_grave_error_ejects_at_once():
    assert Health().after_error(NOW, random.Random(0), is_grave=True).is_ejected(NOW)


def test_errors_while_ejected_do_not_prolong():
    health = fail(Health(), NOW)
    assert fail(health, NOW + MIN_EJECTION_SECONDS / 2) == health


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_ejection_is_jittered(seed):
    health = Health(MAX_CONSECUTIVE_ERRORS - 1).after_error(NOW, random.Random(seed))
    assert MIN_EJECTION_SECONDS <= health.ejected_until - NOW <= 1.5 * MIN_EJECTION_SECONDS


@settings(deadline=None)
@given(st.lists(st.floats(0, 2 * NOW), min_size=1, max_size=6))
def test_ejected_replicas_are_left_out_but_never_the_last(ends):
    replicas = [Replica(str(index), Health(ejected_until=end)) for index, end in enumerate(ends)]
    kept = leave_out_ejected(replicas, NOW)
    healthy = [replica for replica in replicas if replica.health.ejected_until <= NOW]
    assert list(kept) == (healthy or replicas)
