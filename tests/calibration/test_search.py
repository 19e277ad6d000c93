import pytest
import torch

from expertmesh.calibration.search import (
    BLOCK_OUTPUTS,
    NUM_CANDIDATES,
    best_scales,
    candidate_scales,
    output_errors,
    round_scaled,
    storable_scales,
)
from expertmesh.kernels.quantize import dequantize, round_to_nearest


def random_rows(num_rows: int = 50, width: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, width, generator=generator) * torch.linspace(0.1, 9, width)


def rounding(name: str, matrix: torch.Tensor):
    return round_to_nearest(matrix, 3, 32)


def test_the_first_candidate_changes_nothing_and_the_others_grow_with_magnitude():
    rows = random_rows()
    candidates = candidate_scales("a", rows)
    assert candidates.shape == (NUM_CANDIDATES, 64)
    assert candidates[0].equal(torch.ones(64))
    ratio = (candidates[-1].log() - candidates[-1].log()[0]) / (rows.abs().mean(0) / rows[:, 0].abs().mean()).log()
    torch.testing.assert_close(ratio[1:], torch.full((63,), 0.95))
    torch.testing.assert_close(candidates.amax(1) * candidates.amin(1), torch.ones(NUM_CANDIDATES))


@pytest.mark.parametrize("num_dead", [1, 64])
def test_channels_that_are_never_used_keep_scales_finite(num_dead):
    rows = random_rows()
    rows[:, :num_dead] = 0
    candidates = candidate_scales("a", rows)
    assert candidates.isfinite().all()
    assert (candidates > 0).all()
    assert num_dead < 64 or candidates.sub(1).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_norm_divided_by_storable_scales_survives_its_dtype(dtype):
    norm = (1 + 0.3 * torch.randn(64, generator=torch.Generator().manual_seed(1))).to(dtype)
    norm[5] = 0
    wanted = candidate_scales("a", random_rows())
    scales = storable_scales(wanted, norm)
    assert scales[0].equal(torch.ones(64))
    torch.testing.assert_close(scales, wanted, rtol=0.01, atol=0)
    divided = norm.float() / scales
    torch.testing.assert_close(divided.to(dtype).float(), divided, rtol=1e-6, atol=0)


def test_errors_are_those_of_the_outputs():
    rows = random_rows()
    matrices = {"a": random_rows(8, 64, 1), "b": random_rows(16, 64, 2)}
    candidates = candidate_scales("a", rows)
    errors = output_errors(matrices, rows, candidates, rounding)
    for index in (0, 7, 19):
        expected = torch.cat([rows @ matrix.T for matrix in matrices.values()], dim=1)
        scaled = rows / candidates[index]
        outputs = [scaled @ dequantize(rounding(name, m * candidates[index])).T for name, m in matrices.items()]
        torch.testing.assert_close(
            errors[index], (torch.cat(outputs, dim=1) - expected).square().sum(), rtol=1e-3, atol=0
        )


def test_without_scales_rounding_is_plain():
    matrix = random_rows(BLOCK_OUTPUTS + 44)
    assert round_scaled("a", matrix, torch.ones(64), rounding).equal(dequantize(rounding("a", matrix)))


def test_the_first_of_equal_errors_wins():
    candidates = candidate_scales("a", random_rows())
    assert best_scales(candidates, torch.tensor([3.0, 1.0, 1.0, 2.0])).equal(candidates[1])
