import pytest
import torch

from expertmesh.kernels.step_ops import TORCH_STEP_OPS, Choices, rotate


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


def test_weights_are_the_softmax_over_the_chosen():
    logits = draw(50, 8)
    ids, weights = TORCH_STEP_OPS.choose_experts(logits, 2)
    chosen = logits.gather(1, ids)
    torch.testing.assert_close(weights, chosen.softmax(-1))
    assert torch.equal(chosen, logits.sort(descending=True).values[:, :2])
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int64


def test_low_precision_logits_are_weighed_in_float32():
    logits = draw(50, 8).bfloat16()
    found, expected = (TORCH_STEP_OPS.choose_experts(values, 2) for values in (logits, logits.float()))
    torch.testing.assert_close(found.weights, expected.weights)


def test_weights_may_be_probabilities_among_all_experts():
    logits = draw(50, 12).bfloat16()
    ids, weights = TORCH_STEP_OPS.choose_experts(logits, 5, is_renormalised=False)
    assert torch.equal(ids, TORCH_STEP_OPS.choose_experts(logits, 5).ids)
    torch.testing.assert_close(weights, logits.float().softmax(-1).gather(1, ids))


def test_one_chosen_expert_has_weight_1_and_all_may_be_chosen():
    logits = draw(50, 6)
    assert TORCH_STEP_OPS.choose_experts(logits, 1).weights.eq(1).all()
    ids, weights = TORCH_STEP_OPS.choose_experts(logits, 6)
    torch.testing.assert_close(weights, logits.softmax(-1).gather(1, ids))
    assert torch.equal(ids.sort().values, torch.arange(6).expand(50, 6))


def test_padding_chooses_nobody():
    logits, lengths = draw(4, 8), torch.tensor([3, 0, 1, 0])
    out = Choices(torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4, 2))
    assert TORCH_STEP_OPS.choose_experts(logits, 2, lengths, out) is out
    ids, weights = TORCH_STEP_OPS.choose_experts(logits, 2)
    assert torch.equal(out.ids[[0, 2]].long(), ids[[0, 2]])
    assert torch.equal(out.weights, weights)
    assert (out.ids[[1, 3]] == -1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_added_stays_added_and_the_norm_goes_out(dtype):
    hidden, delta, weight, out = draw(3, 16).to(dtype), draw(3, 16), draw(16).to(dtype), torch.empty(3, 16, dtype=dtype)
    expected = hidden + delta.to(dtype)
    normed = torch.nn.functional.rms_norm(expected.float(), (16,), eps=1e-5).to(dtype) * weight
    assert TORCH_STEP_OPS.add_and_normalise(hidden, delta, weight, 1e-5, out) is out
    assert torch.equal(hidden, expected)
    torch.testing.assert_close(out, normed)
    assert torch.equal(TORCH_STEP_OPS.add_and_normalise(hidden, None, weight, 1e-5), out)
    assert torch.equal(hidden, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [6, 24])
def test_heads_are_normalised_where_they_lie(dtype, width):
    joined, weight = draw(3, 60).to(dtype), draw(width).to(dtype)
    heads, rest = joined[:, 6:54].view(3, -1, width), (joined[:, :6].clone(), joined[:, 54:].clone())
    expected = torch.nn.functional.rms_norm(heads.float(), (width,), eps=1e-6).to(dtype) * weight
    TORCH_STEP_OPS.normalise_heads(heads, weight, 1e-6)
    torch.testing.assert_close(joined[:, 6:54].view_as(heads), expected)
    assert torch.equal(joined[:, :6], rest[0]) and torch.equal(joined[:, 54:], rest[1])


def test_turned_keys_and_values_are_in_their_slots_and_nowhere_else():
    joined, angles = draw(3, 4 + 2 * 2, 6), (draw(3, 1, 6).cos(), draw(3, 1, 6).sin())
    keys, values = torch.zeros(2, 20, 2, 6)
    slots = torch.tensor([19, 0, 6])
    query = TORCH_STEP_OPS.rotate_and_store(joined, angles, slots, keys, values)
    assert torch.equal(query, rotate(joined[:, :4], *angles))
    assert torch.equal(keys[slots], rotate(joined[:, 4:6], *angles))
    assert torch.equal(values[slots], joined[:, 6:])
    for stored in (keys, values):
        assert sorted(stored.flatten(1).any(-1).nonzero().flatten().tolist()) == [0, 6, 19]
