"""Dispatch and combine: calls to the replicas that host chosen experts, sent again where they fail.

Knows replicas and calls; call_rows.py knows the rows in them, retry.py which failures pass. Alphabet: T rows of the
step, U rows of one call, D hidden width.
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
from expertmesh.errors import ExpertmeshError, ExpertUnavailableError
from expertmesh.mesh.call_rows import Partial, combine, select_rows
from expertmesh.mesh.call_spans import send_traced
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.expert_load import ExpertLoadCounter, StepLoad
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.replica import Replica, ReplicaLostError, Ticket
from expertmesh.mesh.retry import check_retryable, retry_pauses
from expertmesh.model.experts import LayerCall
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.wire.calls import ExpertCall, ExpertResult, split_call
from expertmesh.wire.failures import CallFailure


@dataclass(frozen=True)
class Attempt:
    """What one replica was sent: the ``rows`` [U] of the step that chose ``experts``, None = all of them, in order."""

    replica: Replica
    experts: tuple[int, ...]
    rows: torch.Tensor | None
    tickets: list[Ticket]


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
            return combine(await self._collect(step, load), call.hidden)

    async def _collect(self, step: ExpertCall, load: StepLoad) -> list[Partial]:
        """Ask until every chosen expert has answered."""
        missing = set(load.experts)
        deadline = time.monotonic() + self._config.wait_seconds
        avoid: set[Replica] = set()
        partials: list[Partial] = []
        pauses = retry_pauses()
        while True:
            assignment = await self._assign(missing, avoid, deadline)
            failure = await self._ask(assignment, step, load, partials, avoid)
            if failure is None:
                return partials
            missing.difference_update(*(partial.experts for partial in partials))
            pause = next(pauses)
            if time.monotonic() + pause > deadline:
                raise ExpertUnavailableError(
                    f"experts {sorted(missing)} of layer {step.layer} did not answer within "
                    f"{self._config.wait_seconds:g} s; last failure: {failure}"
                ) from failure
            await asyncio.sleep(pause)

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
                    partials.append(Partial(attempt.experts, attempt.rows, await self._receive(attempt)))
                except (ReplicaLostError, CallFailure) as error:
                    failure = check_retryable(error, step.layer, attempt.replica.endpoint)
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
        rows, call = select_rows(step, experts)
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
