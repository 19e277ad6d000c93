"""Memory for decode steps of up to so many rows, made once. Knows shapes and where they lie, not what is computed.

Alphabet: T rows there is room for, S of them in use, B blocks of the longest sequence, A experts chosen per row,
D hidden width, d head width, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.step_ops import Choices
from expertmesh.model.attention import AttentionPlan
from expertmesh.model.batch import StepBatch
from expertmesh.model.decoder import RoutedRows, check_logits
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.mirror import Mirror

NUM_COLUMNS = 4


class _Inputs(NamedTuple):
    """The batch of a step: ``columns`` [4] of [T] int32 (token, position, slot, length), ``block_tables`` [T, B]."""

    columns: Sequence[torch.Tensor]
    block_tables: torch.Tensor

    @classmethod
    def of(cls, piece: torch.Tensor, num_rows: int) -> "_Inputs":
        """View one piece of memory as these."""
        columns, tables = piece[: num_rows * NUM_COLUMNS], piece[num_rows * NUM_COLUMNS :]
        return cls(columns.view(NUM_COLUMNS, -1).unbind(), tables.view(num_rows, -1))


class StepBuffers:
    """What a step reads and writes on the device, and the same on the host where that is another place."""

    def __init__(self, num_rows: int, max_blocks: int, config: ModelConfig, cache: KVCache, dtype: torch.dtype) -> None:
        device = cache.keys.device
        self.num_rows = num_rows
        self._padding_slot = cache.padding_slot
        num_chosen, width = config.num_experts_per_token, config.hidden_size
        # One piece, so that one copy takes it all.
        self._inputs = Mirror(num_rows * (NUM_COLUMNS + max_blocks), dtype=torch.int32, device=device)
        self._host, self._device = (_Inputs.of(piece, num_rows) for piece in (self._inputs.host, self._inputs.device))
        self._rows = Mirror(num_rows, width, dtype=dtype, device=device)
        self._ids = Mirror(num_rows, num_chosen, dtype=torch.int32, device=device)
        self._weights = Mirror(num_rows, num_chosen, dtype=torch.float32, device=device)
        self._delta = Mirror(num_rows, width, dtype=torch.float32, device=device)
        self.hidden = torch.zeros(num_rows, config.hidden_size, dtype=dtype, device=device)
        self.angles = (
            torch.zeros(num_rows, 1, config.head_dim, dtype=dtype, device=device),
            torch.zeros(num_rows, 1, config.head_dim, dtype=dtype, device=device),
        )
        self.slots = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._logits = torch.zeros(num_rows, config.vocab_size, device=device)
        self._sums = Mirror(num_rows, dtype=torch.float32, device=device)
        self._first_rows = torch.arange(num_rows + 1, dtype=torch.int32, device=device)
        self._block_size = cache.block_size
        self._window = config.sliding_window

    @property
    def token_ids(self) -> torch.Tensor:
        """Tokens [T] int32 of the step, 0 for padding."""
        return self._device.columns[0]

    @property
    def positions(self) -> torch.Tensor:
        """Positions [T] int32, 0 for padding."""
        return self._device.columns[1]

    @property
    def delta(self) -> torch.Tensor:
        """What the experts said, [T, D] float32, on the device."""
        return self._delta.device

    def plan(self) -> AttentionPlan:
        """Say where keys and values go and what each row sees."""
        lengths = self._device.columns[3]
        contexts = BlockContexts(
            self._device.block_tables, lengths, self._first_rows, self._block_size, self._window, is_decode=True
        )
        return AttentionPlan(self.slots, contexts, self.angles)

    def routed(self) -> RoutedRows:
        """Return the rows for the experts and their choices, on the device."""
        choices = Choices(self._ids.device, self._weights.device)
        return RoutedRows(self._rows.device, choices, self._device.columns[3])

    def load(self, batch: StepBatch) -> None:
        """Take a batch of S sequences, T at most, with one new token each; it lies on the host."""
        num_rows = len(batch.query_lens)
        lengths = torch.tensor(batch.context_lens, dtype=torch.int32)
        padding = (0, 0, self._padding_slot, 0)
        values = (batch.token_ids, batch.positions, batch.slot_mapping, lengths)
        for column, value, pad in zip(self._host.columns, values, padding, strict=True):
            column[:num_rows] = value
            column[num_rows:] = pad
        self._host.block_tables[:num_rows, : batch.block_tables.shape[1]] = batch.block_tables

    def take_logits(self, logits: torch.Tensor) -> None:
        """Keep the logits [T, V] float32 of a step, and what tells whether they are numbers."""
        self._logits.copy_(logits)
        torch.sum(logits, dim=-1, out=self._sums.device)

    def publish_sums(self) -> None:
        """Copy to the host what tells whether logits are numbers."""
        self._sums.to_host()

    def logits_of(self, num_rows: int) -> torch.Tensor:
        """Return the logits [S, V]; ComputeError when one is not finite. Where none is, nobody waits to know."""
        logits = self._logits[:num_rows]
        if not is_finite(self._sums.host[:num_rows]):
            check_logits(logits)
        return logits

    def fetch_inputs(self) -> None:
        """Copy the batch to the device."""
        self._inputs.to_device()
        self.slots.copy_(self._device.columns[2])

    def fetch_answer(self) -> None:
        """Copy what the experts said to the device."""
        self._delta.to_device()

    def publish_rows(self) -> None:
        """Copy rows and choices to the host."""
        for result in (self._rows, self._ids, self._weights):
            result.to_host()

    def rows_of(self, num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rows [S, D], ids and weights [S, A] on the host."""
        return self._rows.host[:num_rows], self._ids.host[:num_rows], self._weights.host[:num_rows]

    def answer(self, delta: torch.Tensor) -> None:
        """Take what the experts said, [S, D] float32, on the host."""
        self._delta.host[: len(delta)] = delta
