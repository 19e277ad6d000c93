"""Dispatch and combine: rows of a layer to the replicas that host their experts, and the answers added up.

Knows replicas and rows, not what a layer or an expert computes. Alphabet: T rows of the step, A experts chosen per row,
U rows of one call, D hidden width.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind

import numpy as np
import torch

from expertmesh.discovery.picker import pick_replica
from expertmesh.errors import ComputeError, ExpertmeshError, ExpertUnavailableError
from expertmesh.kernels.moe import add_rows
from expertmesh.mesh.call_spans import send_traced
from expertmesh.mesh.expert_load import ExpertLoadCounter, StepLoad
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.replica import Replica, ReplicaLostError, Ticket
from expertmesh.model.experts import LayerCall
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.wire.calls import ExpertCall, ExpertResult, split_call
from expertmesh.wire.failures import CallFailure, FailureCode

# Reasons for which the same call is worth sending again, to another replica where there is one.
RETRYABLE = frozenset({FailureCode.BUSY, FailureCode.DRAINING, FailureCode.DEADLINE_EXCEEDED})
FIRST_RETRY_SECONDS = 0.01
MAX_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class DispatchConfig:
    """How long an answer may take and how large a message may be.

    ``call_timeout_seconds`` bounds one call to one replica; ``wait_seconds`` bounds a layer step over all attempts,
    waiting for a replica to come back included (0 = fail at the first failure).
    """

    call_timeout_seconds: float = 30.0
    wait_seconds: float = 120.0
    max_message_bytes: int = 1024 * 1024


@dataclass(frozen=True)
class Attempt:
    """What one replica was sent: the ``rows`` [U] of the step that chose ``experts``, None = all of them, in order."""

    replica: Replica
    experts: tuple[int, ...]
    rows: torch.Tensor | None
    tickets: list[Ticket]


@dataclass(frozen=True)
class Partial:
    """What the experts of one attempt add to their rows: ``values`` [U, D] float32."""

    attempt: Attempt
    values: torch.Tensor


class RemoteExperts:
    """The experts of all layers, run by expert servers: the gateway's end of dispatch and combine.

    ``load`` counts what they are asked.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        config: DispatchConfig,
        load: ExpertLoadCounter,
        rng: random.Random | None = None,
        tracer: Tracer = NullTracer(),
    ) -> None:
        self._pool = pool
        self._config = config
        self._load = load
        self._rng = rng or random.Random()
        self._tracer = tracer

    async def __call__(self, call: LayerCall) -> torch.Tensor:
        """Return, for each row, the sum of weight x expert(row) [T, D] float32.

        A call that fails for a passing reason is sent again, to another replica if there is one; an expert without any
        replica is waited for. Raises ExpertUnavailableError when that takes longer than the configuration allows, and
        ComputeError when a kernel fails.
        """
        ids, weights = call.topk_ids.cpu().numpy().astype(np.int32), call.topk_weights.cpu().numpy()
        timeout = self._config.call_timeout_seconds
        step = ExpertCall(call.layer, call.hidden.cpu(), ids, weights, timeout, call.traceparent)
        with self._load.step(call.layer, ids) as load:
            return _combine(await self._collect(step, load), call.hidden)

    async def _collect(self, step: ExpertCall, load: StepLoad) -> list[Partial]:
        """Ask until every chosen expert has answered."""
        missing = set(load.experts)
        deadline = time.monotonic() + self._config.wait_seconds
        avoid: set[Replica] = set()
        partials: list[Partial] = []
        pause = FIRST_RETRY_SECONDS
        while True:
            assignment = await self._assign(missing, avoid, deadline)
            failure = await self._ask(assignment, step, load, partials, avoid)
            if failure is None:
                return partials
            missing.difference_update(*(partial.attempt.experts for partial in partials))
            if time.monotonic() + pause > deadline:
                raise ExpertUnavailableError(
                    f"experts {sorted(missing)} of layer {step.layer} did not answer within "
                    f"{self._config.wait_seconds:g} s; last failure: {failure}"
                ) from failure
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def _ask(
        self,
        assignment: Mapping[Replica, list[int]],
        step: ExpertCall,
        load: StepLoad,
        partials: list[Partial],
        avoid: set[Replica],
    ) -> ExpertmeshError | None:
        """Send every replica its rows, then wait for all; adds to ``partials`` and ``avoid``, returns a failure."""
        attempts = [self._send(replica, tuple(experts), step, load) for replica, experts in assignment.items()]
        failure = None
        try:
            for attempt in attempts:
                try:
                    partials.append(Partial(attempt, await self._receive(attempt)))
                except (ReplicaLostError, CallFailure) as error:
                    failure = _retryable(error, step.layer, attempt.replica)
                    load.failed(attempt.experts)
                    avoid.add(attempt.replica)
        finally:
            for attempt in attempts:
                for ticket in attempt.tickets:
                    attempt.replica.settle(ticket)
        return failure

    async def _assign(
        self, experts: Iterable[int], avoid: set[Replica], deadline: float
    ) -> Mapping[Replica, list[int]]:
        """Choose a replica for each expert, waiting for one where there is none; ``avoid`` is used as a last resort."""
        assignment: dict[Replica, list[int]] = {}
        now = time.monotonic()
        for expert in sorted(experts):
            ready = self._pool.ready(expert) or await self._wait_for(expert, deadline)
            candidates = [replica for replica in ready if replica not in avoid] if avoid else ready
            assignment.setdefault(pick_replica(candidates or ready, now, self._rng), []).append(expert)
        return assignment

    async def _wait_for(self, expert: int, deadline: float) -> Sequence[Replica]:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._pool.wait_until(lambda: bool(self._pool.ready(expert)))
        except TimeoutError:
            raise ExpertUnavailableError(
                f"no replica hosts expert {expert}; waited {self._config.wait_seconds:g} s for one"
            ) from None
        return self._pool.ready(expert)

    def _send(self, replica: Replica, experts: tuple[int, ...], step: ExpertCall, load: StepLoad) -> Attempt:
        rows, call = _select(step, experts)
        parts = split_call(call, self._config.max_message_bytes)
        if step.traceparent:
            tickets = [send_traced(self._tracer, replica, experts, part) for part in parts]
        else:
            tickets = [replica.send(part) for part in parts]
        load.sent(experts, call.num_bytes)
        for ticket in tickets:
            # Counted as it comes: attempts are awaited one by one, and a fast one may follow a slow one.
            ticket.answer.add_done_callback(bind(_count_answer, load, experts, ticket, ticket is tickets[-1]))
        return Attempt(replica, experts, rows, tickets)

    async def _receive(self, attempt: Attempt) -> torch.Tensor:
        """Return the partial rows [U, D] of an attempt; ReplicaLostError also when they do not come in time."""
        try:
            async with asyncio.timeout(self._config.call_timeout_seconds):
                parts = [(await ticket.answer).partial for ticket in attempt.tickets]
        except TimeoutError:
            attempt.replica.blame()
            raise ReplicaLostError(
                f"{attempt.replica.endpoint} did not answer within {self._config.call_timeout_seconds:g} s"
            ) from None
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _count_answer(
    load: StepLoad, experts: tuple[int, ...], ticket: Ticket, is_last: bool, answer: asyncio.Future[ExpertResult]
) -> None:
    if answer.cancelled() or answer.exception():
        return
    load.called(experts, time.perf_counter() - ticket.sent, ticket.num_rows, answer.result().partial.nbytes)
    if is_last:
        load.answered(experts)


