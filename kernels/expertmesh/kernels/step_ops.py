"""The small operations between the matrices of a layer, in torch: specification, fallback and oracle of any others.

Each row's result is the same whatever stands beside it. Alphabet: T rows, D hidden width, H query heads, G key-value
heads, d head width, P slots of a KV cache, E experts, A experts chosen per row.
"""

from typing import NamedTuple, Protocol

import torch


class Choices(NamedTuple):
    """The experts of each row: ``ids`` [T, A], -1 for none, and ``weights`` [T, A] float32."""

    ids: torch.Tensor
    weights: torch.Tensor


class StepOps(Protocol):
    """What a backend does between matrices. Where there is an ``out``, results go there and nowhere else."""

    def add_and_normalise(
        self,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add ``delta`` [T, D] of any dtype to ``hidden`` [T, D] in place; returns its RMS norm x ``weight`` [D]."""
        ...

    def normalise_heads(self, heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        """Replace each of ``heads`` [T, N, W], in place, by its RMS norm x ``weight`` [W]; rows may lie apart."""
        ...

    def rotate_and_store(
        self,
        joined: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Turn queries and keys, store keys and values, return the queries [T, H, d].

        ``joined`` [T, H + 2G, d] are queries, keys and values; ``angles`` are cosines and sines [T, 1, d]; they go to
        ``slots`` [T] of ``keys`` and ``values`` [P, G, d].
        """
        ...

    def choose_experts(
        self,
        logits: torch.Tensor,
        num_chosen: int,
        lengths: torch.Tensor | None = None,
        out: Choices | None = None,
        is_renormalised: bool = True,
    ) -> Choices:
        """Choose the ``num_chosen`` experts of the highest ``logits`` [T, E] of each row.

        Weights are the softmax in float32 over all experts, divided by the sum over the chosen ones if
        ``is_renormalised``. Rows whose ``lengths`` [T] are 0 are padding and choose none.
        """
        ...


class TorchStepOps:
    """See ``StepOps``."""

    def add_and_normalise(
        self,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See ``StepOps``."""
        if delta is not None:
            hidden.add_(delta.to(hidden.dtype))
        return torch.mul(weight, unit_rms(hidden, eps), out=out)

    def normalise_heads(self, heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        """See ``StepOps``."""
        heads.copy_(weight * unit_rms(heads, eps))

    def rotate_and_store(
        self,
        joined: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """See ``StepOps``."""
        num_kv_heads = keys.shape[1]
        sizes = [joined.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads]
        query, key, value = torch.split(joined, sizes, dim=1)
        keys.index_copy_(0, slots, rotate(key, *angles))
        values.index_copy_(0, slots, value)
        return rotate(query, *angles)

    def choose_experts(
        self,
        logits: torch.Tensor,
        num_chosen: int,
        lengths: torch.Tensor | None = None,
        out: Choices | None = None,
        is_renormalised: bool = True,
    ) -> Choices:
        """See ``StepOps``."""
        probabilities = torch.softmax(logits.float(), dim=-1)  # [T, E]
        weights, ids = torch.topk(probabilities, num_chosen, dim=-1)  # [T, A]
        if is_renormalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return finish_choices(ids, weights, lengths, out)


def unit_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x / rms(x) over D, computed in float32, in the dtype of ``x`` [..., D] (Zhang and Sennrich, 2019)."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the heads ``x`` [T, H, d] by ``cos`` and ``sin`` [T, 1, d], halves against halves (Su et al., 2021)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def finish_choices(
    ids: torch.Tensor, weights: torch.Tensor, lengths: torch.Tensor | None, out: Choices | None
) -> Choices:
    """Take the choices of padding back, and put them where they are wanted."""
    if lengths is not None:
        ids = ids.masked_fill(lengths.eq(0).unsqueeze(1), -1)
    if out is None:
        return Choices(ids, weights)
    out.ids.copy_(ids)
    out.weights.copy_(weights)
    return out


TORCH_STEP_OPS = TorchStepOps()
