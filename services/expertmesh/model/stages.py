"""What is computed between two questions to the experts, on memory that stays where it is. Knows no recorder.

A stage reads nothing on the host, so a GPU can replay it.
"""

import torch

from expertmesh.model.decoder import Decoder
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.step_buffers import StepBuffers


class Stages:
    """What is computed before the first experts, between two layers' and after the last, on the same memory."""

    def __init__(self, decoder: Decoder, cache: KVCache, num_rows: int, max_blocks: int) -> None:
        self._decoder = decoder
        self._cache = cache
        self.buffers = StepBuffers(num_rows, max_blocks, decoder.config, cache, decoder.dtype)
        self.num_layers = decoder.config.num_layers

    @torch.inference_mode()
    def enter(self) -> None:
        """Go from the batch to the experts of the first layer."""
        buffers = self.buffers
        buffers.fetch_inputs()
        buffers.hidden.copy_(self._decoder.embed(buffers.token_ids))
        for angles, values in zip(buffers.angles, self._decoder.angles(buffers.positions), strict=True):
            angles.copy_(values)
        self._attend_and_choose(0, None)

    @torch.inference_mode()
    def go_on(self, index: int) -> None:
        """Go from what the experts said to those of layer ``index``."""
        self._attend_and_choose(index, self.buffers.delta)

    @torch.inference_mode()
    def leave(self) -> None:
        """Go from what the last experts said to the logits."""
        self.buffers.take_logits(self._decoder.logits(self.buffers.hidden, self.buffers.delta))

    def _attend_and_choose(self, index: int, delta: torch.Tensor | None) -> None:
        buffers = self.buffers
        self._decoder.attend_and_choose(index, buffers.hidden, delta, buffers.plan(), self._cache, buffers.routed())
