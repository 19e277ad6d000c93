"""The gate: which experts a token goes to, and with what weight."""

import torch


def choose_experts(logits: torch.Tensor, num_chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose ``num_chosen`` experts per row of ``logits`` [T, E].

    Returns ``topk_ids`` [T, A] int64 and ``topk_weights`` [T, A] float32, the softmax in float32 over all experts
    renormalised over the chosen ones.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)  # [T, E]
    topk_weights, topk_ids = torch.topk(probabilities, num_chosen, dim=-1)  # [T, A]
    return topk_ids, topk_weights / topk_weights.sum(dim=-1, keepdim=True)
