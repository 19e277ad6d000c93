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


def choose_only_expert(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Send every row of ``rows`` [T, D] to expert 0 with weight 1; returns what ``choose_experts`` would, A = 1."""
    shape = (len(rows), 1)
    return torch.zeros(shape, dtype=torch.int64, device=rows.device), torch.ones(shape, device=rows.device)
