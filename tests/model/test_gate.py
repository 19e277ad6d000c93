import torch

from expertmesh.model.gate import choose_experts


def test_weights_are_the_softmax_over_the_chosen():
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    ids, weights = choose_experts(logits, 2)
    chosen = logits.gather(1, ids)
    torch.testing.assert_close(weights, chosen.softmax(-1))
    assert torch.equal(chosen, logits.sort(descending=True).values[:, :2])
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int64


def test_low_precision_logits_are_weighed_in_float32():
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(choose_experts(logits, 2)[1], choose_experts(logits.float(), 2)[1])
