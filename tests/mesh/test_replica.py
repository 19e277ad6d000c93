import numpy as np
import pytest
import torch
from in_process_link import InProcessLink, fail_with

from expertmesh.mesh.answers import ReplicaFaultError
from expertmesh.mesh.health import MAX_CONSECUTIVE_ERRORS
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.retry import PASSING
from expertmesh.mesh.roster import Roster
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode

CALL = ExpertCall(0, torch.zeros(2, 8), np.zeros((2, 1), np.int32), np.ones((2, 1), np.float32))


def answer(call: ExpertCall) -> ExpertResult:
    return ExpertResult(call.hidden, queue_seconds=0.25, compute_seconds=0.5)


class Pair:
    """Two replicas of expert 0 on a roster, the first with an answer of the test's."""

    def __init__(self, first) -> None:
        self.roster = Roster()
        self.links = [InProcessLink(first), InProcessLink(answer)]
        self.replicas = [Replica(name, self.roster.update) for name in ("a", "b")]
        self.roster.know(self.replicas)
        for replica, link in zip(self.replicas, self.links, strict=True):
            replica.connect(link, frozenset({0}))

    def fail_call(self) -> None:
        replica = self.replicas[0]
        with pytest.raises((CallFailure, LinkLostError, ReplicaFaultError)):
            replica.receive(replica.send(CALL), 1.0)


def test_an_answered_call_is_counted_with_its_times():
    replica = Pair(answer).replicas[0]
    ticket = replica.send(CALL)
    assert (replica.inflight_rows, ticket.num_bytes) == (2, CALL.num_bytes)
    assert torch.equal(replica.receive(ticket, 1.0).partial, CALL.hidden)
    [times] = replica.stats.recent
    assert (times.queue_seconds, times.compute_seconds) == (0.25, 0.5)
    assert (replica.inflight_rows, replica.stats.num_calls, replica.stats.num_failed_calls) == (0, 1, 0)


@pytest.mark.parametrize(
    "error",
    [CallFailure(FailureCode.DEADLINE_EXCEEDED, ""), ReplicaFaultError("nonsense")],
    ids=["deadline", "nonsense"],
)
def test_a_replica_that_fails_again_and_again_is_left_alone(error):
    pair = Pair(fail_with(error))
    for _ in range(MAX_CONSECUTIVE_ERRORS):
        assert list(pair.roster.ready(0)) == pair.replicas
        pair.fail_call()
    assert list(pair.roster.ready(0)) == pair.replicas[1:]
    assert pair.replicas[0].state is ReplicaState.EJECTED
    assert pair.replicas[0].started_at == pair.replicas[0].health.ejected_until


def test_answers_that_are_damaged_on_their_way_count_against_one():
    pair = Pair(fail_with(CallFailure(FailureCode.DAMAGED, "as told")))
    for _ in range(MAX_CONSECUTIVE_ERRORS):
        pair.fail_call()
    assert pair.replicas[0].state is ReplicaState.EJECTED


def test_the_last_replica_is_never_left_alone():
    pair = Pair(fail_with(ReplicaFaultError("nonsense")))
    pair.roster.know(pair.replicas[:1])
    for _ in range(MAX_CONSECUTIVE_ERRORS):
        pair.fail_call()
    assert list(pair.roster.ready(0)) == pair.replicas[:1]


@pytest.mark.parametrize("code", set(FailureCode) - {*PASSING} | {FailureCode.BUSY})
def test_what_another_replica_may_agree_with_does_not_count_against_one(code):
    pair = Pair(fail_with(CallFailure(code, "as told")))
    for _ in range(2 * MAX_CONSECUTIVE_ERRORS):
        pair.fail_call()
    assert list(pair.roster.ready(0)) == pair.replicas
    assert pair.replicas[0].stats.num_failed_calls == 2 * MAX_CONSECUTIVE_ERRORS


def test_a_success_forgives():
    pair = Pair(answer)
    replica = pair.replicas[0]
    for _ in range(2 * MAX_CONSECUTIVE_ERRORS):
        pair.links[0].answer = fail_with(ReplicaFaultError("nonsense"))
        pair.fail_call()
        pair.links[0].answer = answer
        replica.receive(replica.send(CALL), 1.0)
    assert not replica.health.num_ejections


def test_an_answer_may_still_come_after_its_time_and_who_gives_it_up_leaves_the_replica_alone():
    pair = Pair(fail_with(TimeoutError()))
    replica, link = pair.replicas[0], pair.links[0]
    ticket, other = replica.send(CALL), replica.send(CALL)
    with pytest.raises(TimeoutError):
        replica.receive(ticket, 0.0)
    assert (replica.inflight_rows, replica.state) == (4, ReplicaState.READY)
    link.answer = answer
    assert torch.equal(replica.receive(ticket, 0.0).partial, CALL.hidden)
    assert "a did not answer within 0." in str(replica.give_up(other))
    assert (replica.inflight_rows, replica.state, link.forgotten) == (0, ReplicaState.EJECTED, [1])
    assert list(pair.roster.ready(0)) == pair.replicas[1:]


@pytest.mark.parametrize(
    "partial",
    [torch.zeros(1, 8), torch.zeros(2, 1), torch.zeros(2, 8, dtype=torch.int32), torch.full((2, 8), torch.nan)],
    ids=["rows", "width", "dtype", "NaN"],
)
def test_what_cannot_be_an_answer_is_the_fault_of_who_gave_it(partial):
    replica = Pair(lambda call: ExpertResult(partial, 0.0, 0.0)).replicas[0]
    with pytest.raises(ReplicaFaultError, match="it answered with"):
        replica.receive(replica.send(CALL), 1.0)
    assert (replica.health.num_consecutive_errors, replica.inflight_rows) == (1, 0)


def test_a_replica_that_drains_gets_nothing_new_until_it_is_connected_again():
    pair = Pair(fail_with(CallFailure(FailureCode.DRAINING, "bye")))
    pair.fail_call()
    assert list(pair.roster.ready(0)) == pair.replicas[1:]
    assert not pair.replicas[0].is_ready
    pair.replicas[0].connect(InProcessLink(answer), frozenset({0}))
    assert list(pair.roster.ready(0)) == pair.replicas


def test_an_answer_of_an_old_link_says_nothing_of_the_new_one():
    pair = Pair(fail_with(CallFailure(FailureCode.DRAINING, "bye")))
    replica = pair.replicas[0]
    ticket = replica.send(CALL)
    replica.connect(InProcessLink(answer), frozenset({0}))
    with pytest.raises(CallFailure):
        replica.receive(ticket, 1.0)
    assert replica.is_ready


def test_a_lost_link_is_one_error_however_many_calls_were_under_way():
    pair = Pair(answer)
    replica = pair.replicas[0]
    tickets = [replica.send(CALL) for _ in range(2 * MAX_CONSECUTIVE_ERRORS)]
    pair.links[0].close()
    for ticket in tickets:
        with pytest.raises(LinkLostError):
            replica.receive(ticket, 1.0)
    assert (replica.health.num_consecutive_errors, replica.inflight_rows) == (1, 0)
    assert list(pair.roster.ready(0)) == pair.replicas[1:]
    with pytest.raises(LinkLostError, match="replica a takes no calls now"):
        replica.send(CALL)


def test_who_holds_a_replica_is_waited_for_and_nobody_holds_a_retired_one():
    replica = Pair(answer).replicas[0]
    assert replica.hold() and replica.is_held
    replica.retire()
    assert not replica.hold()
    replica.receive(replica.send(CALL), 1.0)
    replica.release()
    assert not replica.is_held
