"""What a kernel backend offers. Knows the signatures of the ops; ``reference``, ``cpu`` and ``triton`` implement them.

Alphabet: M rows, D hidden width, N and K output and input features, R rows sorted by expert, E hosted experts,
T rows, A experts chosen for each, S sequences, P slots of a KV cache, H query heads, G key-value heads, d head width.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.paged_attention import PagedContexts
from expertmesh.kernels.step_ops import StepOps
from expertmesh.kernels.weights import ExpertWeights, Weight

Contexts = PagedContexts | BlockContexts


class Linear(Protocol):
    """A matrix in the layout of its backend."""

    num_bytes: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply ``x`` [M, K] and return [M, N] in the dtype of ``x``."""
        ...


class GroupedFFN(Protocol):
    """The hosted experts of one layer in the layout of their backend."""

    num_bytes: int

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """Run each expert on its rows and scale each row.

        ``x`` [R, D] holds the rows of the first expert, then of the second, and so on; ``num_rows`` [E] says how many
        each has (zero is fine); ``row_weights`` [R] float32. Returns [R, D] float32.
        """
        ...


class DeviceFFN(GroupedFFN):
    """Hosted experts that a GPU runs without asking its host who computes what; inherit from it to be one.

    So a call can be captured in a CUDA graph, and replayed on other rows and choices.
    """

    @abstractmethod
    def run_chosen(
        self,
        hidden: torch.Tensor,
        topk_slots: torch.Tensor,
        topk_weights: torch.Tensor,
        out: torch.Tensor | None = None,
        nonfinite: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add up, for each row, weight x expert(row) over its choices, in the order of their slots.

        All on the device: ``hidden`` [T, D]; ``topk_slots`` [T, A] int32 or int64, positions among the hosted experts,
        or -1 for a choice that is answered elsewhere and for rows that pad; ``topk_weights`` [T, A] float32. Returns
        [T, D] float32; rows without choices are 0. With ``out`` they go there, and the host is asked nothing in any
        case, so that what runs once compiles all that a recording takes. ``nonfinite`` [1] int32 is set to 1 when a sum
        is NaN or infinite, and otherwise left alone.
        """
        ...


class Backend(Protocol):
    """Turns weights into its own layout once, and runs them from then on."""

    name: str
    device: torch.device

    @property
    def step_ops(self) -> StepOps:
        """What it does between matrices."""
        ...

    @property
    def isa(self) -> str:
        """Instruction set of the kernels, such as avx512; empty where there is no choice."""
        ...

    @property
    def is_deterministic(self) -> bool:
        """Whether a row's result is the same bits in any company."""
        ...

    @property
    def can_be_recorded(self) -> bool:
        """Whether its launches depend on shapes alone and are few, so that a GPU had better record and replay them."""
        ...

    @property
    def activation_dtype(self) -> torch.dtype:
        """Dtype of activations that suits the kernels best."""
        ...

    def linear(self, weight: Weight) -> Linear:
        """Take over one matrix."""
        ...

    def experts(self, experts: Iterable[ExpertWeights]) -> GroupedFFN:
        """Take over the experts of one layer, best one after the other: unpacked codes take several times the file."""
        ...

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: Contexts) -> torch.Tensor:
        """Attend from new tokens, ``query`` [T, H, d], to ``keys`` and ``values`` [P, G, d] in a cache.

        ``PagedContexts`` are for a cache on the CPU, ``BlockContexts`` for any. Returns [T, H, d] in the dtype of
        ``query``.
        """
        ...
