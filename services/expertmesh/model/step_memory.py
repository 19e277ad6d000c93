"""How much memory of a GPU recorded decode steps will take, told before there is any. Knows widths, not tensors.

Alphabet: T rows there is room for, B blocks of the longest sequence, N and K output and input features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.kernels.triton.attention_tuning import NUM_STRIPES
from expertmesh.kernels.triton.tuning import choose_split
from expertmesh.model.step_buffers import NUM_COLUMNS

WORD = 4  # bytes of an int32 and of a float32
# What the driver keeps of a layer's stage, some ten launches. Generous, and not measured.
RECORDED_STAGE_BYTES = 2**19


@dataclass(frozen=True)
class StepMemory:
    """Bytes that stay where they are, that launches need meanwhile, and that the driver needs to replay."""

    buffers: int
    scratch: int
    recordings: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.buffers + self.scratch + self.recordings


def plan_steps(
    config: ModelConfig, dtype: torch.dtype, sizes: Sequence[int], max_blocks: int, num_parts: int, has_experts: bool
) -> StepMemory:
    """Estimate what ``StaticSteps`` of these ``sizes`` take on a GPU; ``has_experts``: these are recorded, too."""
    if not sizes:
        return StepMemory(0, 0, 0)
    buffers = sum(buffer_bytes(config, dtype, size, max_blocks, has_experts) for size in sizes)
    # All recordings share what the greatest needs, since one runs at a time.
    scratch = scratch_bytes(config, dtype, max(sizes), has_experts)
    recordings = len(sizes) * (config.num_layers + 1) * RECORDED_STAGE_BYTES
    return StepMemory(num_parts * buffers, scratch, num_parts * recordings)


def buffer_bytes(config: ModelConfig, dtype: torch.dtype, num_rows: int, max_blocks: int, has_experts: bool) -> int:
    """Count what the buffers of one step of ``num_rows`` take on the device: what ``StepBuffers`` makes."""
    inputs = (NUM_COLUMNS + max_blocks) * WORD
    slot_and_first_row = 2 * WORD + WORD
    activations = 2 * (config.hidden_size + config.head_dim) * dtype.itemsize  # rows, hidden; cosines, sines
    choices = 2 * config.num_experts_per_token * WORD
    sums = (config.hidden_size + config.vocab_size + 1) * WORD  # of experts, logits, and over these
    routes = config.num_layers * config.num_experts_per_token * WORD if has_experts else 0
    marks = config.num_layers * WORD if has_experts else 0
    return num_rows * (inputs + slot_and_first_row + activations + choices + sums + routes) + WORD + marks


def scratch_bytes(config: ModelConfig, dtype: torch.dtype, num_rows: int, has_experts: bool) -> int:
    """Bound what a step of ``num_rows`` needs at a time for what it does not keep: that of its greatest part."""
    experts = expert_bytes(config, dtype, num_rows) if has_experts else 0
    return max(attention_bytes(config, dtype, num_rows), experts, head_bytes(config, dtype, num_rows))


def attention_bytes(config: ModelConfig, dtype: torch.dtype, num_rows: int) -> int:
    """Count all that attention makes in a layer: norm, heads, partial sums of the stripes, output."""
    num_attending = config.num_heads * config.head_dim
    num_joined = num_attending + 2 * config.num_kv_heads * config.head_dim
    stripes = config.num_heads * NUM_STRIPES * (config.head_dim + 2) * WORD
    heads = (config.hidden_size + 2 * num_attending) * dtype.itemsize
    products = _product(num_joined, config.hidden_size, dtype) + _product(config.hidden_size, num_attending, dtype)
    gate = _product(config.num_experts, config.hidden_size, dtype)
    return num_rows * (heads + products + stripes + gate)


def expert_bytes(config: ModelConfig, dtype: torch.dtype, num_rows: int) -> int:
    """Count all that the experts of a layer make, but for their schedule: inner features, partial sums."""
    parts = choose_split(config.hidden_size, config.intermediate_size) * config.hidden_size * WORD
    num_choices = num_rows * config.num_experts_per_token
    return num_choices * (config.intermediate_size * dtype.itemsize + parts)


def head_bytes(config: ModelConfig, dtype: torch.dtype, num_rows: int) -> int:
    """Count all that comes behind the last layer: norm, logits as they are multiplied and in float32."""
    logits = _product(config.vocab_size, config.hidden_size, dtype) + config.vocab_size * WORD
    return num_rows * (config.hidden_size * dtype.itemsize + logits)


def _product(num_out: int, num_in: int, dtype: torch.dtype) -> int:
    """Count what a row of a product takes, with the parts that it may be the sum of."""
    num_parts = choose_split(num_out, num_in)
    parts = num_parts * num_out * WORD if num_parts > 1 else 0
    return num_out * dtype.itemsize + parts
