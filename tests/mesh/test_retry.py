from itertools import islice

import pytest

from expertmesh.mesh.answers import ReplicaFaultError
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.retry import MAX_RETRY_SECONDS, is_passing, retry_pauses
from expertmesh.wire.failures import CallFailure, FailureCode


def test_pauses_grow_to_a_second():
    pauses = list(islice(retry_pauses(), 20))
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.08]
    assert pauses[-1] == MAX_RETRY_SECONDS == max(pauses)


@pytest.mark.parametrize("code", FailureCode)
def test_what_has_nothing_to_do_with_the_call_passes(code: FailureCode):
    passing = {FailureCode.BUSY, FailureCode.DRAINING, FailureCode.DEADLINE_EXCEEDED, FailureCode.DAMAGED}
    assert is_passing(CallFailure(code, "as told")) is (code in passing)


def test_a_lost_connection_passes_and_a_wrong_answer_does_not():
    assert is_passing(LinkLostError("gone"))
    assert not is_passing(ReplicaFaultError("it answered with nonsense"))
