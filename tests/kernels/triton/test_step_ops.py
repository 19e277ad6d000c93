"""Operations between matrices in Triton: what their torch twins do, up to the order of a sum."""

import pytest
import torch
from step_cases import Heads, choose, choose_by_nan, normalise, normalise_heads, rotate

DTYPES = ("bfloat16", "float16")
NORMS = [
    (dtype, num_rows, width, delta)
    for dtype in DTYPES
    for num_rows, width, delta in ((1, 4096, "float32"), (3, 96, dtype), (5, 37, None), (0, 64, "float32"))
]
ROTATIONS = [
    (dtype, num_rows, heads)
    for dtype in DTYPES
    for num_rows, heads in (
        (1, Heads(4, 2, 128)),
        (5, Heads(8, 1, 64)),
        (3, Heads(2, 2, 80)),
        (2, Heads(3, 1, 24)),
        (0, Heads(2, 1, 64)),
    )
]
HEADS = [
    (dtype, num_rows, heads, is_whole)
    for dtype in DTYPES
    for num_rows, heads, is_whole in (
        (1, Heads(8, 2, 128), False),
        (5, Heads(2, 3, 24), False),
        (3, Heads(4, 4, 64), True),
        (2, Heads(3, 5, 10), True),
        (0, Heads(2, 1, 64), False),
    )
]
CHOICES = [
    (dtype, *case)
    for dtype in DTYPES
    for case in (
        (1, 8, 2, False, True),
        (7, 8, 2, True, True),
        (5, 5, 3, False, False),
        (4, 60, 4, True, False),
        (3, 128, 8, False, True),
        (3, 8, 1, False, True),
        (2, 16, 16, False, True),
        (3, 1, 1, False, True),
        (0, 8, 2, True, True),
    )
]


def assert_same(found: torch.Tensor, expected: torch.Tensor, num_roundings: int) -> None:
    """Equal, but that the interpreter cuts bfloat16 off where it should round, each time."""
    rtol = num_roundings * torch.finfo(found.dtype).eps if found.dtype is torch.bfloat16 else 0.0
    torch.testing.assert_close(found, expected, rtol=rtol, atol=4 * rtol)


def assert_normalised(results: list[torch.Tensor], dtype: str) -> None:
    hidden, out, expected_hidden, expected_out = results
    assert_same(hidden, expected_hidden, 2)
    # The sum of a row in another order may round the last bit the other way, once and again with the weight.
    rounding = torch.finfo(getattr(torch, dtype)).eps
    torch.testing.assert_close(out, expected_out, rtol=4 * rounding, atol=4 * rounding)


def assert_heads_normalised(results: list[torch.Tensor], dtype: str) -> None:
    # See assert_normalised.
    rounding = torch.finfo(getattr(torch, dtype)).eps
    torch.testing.assert_close(*results, rtol=4 * rounding, atol=4 * rounding)


def assert_chosen(results: list[torch.Tensor]) -> None:
    ids, weights, expected_ids, expected_weights = results
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-6, atol=0)


def assert_chosen_by_nan(ids: torch.Tensor, weights: torch.Tensor, num_experts: int) -> None:
    assert 0 <= ids.min() <= ids.max() < num_experts
    assert weights.isnan().all()


def assert_rotated(results: list[torch.Tensor]) -> None:
    for found, expected in zip(results[:3], results[3:], strict=True):
        assert_same(found, expected, 3)


@pytest.mark.parametrize("case", NORMS, ids=str)
def test_adding_and_normalising(case, interpreted):
    assert_normalised(interpreted(normalise, "cpu", *case), case[0])


@pytest.mark.parametrize("case", HEADS, ids=str)
def test_normalising_heads(case, interpreted):
    assert_heads_normalised(interpreted(normalise_heads, "cpu", *case), case[0])


@pytest.mark.parametrize("case", ROTATIONS, ids=str)
def test_turning_and_storing(case, interpreted):
    assert_rotated(interpreted(rotate, "cpu", *case))


@pytest.mark.parametrize("case", CHOICES, ids=str)
def test_choosing_experts(case, interpreted):
    assert_chosen(interpreted(choose, "cpu", *case))


def test_experts_chosen_by_what_is_no_number_exist_and_their_weights_tell(interpreted):
    assert_chosen_by_nan(*interpreted(choose_by_nan, "cpu", 5, 2), num_experts=5)


@pytest.mark.gpu
def test_experts_chosen_by_what_is_no_number_exist_on_a_gpu():
    assert_chosen_by_nan(*choose_by_nan("cuda", 5, 2), num_experts=5)


@pytest.mark.gpu
@pytest.mark.parametrize("case", NORMS, ids=str)
def test_adding_and_normalising_on_a_gpu(case):
    assert_normalised(normalise("cuda", *case), case[0])


@pytest.mark.gpu
@pytest.mark.parametrize("case", HEADS, ids=str)
def test_normalising_heads_on_a_gpu(case):
    assert_heads_normalised(normalise_heads("cuda", *case), case[0])


@pytest.mark.gpu
@pytest.mark.parametrize("case", ROTATIONS, ids=str)
def test_turning_and_storing_on_a_gpu(case):
    assert_rotated(rotate("cuda", *case))


@pytest.mark.gpu
@pytest.mark.parametrize("case", CHOICES, ids=str)
def test_choosing_experts_on_a_gpu(case):
    assert_chosen(choose("cuda", *case))
