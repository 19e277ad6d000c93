import time

import numpy as np
import pytest
import torch

from expertmesh.mesh.roster import Roster
from expertmesh.mesh.shortage import Shortage
from expertmesh.model.no_replica import UNSAID, NoReplica
from expertmesh.model.patience import NoReplicaError, Patience
from expertmesh.wire.calls import ExpertCall

IDS = np.array([[0, 1], [2, 3], [1, 2]], np.int32)
WEIGHTS = np.array([[0.75, 0.25], [0.5, 0.25], [0.125, 0.875]], np.float32)


class Waited(Roster):
    """Has no replica, and notes how long it was waited for one."""

    def __init__(self, missing_since=0.0):
        super().__init__()
        self.seconds = []
        self.missing = missing_since

    def missing_since(self, expert):
        return self.missing

    def wait_for(self, expert, seconds):
        self.seconds.append(seconds)
        return ()


def make(*policies, since=0.0, roster=None, wait_seconds=8.0, default=NoReplica.WAIT, first=0):
    """What the three rows want, which are those from number ``first`` on in their step."""
    padding = [NoReplica.WAIT] * first
    patience = Patience(np.array([*padding, *policies], np.int8), np.full(first + 3, since))
    rows = ExpertCall(0, torch.ones(3, 4), IDS, WEIGHTS)
    return Shortage(roster or Waited(), wait_seconds, default, rows, range(first, first + 3), patience), patience


DROP, FAIL, WAIT = NoReplica.DROP, NoReplica.FAIL, NoReplica.WAIT


def test_rows_that_fail_do_so_at_once_and_are_named():
    shortage, _ = make(FAIL, WAIT, DROP, roster=(roster := Waited()), first=5)
    with pytest.raises(NoReplicaError, match="no replica hosts expert 1") as missing:
        shortage.wait_for(1)
    assert (missing.value.rows, roster.seconds) == ((5,), [])


def test_what_does_not_say_is_as_the_gateway_is_set():
    shortage, _ = make(UNSAID, UNSAID, WAIT, default=FAIL)
    with pytest.raises(NoReplicaError) as missing:
        shortage.wait_for(2)
    assert missing.value.rows == (1,)


def test_an_expert_that_only_dropping_rows_chose_is_dropped():
    shortage, _ = make(WAIT, DROP, WAIT, roster=(roster := Waited()))
    assert shortage.wait_for(3) == ()
    assert (shortage.dropped, roster.seconds) == ({3}, [])


def test_a_row_that_waits_makes_those_wait_that_would_drop():
    shortage, _ = make(DROP, DROP, WAIT, roster=(roster := Waited(time.monotonic())))
    with pytest.raises(NoReplicaError, match="waited 8 s") as missing:
        shortage.wait_for(2)
    assert missing.value.rows == (2,)
    assert 0 < roster.seconds[0] <= 8


@pytest.mark.parametrize(("since", "missing"), [(-3, -50), (-50, -3)])
def test_the_wait_begins_with_the_request_or_the_lack_whichever_is_later(since, missing):
    now = time.monotonic()
    shortage, _ = make(WAIT, WAIT, WAIT, since=now + since, roster=(roster := Waited(now + missing)))
    with pytest.raises(NoReplicaError):
        shortage.wait_for(0)
    assert 0 <= roster.seconds[0] <= 5


def test_a_request_that_has_waited_long_enough_behind_another_waits_no_more():
    past = time.monotonic() - 20
    shortage, _ = make(WAIT, WAIT, WAIT, since=past, roster=(roster := Waited(past)))
    with pytest.raises(NoReplicaError) as missing:
        shortage.wait_for(1)
    assert (missing.value.rows, roster.seconds) == ((0, 2), [0.0])


def test_who_waits_for_long_is_heard_again_meanwhile():
    now = time.monotonic()
    patience = Patience(np.array([WAIT] * 3, np.int8), np.full(3, now), look_seconds=0.5)
    rows, roster = ExpertCall(0, torch.ones(3, 4), IDS, WEIGHTS), Waited(now)
    with pytest.raises(NoReplicaError) as missing:
        Shortage(roster, 3600.0, WAIT, rows, range(3), patience).wait_for(1)
    assert (missing.value.rows, roster.seconds) == ((), [0.5])


def test_weights_of_the_rest_are_scaled_to_what_all_added_up_to():
    shortage, patience = make(DROP, DROP, DROP, first=2)
    shortage.wait_for(1)
    total = torch.ones(3, 4)
    scaled = shortage.conclude(total)
    assert scaled[:, 0].tolist() == pytest.approx([1 / 0.75, 1.0, 1 / 0.875])
    [(expert, rows)] = patience.dropped
    assert (expert, rows.tolist()) == (1, [2, 4])
    out = torch.empty(3, 4)
    assert shortage.conclude(total, out) is out
    assert torch.equal(out, scaled)


def test_a_row_without_any_expert_left_fails():
    shortage, _ = make(DROP, DROP, DROP)
    shortage.wait_for(2)
    with pytest.raises(NoReplicaError, match=r"experts \[2, 3\], and rows chose no other") as missing:
        shortage.wait_for(3)
    assert missing.value.rows == (1,)


def test_experts_that_do_not_answer_are_dropped_or_end_those_who_insist():
    shortage, _ = make(DROP, FAIL, DROP)
    shortage.give_up([0], "too late")
    assert shortage.dropped == {0}
    with pytest.raises(NoReplicaError, match="too late") as missing:
        shortage.give_up([3], "too late")
    assert missing.value.rows == (1,)
