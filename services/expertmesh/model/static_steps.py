"""Decode steps that always use the same memory, so that a GPU can replay what it once did. Knows stages, not kernels.

A stage is what is computed between two questions to the experts; it takes no memory of its own and reads nothing on
the host. Alphabet: T rows there is room for, S sequences of a step, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch

from expertmesh.model.batch import StepBatch
from expertmesh.model.decoder import Decoder, check_logits, pause
from expertmesh.model.experts import Experts, LayerCall
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.step_buffers import StepBuffers
from expertmesh.model.turns import Part

Work = Callable[[], None]
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Record(Protocol):
    """Makes of work what does the same again, such as the replay of a CUDA graph; it returns once that is done."""

    def __call__(self, work: Work) -> Work:
        """Run ``work``, which may be more than once, and return how to repeat it."""
        ...


def run_directly(work: Work) -> Work:
    """Repeat work by doing it: what a CPU does."""
    return work


def buckets(max_rows: int) -> list[int]:
    """Return the sizes to record so that every step of up to ``max_rows`` rows has room."""
    return [size for size, smaller in zip(BUCKETS, (0, *BUCKETS), strict=False) if smaller < max_rows]


class StaticSteps:
    """Steps of up to ``max_rows`` sequences with one new token each, recorded when this is made.

    ``num_parts`` of them may be under way at a time. ``report`` is told (sizes recorded, of).
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        max_blocks: int,
        max_rows: int,
        num_parts: int = 1,
        record: Record = run_directly,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._max_blocks = max_blocks
        self._free: dict[int, list[StaticStep]] = {}
        sizes = buckets(max_rows)
        # The largest first: what it leaves of its memory is enough for the others.
        for index, size in enumerate(reversed(sizes)):
            steps = [StaticStep(decoder, cache, size, max_blocks, record) for _ in range(num_parts)]
            self._free[size] = steps
            report(index + 1, len(sizes))

    def fits(self, batch: StepBatch) -> bool:
        """Whether a batch is one of those that were recorded."""
        num_rows = len(batch.query_lens)
        is_decode = len(batch.token_ids) == len(batch.sample_rows) == num_rows
        has_room = num_rows <= max(self._free, default=0) and batch.block_tables.shape[1] <= self._max_blocks
        return is_decode and has_room

    def part(self, batch: StepBatch, experts: Experts) -> "Part[torch.Tensor]":
        """Do what ``Decoder.part`` does; the logits [S, V] are valid until the next step."""
        with self._lend(len(batch.query_lens)) as step:
            return (yield from step.part(batch, experts))

    @contextmanager
    def _lend(self, num_rows: int) -> Iterator["StaticStep"]:
        steps = self._free[min(size for size in self._free if size >= num_rows)]
        step = steps.pop()
        try:
            yield step
        finally:
            steps.append(step)


class StaticStep:
    """A step of up to ``num_rows`` rows whose experts are asked on the host."""

    def __init__(self, decoder: Decoder, cache: KVCache, num_rows: int, max_blocks: int, record: Record) -> None:
        self._decoder = decoder
        self._cache = cache
        self._buffers = StepBuffers(num_rows, max_blocks, decoder.config, cache, decoder.dtype)
        num_layers = decoder.config.num_layers
        self._enter = record(self._start)
        self._between = [record(partial(self._go_on, index)) for index in range(1, num_layers)]
        self._leave = record(self._conclude)

    def part(self, batch: StepBatch, experts: Experts) -> "Part[torch.Tensor]":
        """Do what ``Decoder.part`` does."""
        buffers, num_rows = self._buffers, len(batch.query_lens)
        buffers.load(batch)
        self._enter()
        for index, go_on in enumerate([*self._between, self._leave]):
            pending = experts.begin(LayerCall(index, *buffers.rows_of(num_rows)))
            yield from pause(pending)
            buffers.answer(pending.finish())
            go_on()
        logits = buffers.logits[:num_rows]
        check_logits(logits)
        return logits

    @torch.inference_mode()
    def _start(self) -> None:
        buffers = self._buffers
        buffers.fetch_inputs()
        buffers.hidden.copy_(self._decoder.embed(buffers.token_ids))
        for angles, values in zip(buffers.angles, self._decoder.angles(buffers.positions), strict=True):
            angles.copy_(values)
        self._attend_and_choose(0, None)

    @torch.inference_mode()
    def _go_on(self, index: int) -> None:
        self._buffers.fetch_answer()
        self._attend_and_choose(index, self._buffers.delta)

    def _attend_and_choose(self, index: int, delta: torch.Tensor | None) -> None:
        buffers = self._buffers
        self._decoder.attend_and_choose(index, buffers.hidden, delta, buffers.plan(), self._cache, buffers.routed())
        buffers.publish_rows()

    @torch.inference_mode()
    def _conclude(self) -> None:
        self._buffers.fetch_answer()
        self._buffers.logits.copy_(self._decoder.logits(self._buffers.hidden, self._buffers.delta))
