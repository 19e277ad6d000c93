import pytest
import torch

from expertmesh.errors import ComputeError
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights
from expertmesh.model.experts import LayerCall, LocalExperts, run_experts

WIDTH = 8


def experts(num_experts: int) -> list[ExpertWeights]:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(num_experts, 3, WIDTH, WIDTH, generator=generator)
    return [ExpertWeights(*(DenseWeight(matrix) for matrix in expert)) for expert in matrices]


def run(weights: list[ExpertWeights], topk_ids: torch.Tensor) -> torch.Tensor:
    layer = ReferenceBackend(torch.device("cpu")).experts(weights)
    hidden = torch.ones(len(topk_ids), WIDTH)
    local = LocalExperts([layer, layer], len(weights))
    return run_experts(local, LayerCall(1, hidden, topk_ids, torch.full(topk_ids.shape, 0.5)))


def test_values_that_are_not_finite_name_layer_and_experts():
    weights = experts(4)
    weights[2].w_down.data[0, 0] = torch.nan
    with pytest.raises(ComputeError, match=r"layer 1, experts \[1, 2\]"):
        run(weights, torch.tensor([[0, 3], [1, 2]]))
    assert run(weights, torch.tensor([[0, 3], [1, 3]])).isfinite().all()
