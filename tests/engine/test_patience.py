import numpy as np
import pytest
import torch

from expertmesh.engine.patience import PatientExperts, StarvedError
from expertmesh.engine.request import Request, Sequence
from expertmesh.engine.scheduler import Chunk
from expertmesh.model.experts import LayerCall
from expertmesh.model.no_replica import UNSAID, NoReplica
from expertmesh.model.patience import NoReplicaError
from expertmesh.model.sampling import SamplingParams

CALL = LayerCall(0, torch.zeros(6, 4), torch.zeros(6, 1, dtype=torch.int64), torch.ones(6, 1))


def chunk(num_tokens, policy):
    request = Request(tuple(range(num_tokens)), SamplingParams(seed=0), no_replica=policy)
    return Chunk(Sequence(request, 1, 0), num_tokens)


CHUNKS = [chunk(3, "fail"), chunk(1, ""), chunk(2, "drop")]


class Asked:
    """Experts that keep what they are asked, and do as the test says."""

    def __init__(self, act=lambda call: None):
        self.act = act

    def begin(self, call):
        self.call = call
        self.act(call)
        return self

    def finish(self):
        return self.call.hidden

    def abandon(self):
        pass


def test_each_row_wants_what_its_request_does():
    asked = Asked()
    PatientExperts(asked, CHUNKS).begin(CALL)
    patience = asked.call.patience
    assert patience.policies.tolist() == [NoReplica.FAIL] * 3 + [UNSAID] + [NoReplica.DROP] * 2
    assert patience.since.tolist() == [
        owner.sequence.moved_at for owner in [CHUNKS[0]] * 3 + [CHUNKS[1]] + [CHUNKS[2]] * 2
    ]


def test_rows_that_fail_are_told_as_their_chunks():
    def fail(call):
        raise NoReplicaError("gone", [1, 2, 5])

    with pytest.raises(StarvedError, match="gone") as starved:
        PatientExperts(Asked(fail), CHUNKS).begin(CALL)
    assert starved.value.chunks == (CHUNKS[0], CHUNKS[2])


def test_what_is_dropped_is_counted_by_chunk():
    def drop(call):
        call.patience.dropped.append((7, np.array([3, 4, 5])))

    experts = PatientExperts(Asked(drop), CHUNKS)
    for _ in range(2):
        experts.begin(CALL).finish()
    assert experts.dropped() == [{}, {7: 2}, {7: 4}]
