"""Memory for decode steps of up to so many rows, made once. Knows shapes and where they lie, not what is computed.

Alphabet: T rows there is room for, S of them in use, B blocks of the longest sequence, A experts chosen per row,
D hidden width, d head width, V vocabulary.
"""

from collections.abc import Sequence

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.step_ops import Choices
from expertmesh.model.attention import AttentionPlan
from expertmesh.model.batch import StepBatch
from expertmesh.model.decoder import RoutedRows
from expertmesh.model.kv_cache import KVCache

NUM_COLUMNS = 4  # of the inputs: token, position, slot, length


class StepBuffers:
    """What a step reads and writes on the device, and the same on the host where that is another place.

    On a CPU both are the same memory, so nothing is copied between them.
    """

    def __init__(self, num_rows: int, max_blocks: int, config: ModelConfig, cache: KVCache, dtype: torch.dtype) -> None:
        device = cache.keys.device
        self.num_rows = num_rows
        self._padding_slot = cache.padding_slot
        self._host = _Exchange(num_rows, max_blocks, config, dtype, torch.device("cpu"), device.type != "cpu")
        self._device = self._host
        if device.type != "cpu":
            self._device = _Exchange(num_rows, max_blocks, config, dtype, device)
        self.hidden = torch.zeros(num_rows, config.hidden_size, dtype=dtype, device=device)
        self.angles = (
            torch.zeros(num_rows, 1, config.head_dim, dtype=dtype, device=device),
            torch.zeros(num_rows, 1, config.head_dim, dtype=dtype, device=device),
        )
        self.slots = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.logits = torch.zeros(num_rows, config.vocab_size, device=device)
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
        return self._device.delta

    def plan(self) -> AttentionPlan:
        """Say where keys and values go and what each row sees."""
        lengths = self._device.columns[3]
        contexts = BlockContexts(
            self._device.block_tables, lengths, self._first_rows, self._block_size, self._window, is_decode=True
        )
        return AttentionPlan(self.slots, contexts, self.angles)

    def routed(self) -> RoutedRows:
        """Return the rows for the experts and their choices, on the device."""
        return RoutedRows(self._device.rows, self._device.choices, self._device.columns[3])

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

    def fetch_inputs(self) -> None:
        """Copy the batch to the device."""
        if self._device is not self._host:
            self._device.inputs.copy_(self._host.inputs, non_blocking=True)
        self.slots.copy_(self._device.columns[2])

    def fetch_answer(self) -> None:
        """Copy what the experts said to the device."""
        if self._device is not self._host:
            self._device.delta.copy_(self._host.delta, non_blocking=True)

    def publish_rows(self) -> None:
        """Copy rows and choices to the host."""
        if self._device is not self._host:
            for there, here in zip(self._host.results, self._device.results, strict=True):
                there.copy_(here, non_blocking=True)

    def rows_of(self, num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rows [S, D], ids and weights [S, A] on the host."""
        rows, ids, weights = self._host.results
        return rows[:num_rows], ids[:num_rows], weights[:num_rows]

    def answer(self, delta: torch.Tensor) -> None:
        """Take what the experts said, [S, D] float32, on the host."""
        self._host.delta[: len(delta)] = delta


class _Exchange:
    """What goes from the host to the device and back, on one of them."""

    def __init__(
        self,
        num_rows: int,
        max_blocks: int,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        is_pinned: bool = False,
    ) -> None:
        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device, pin_memory=is_pinned)

        num_chosen, width = config.num_experts_per_token, config.hidden_size
        # One piece, so that one copy takes it all.
        self.inputs = zeros(num_rows * (NUM_COLUMNS + max_blocks), dtype=torch.int32)
        self.columns: Sequence[torch.Tensor] = self.inputs[: num_rows * NUM_COLUMNS].view(NUM_COLUMNS, -1).unbind()
        self.block_tables = self.inputs[num_rows * NUM_COLUMNS :].view(num_rows, max_blocks)
        self.rows = zeros(num_rows, width, dtype=dtype)
        ids = zeros(num_rows, num_chosen, dtype=torch.int32)
        self.choices = Choices(ids, zeros(num_rows, num_chosen, dtype=torch.float32))
        self.delta = zeros(num_rows, width, dtype=torch.float32)

    @property
    def results(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What goes back to the host."""
        return self.rows, self.choices.ids, self.choices.weights
