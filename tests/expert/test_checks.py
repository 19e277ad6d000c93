from dataclasses import replace

import numpy as np
import pytest
import torch

from expertmesh.expert.checks import check_call
from expertmesh.wire.failures import CallFailure, FailureCode

INVALID = FailureCode.INVALID_REQUEST
CASES = {
    "layer": (dict(layer=3), INVALID, "layer 3 is out of range; this model has layers 0 to 2"),
    "width": (dict(hidden=torch.zeros(2, 15)), INVALID, r"hidden is \[2, 15\]; \[U, 16\]"),
    "flat": (dict(hidden=torch.zeros(16)), INVALID, r"hidden is \[16\]"),
    "no rows": (dict(hidden=torch.zeros(0, 16)), INVALID, r"hidden is \[0, 16\].*at least one row"),
    "too many rows": (dict(hidden=torch.zeros(9, 16)), INVALID, "9 rows; at most 8 fit"),
    "hidden dtype": (dict(hidden=torch.zeros(2, 16, dtype=torch.int32)), INVALID, r"hidden is torch\.int32; float32"),
    "ids shape": (dict(topk_ids=np.zeros((3, 2), np.int32)), INVALID, r"topk_ids are \[3, 2\]; \[2, A\]"),
    "no choices": (dict(topk_ids=np.zeros((2, 0), np.int32)), INVALID, r"topk_ids are \[2, 0\]"),
    "many choices": (
        dict(topk_ids=np.zeros((2, 9), np.int32)),
        INVALID,
        r"topk_ids are \[2, 9\]; .* at most 8 per row",
    ),
    "many wrong ids": (
        dict(topk_ids=np.arange(10, 18).reshape(2, 4), topk_weights=np.zeros((2, 4), np.float32)),
        INVALID,
        r"experts \[10, 11, 12, 13, 14, 15, 16, 17\]; 0 to 7",
    ),
    "weights shape": (dict(topk_weights=np.zeros((2, 3), np.float32)), INVALID, r"topk_weights are \[2, 3\]; \[2, 2\]"),
    "id too large": (dict(topk_ids=np.array([[0, 1], [8, 99]])), INVALID, r"experts \[8, 99\]; 0 to 7, or -1"),
    "id too small": (dict(topk_ids=np.array([[0, 1], [-2, 1]])), INVALID, r"experts \[-2\]"),
    "elsewhere": (
        dict(topk_ids=np.array([[0, 1], [5, -1]])),
        FailureCode.EXPERT_NOT_HOSTED,
        r"experts \[5\] are not here; experts \[0, 1, 3\] are",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_call_that_cannot_be_run_is_refused_with_the_numbers(mesh, name):
    change, code, words = CASES[name]
    store = mesh.make_store(experts=(0, 1, 3))
    call = replace(mesh.make_call(experts=(0, 1, 3)), **change)
    with pytest.raises(CallFailure, match=words) as refused:
        check_call(call, store, max_rows=8)
    assert refused.value.code == code


def test_a_right_call_passes(mesh):
    call = mesh.make_call(num_rows=8, layer=2, experts=(0, 1, 3), dtype=torch.bfloat16)
    call.topk_ids[1] = -1
    check_call(call, mesh.make_store(experts=(0, 1, 3)), max_rows=8)
