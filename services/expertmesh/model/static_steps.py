"""Decode steps that always use the same memory, so that a GPU can replay what it once did. Knows stages, not kernels.

Alphabet: T rows there is room for, S sequences of a step, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch

from expertmesh.errors import ComputeError
from expertmesh.model.batch import StepBatch
from expertmesh.model.decoder import Decoder, pause
from expertmesh.model.experts import DeviceExperts, Experts, LayerCall, check_layers
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.mirror import Mirror
from expertmesh.model.recording import BySize, Record, Report, Work, run_directly
from expertmesh.model.stages import Stages
from expertmesh.model.turns import Part


class StaticSteps:
    """Steps of up to ``max_rows`` sequences with one new token each, recorded when this is made.

    ``num_parts`` of them may be under way at a time. With ``device_experts`` a whole step, these included, is one piece
    of work. ``report`` is told (sizes recorded, of).
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        max_blocks: int,
        max_rows: int,
        num_parts: int = 1,
        device_experts: DeviceExperts | None = None,
        record: Record = run_directly,
        report: Report = lambda done, total: None,
    ) -> None:
        self._max_blocks = max_blocks
        self._device_experts = device_experts

        def make(size: int) -> deque[StaticStep]:
            stages = [Stages(decoder, cache, size, max_blocks) for _ in range(num_parts)]
            return deque(
                DeviceStep(one, device_experts, record) if device_experts else HostStep(one, record) for one in stages
            )

        self._free = BySize(max_rows, make, report)

    def fits(self, batch: StepBatch) -> bool:
        """Whether a step is one of those that were recorded."""
        num_rows = len(batch.query_lens)
        is_decode = len(batch.token_ids) == len(batch.sample_rows) == num_rows
        return is_decode and self._free.has_room(num_rows) and batch.block_tables.shape[1] <= self._max_blocks

    def part(self, batch: StepBatch, experts: Experts | DeviceExperts) -> "Part[torch.Tensor]":
        """Do what ``Decoder.part`` does; the logits [S, V] are valid until ``num_parts`` more parts have begun.

        ``experts`` are those of the device that were recorded, or tell these what was counted; or, without, any.
        """
        with self._lend(len(batch.query_lens)) as step:
            return (yield from step.part(batch, experts))

    @contextmanager
    def _lend(self, num_rows: int) -> Iterator["StaticStep"]:
        steps = self._free.smallest(num_rows)
        # The one that has rested longest: the logits of the others may still be wanted.
        step = steps.popleft()
        try:
            yield step
        finally:
            steps.append(step)


class StaticStep(Protocol):
    """A step of up to so many rows."""

    def part(self, batch: StepBatch, experts: Experts | DeviceExperts) -> "Part[torch.Tensor]":
        """Do what ``Decoder.part`` does."""
        ...


class HostStep:
    """A step whose experts are asked on the host, with a stage between two layers."""

    def __init__(self, stages: Stages, record: Record) -> None:
        self._buffers = stages.buffers
        self._enter = record(partial(self._publish, stages.enter))
        self._between = [
            record(partial(self._publish, partial(self._go_on, stages, index))) for index in range(1, stages.num_layers)
        ]
        self._leave = record(partial(self._conclude, stages))

    def part(self, batch: StepBatch, experts: Experts | DeviceExperts) -> "Part[torch.Tensor]":
        """Do what ``Decoder.part`` does."""
        assert not isinstance(experts, DeviceExperts), "these are recorded with the step"
        buffers, num_rows = self._buffers, len(batch.query_lens)
        buffers.load(batch)
        self._enter()
        for index, go_on in enumerate([*self._between, self._leave]):
            pending = experts.begin(LayerCall(index, *buffers.rows_of(num_rows)))
            yield from pause(pending)
            buffers.answer(pending.finish())
            go_on()
        return buffers.logits_of(num_rows)

    def _publish(self, stage: Work) -> None:
        stage()
        self._buffers.publish_rows()

    def _go_on(self, stages: Stages, index: int) -> None:
        self._buffers.fetch_answer()
        stages.go_on(index)

    def _conclude(self, stages: Stages) -> None:
        self._buffers.fetch_answer()
        stages.leave()
        self._buffers.publish_sums()


class DeviceStep:
    """A step whose experts are on the device, too: one piece of work from tokens to logits."""

    def __init__(self, stages: Stages, experts: DeviceExperts, record: Record) -> None:
        self._stages = stages
        self._experts = experts
        ids = stages.buffers.routed().choices.ids
        self._routes = Mirror(stages.num_layers, *ids.shape, dtype=ids.dtype, device=ids.device)  # [L, T, A]
        self._nonfinite = Mirror(stages.num_layers, dtype=torch.int32, device=ids.device)
        self._run = record(self._run_all)

    def part(self, batch: StepBatch, experts: Experts | DeviceExperts) -> "Part[torch.Tensor]":
        """Do what ``Decoder.part`` does, without a pause."""
        assert isinstance(experts, DeviceExperts), "others cannot be recorded"
        yield from ()
        buffers, num_rows = self._stages.buffers, len(batch.query_lens)
        buffers.load(batch)
        self._run()
        experts.count(self._routes.host[:, :num_rows].numpy())
        try:
            return buffers.logits_of(num_rows)
        except ComputeError:
            check_layers(self._nonfinite.host)
            raise

    @torch.inference_mode()
    def _run_all(self) -> None:
        stages, nonfinite = self._stages, self._nonfinite.device
        nonfinite.zero_()
        stages.enter()
        for index in range(stages.num_layers):
            rows, choices = stages.buffers.routed().rows, stages.buffers.routed().choices
            self._routes.device[index].copy_(choices.ids)
            call = LayerCall(index, rows, *choices)
            self._experts.run(call, nonfinite[index : index + 1], stages.buffers.delta)
            if index + 1 < stages.num_layers:
                stages.go_on(index + 1)
        stages.leave()
        stages.buffers.publish_sums()
        self._routes.to_host()
        self._nonfinite.to_host()
