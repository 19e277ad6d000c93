import pytest
import torch
from torch.nn.functional import silu

from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights

BACKEND = ReferenceBackend(torch.device("cpu"))


def random_matrices(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) / 4 for shape in ((12, 8), (12, 8), (8, 12))]


def expert_of(matrices: list[torch.Tensor]) -> ExpertWeights:
    return ExpertWeights(*(DenseWeight(matrix) for matrix in matrices))


def swiglu(x: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    gate, up, down = matrices
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


def test_each_expert_runs_on_its_own_rows_and_weighs_them():
    matrices = [random_matrices(seed) for seed in range(3)]
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(9))
    row_weights = torch.tensor([0.5, 1.0, 0.25, 2.0, 0.0])
    found = BACKEND.experts([expert_of(m) for m in matrices])(x, [3, 0, 2], row_weights)
    expected = torch.cat((swiglu(x[:3], matrices[0]), swiglu(x[3:], matrices[2]))) * row_weights[:, None]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("num_rows", [[1, 1], [3, 1]])
def test_counts_that_do_not_add_up_to_the_rows_are_refused(num_rows):
    experts = BACKEND.experts([expert_of(random_matrices(seed)) for seed in range(2)])
    with pytest.raises(ValueError, match="there are 3 rows"):
        experts(torch.ones(3, 8), num_rows, torch.ones(3))


def test_gate_and_up_of_different_storage_stay_apart():
    gate, up, down = random_matrices(0)
    quantized = round_to_nearest(up, 4, 8)
    mixed = ExpertWeights(DenseWeight(gate), quantized, DenseWeight(down))
    plain = ExpertWeights(DenseWeight(gate), DenseWeight(BACKEND.linear(quantized)(torch.eye(8)).T), DenseWeight(down))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    args = (x, [3], torch.ones(3))
    torch.testing.assert_close(BACKEND.experts([mixed])(*args), BACKEND.experts([plain])(*args))


def test_as_many_counts_as_experts_are_wanted():
    with pytest.raises(ValueError, match="argument"):
        BACKEND.experts([expert_of(random_matrices(0))])(torch.ones(1, 8), [1, 0], torch.ones(1))
