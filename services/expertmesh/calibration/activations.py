"""What the matrices of one layer are given when the model reads the calibration text. Knows layers, not scales.

Alphabet: T calibration tokens, A experts chosen per token, D hidden width, H query heads, d head width, F FFN width,
M rows of one expert.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import embedding

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import tensors_of
from expertmesh.architectures.tensor_table import Specs
from expertmesh.calibration.samples import Sequences
from expertmesh.calibration.weights import PlainWeights
from expertmesh.kernels.backend import Backend, Linear
from expertmesh.kernels.step_ops import unit_rms
from expertmesh.model.attention import Attention, AttentionPlan, plan_contexts
from expertmesh.model.batch import StepBatch
from expertmesh.model.gate import load_gate
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.rope import RotaryEmbedding
from expertmesh.model.weight_loader import WeightLoader


class Tap:
    """A matrix that keeps the rows it was last given."""

    def __init__(self, matrix: Linear) -> None:
        self._matrix = matrix
        self.num_bytes = matrix.num_bytes
        self.rows = torch.empty(0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply ``x`` [M, K] and return [M, N]."""
        self.rows = x
        return self._matrix(x)


@dataclass(frozen=True)
class Routed:
    """The tokens of one expert: ``rows`` [M] int64 among the T, ``weights`` [M, 1] of its answer."""

    rows: torch.Tensor
    weights: torch.Tensor


class ForwardPass:
    """The calibration tokens on their way through the layers, in float32."""

    def __init__(self, config: ModelConfig, weights: PlainWeights, backend: Backend, sequences: Sequences) -> None:
        self.config = config
        self.tensors = tensors_of(config)
        self.weights = weights
        self.backend = backend
        self._loader = WeightLoader(config, weights, backend, torch.float32)
        batch = lay_out(sequences, backend.device)
        rotary = RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope, backend.device)
        block_size = max(batch.query_lens)
        contexts = plan_contexts(batch, block_size, config.sliding_window)
        self._plan = AttentionPlan(batch.slot_mapping, contexts, rotary.at(batch.positions, torch.float32))
        # Layers come one after the other, so that one layer's cache serves them all.
        one_layer = replace(config, num_layers=1)
        self._cache = KVCache(one_layer, len(sequences), block_size, torch.float32, backend.device)
        table = weights.tensor(self.tensors.ends["embedding"])
        self.hidden = embedding(batch.token_ids, table).float()  # [T, D]

    def normalised(self, norm: torch.Tensor) -> torch.Tensor:
        """Return the hidden states after ``norm`` [D], [T, D]."""
        return norm.float() * unit_rms(self.hidden, self.config.rms_norm_eps)

    def attend(self, specs: Specs, x: torch.Tensor) -> torch.Tensor:
        """Attend from ``x`` [T, D] with the matrices of a layer and go on; returns what the last of them was given."""
        attention = Attention.load(specs, self._loader)
        attended = attention.attend(x, 0, self._plan, self._cache)
        self.hidden = self.hidden + attention.output(attended)
        return attended  # [T, H * d]

    def route(self, specs: Specs, x: torch.Tensor) -> dict[int, Routed]:
        """Send the rows ``x`` [T, D] where the gate of a layer wants them; returns the experts that got some."""
        topk_ids, topk_weights = load_gate(specs, self._loader)(x)  # [T, A]
        routed = {}
        for expert in sorted(set(topk_ids.flatten().tolist())):
            rows, choices = (topk_ids == expert).nonzero(as_tuple=True)  # [M]
            routed[expert] = Routed(rows, topk_weights[rows, choices].unsqueeze(1))
        return routed


def lay_out(sequences: Sequences, device: torch.device) -> StepBatch:
    """Put all sequences into one step, each with one block of the cache that is as long as the longest of them."""
    lengths = tuple(len(sequence) for sequence in sequences)
    positions = torch.cat([torch.arange(length) for length in lengths])
    starts = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) * max(lengths)  # [T]
    return StepBatch(
        token_ids=torch.tensor([token for sequence in sequences for token in sequence], device=device),
        positions=positions.to(device),
        slot_mapping=(starts + positions).to(device),
        query_lens=lengths,
        context_lens=lengths,
        block_tables=torch.arange(len(lengths), device=device).unsqueeze(1),
        sample_rows=torch.arange(0, device=device),
    )