def _retryable(error: ReplicaLostError | CallFailure, layer: int, replica: Replica) -> ExpertmeshError:
    """Return an error that may pass; raise ComputeError for one that will not."""
    if isinstance(error, CallFailure) and error.code not in RETRYABLE:
        raise ComputeError(f"layer {layer} on {replica.endpoint}: {error}") from error
    return error


def _select(step: ExpertCall, experts: tuple[int, ...]) -> tuple[torch.Tensor | None, ExpertCall]:
    """Pick the rows that chose any of ``experts``, with every other choice masked out."""
    chosen = (step.topk_ids[..., None] == experts).any(axis=-1)  # [T, A]; isin takes six times as long
    if chosen.all():
        return None, step
    rows = np.flatnonzero(chosen.any(axis=1))  # [U]
    index = torch.from_numpy(rows)
    return index, ExpertCall(
        step.layer,
        step.hidden.index_select(0, index),
        np.where(chosen, step.topk_ids, np.int32(-1))[rows],
        step.topk_weights[rows],
        step.timeout_seconds,
        step.traceparent,
    )


def _combine(partials: list[Partial], hidden: torch.Tensor) -> torch.Tensor:
    """Add the partial rows in the order of their experts, whatever the order of arrival."""
    ordered = sorted(partials, key=lambda partial: partial.attempt.experts)
    if len(ordered) == 1 and ordered[0].attempt.rows is None:
        return ordered[0].values.to(hidden.device)
    total = torch.zeros(hidden.shape, dtype=torch.float32)  # [T, D]
    for partial in ordered:
        rows = torch.arange(len(total)) if partial.attempt.rows is None else partial.attempt.rows
        add_rows(total, rows, partial.values)
    return total.to(hidden.device)
