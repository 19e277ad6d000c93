"""The logits of a checkpoint on whole sequences, as a gateway with local experts computes them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from expertmesh.calibration.activations import lay_out
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts
from expertmesh.model.kv_cache import KVCache


def logits_of(directory: Path, sequences: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Run every token of ``sequences`` in float32; returns [T, V]."""
    checkpoint = Checkpoint.open(directory)
    config = checkpoint.model
    backend = ReferenceBackend(torch.device("cpu"))
    batch = lay_out(tuple(sequences), backend.device)
    batch = replace(batch, sample_rows=torch.arange(len(batch.token_ids)))
    cache = KVCache(config, len(batch.query_lens), max(batch.query_lens), torch.float32, backend.device)
    decoder = Decoder.load(config, checkpoint, backend, torch.float32)
    return decoder.forward(batch, cache, LocalExperts.load(config, checkpoint, backend))
