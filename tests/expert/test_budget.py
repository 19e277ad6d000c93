import pytest
import torch

from expertmesh.expert.budget import CallBudget, held_bytes, row_bytes
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure, FailureCode


def test_bytes_are_held_until_they_are_given_back():
    budget = CallBudget(100)
    budget.take(60)
    with pytest.raises(CallFailure, match="60 bytes are here already, 41 more would exceed the limit of 100") as busy:
        budget.take(41)
    assert busy.value.code is FailureCode.BUSY
    budget.take(40)
    budget.give_back(60)
    assert budget.num_held == 40
    budget.take(60)


def test_what_never_fits_is_the_callers_fault():
    with pytest.raises(CallFailure, match="101 bytes; at most 100") as refused:
        CallBudget(100).take(101)
    assert refused.value.code is FailureCode.INVALID_REQUEST


def test_the_widest_row_takes_what_is_set_aside_for_one(mesh):
    call: ExpertCall = mesh.make_call(num_rows=5, dtype=torch.float32)
    num_bytes = CallBudget(10**6).take_call(call)
    assert num_bytes == held_bytes(call.num_bytes, (5, 16)) == 5 * row_bytes(16, 2)
