import pytest
import torch
from faults.liar import LIES
from link_server import make_call

from expertmesh.mesh.answers import ReplicaFaultError, check_answer
from expertmesh.wire.calls import ExpertResult


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_one(lie):
    call = make_call(3)
    truth = torch.ones(call.hidden.shape)
    check_answer(call, ExpertResult(truth, 0, 0))
    with pytest.raises(ReplicaFaultError):
        check_answer(call, ExpertResult(lie(truth), 0, 0))
