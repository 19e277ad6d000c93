from itertools import islice

import pytest

from expertmesh.errors import ComputeError
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.retry import MAX_RETRY_SECONDS, RETRYABLE, check_retryable, retry_pauses
from expertmesh.wire.failures import CallFailure, FailureCode


def test_pauses_grow_to_a_second():
    pauses = list(islice(retry_pauses(), 20))
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.08]
    assert pauses[-1] == MAX_RETRY_SECONDS == max(pauses)


@pytest.mark.parametrize("code", FailureCode)
def test_only_failures_that_pass_by_themselves_are_returned(code: FailureCode):
    failure = CallFailure(code, "as told")
    if code in RETRYABLE:
        assert check_retryable(failure, 3, "host:1") is failure
    else:
        with pytest.raises(ComputeError, match="layer 3 on host:1"):
            check_retryable(failure, 3, "host:1")


def test_a_lost_connection_passes():
    lost = LinkLostError("gone")
    assert check_retryable(lost, 0, "host:1") is lost
