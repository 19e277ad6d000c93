"""Whether a call can be run here. Knows what a right call looks like, not how it came or what it computes.

Alphabet: U rows (tokens) in a call, A experts chosen per row, D hidden width.
"""

import torch

from expertmesh.expert.store import ExpertStore
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure, FailureCode, few

HIDDEN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_call(call: ExpertCall, store: ExpertStore, max_rows: int) -> None:
    """Raise CallFailure INVALID_REQUEST or EXPERT_NOT_HOSTED, with the numbers, for a call that cannot be run."""
    _check_hidden(call.hidden, store.hidden_size, max_rows)
    _check_choices(call, store.max_choices)
    _check_hosted(call, store)


def _check_hidden(hidden: torch.Tensor, hidden_size: int, max_rows: int) -> None:
    if hidden.dim() != 2 or hidden.shape[0] == 0 or hidden.shape[1] != hidden_size:
        raise _invalid(f"hidden is {list(hidden.shape)}; [U, {hidden_size}] with at least one row would be right")
    if hidden.shape[0] > max_rows:
        raise _invalid(f"hidden has {hidden.shape[0]} rows; at most {max_rows} fit in one call, send several")
    if hidden.dtype not in HIDDEN_DTYPES:
        raise _invalid(f"hidden is {hidden.dtype}; float32, float16 or bfloat16 would be right")


def _check_choices(call: ExpertCall, max_choices: int) -> None:
    ids, weights, num_rows = call.topk_ids, call.topk_weights, call.hidden.shape[0]
    if ids.ndim != 2 or ids.shape[0] != num_rows or ids.shape[1] == 0:
        raise _invalid(f"topk_ids are {list(ids.shape)}; [{num_rows}, A] with A at least 1 would be right")
    if ids.shape[1] > max_choices:
        raise _invalid(f"topk_ids are {list(ids.shape)}; the gate of this model chooses at most {max_choices} per row")
    if weights.shape != ids.shape:
        raise _invalid(f"topk_weights are {list(weights.shape)}; {list(ids.shape)} like topk_ids would be right")


def _check_hosted(call: ExpertCall, store: ExpertStore) -> None:
    if call.layer >= len(store.layers):
        raise _invalid(f"layer {call.layer} is out of range; this model has layers 0 to {len(store.layers) - 1}")
    elsewhere = set(call.topk_ids.ravel().tolist()).difference(store.experts, (-1,))
    wrong = sorted(expert for expert in elsewhere if not 0 <= expert < store.num_experts)
    if wrong:
        raise _invalid(f"topk_ids name experts {few(wrong)}; 0 to {store.num_experts - 1}, or -1, would be right")
    if elsewhere:
        raise CallFailure(
            FailureCode.EXPERT_NOT_HOSTED,
            f"experts {few(sorted(elsewhere))} are not here; experts {few(store.experts)} are",
        )


def _invalid(message: str) -> CallFailure:
    return CallFailure(FailureCode.INVALID_REQUEST, message)
