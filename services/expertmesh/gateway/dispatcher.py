"""Dispatch and combine: rows of a layer to the replicas that host their experts, and the answers added up.

Knows replicas and rows, not what a layer or an expert computes. Alphabet: T rows of the step, A experts chosen per row,
U rows of one call, D hidden width.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from expertmesh.discovery.picker import pick_less_loaded
from expertmesh.errors import ComputeError, ExpertmeshError, ExpertUnavailableError
from expertmesh.gateway.pool import ReplicaPool
from expertmesh.gateway.replica import Replica, ReplicaLostError, split_call
from expertmesh.wire.calls import ExpertCall
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
class Partial:
    """What some experts of one replica add to ``rows`` [U] of the step: ``values`` [U, D] float32."""

    first_expert: int
    rows: torch.Tensor
    values: torch.Tensor


class RemoteExperts:
    """The experts of all layers, run by expert servers: the gateway's end of dispatch and combine."""

    def __init__(self, pool: ReplicaPool, config: DispatchConfig, rng: random.Random | None = None) -> None:
        self._pool = pool
        self._config = config
        self._rng = rng or random.Random()

    async def __call__(
        self, layer: int, hidden: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor
    ) -> torch.Tensor:
        """Return, for each row of ``hidden`` [T, D], the sum of weight x expert(row) [T, D] float32.

        A call that fails for a passing reason is sent again, to another replica if there is one; an expert without any
        replica is waited for. Raises ExpertUnavailableError when that takes longer than the configuration allows, and
        ComputeError when a kernel fails.
        """
        step = ExpertCall(layer, hidden.cpu(), topk_ids.cpu(), topk_weights.cpu())
        partials = await self._collect(step, time.monotonic() + self._config.wait_seconds)
        return _combine(partials, hidden)

    async def _collect(self, step: ExpertCall, deadline: float) -> list[Partial]:
        """Ask until every chosen expert has answered."""
        choices = step.topk_ids.numpy()
        missing = set(np.unique(choices).tolist())
        avoid: set[Replica] = set()
        partials: list[Partial] = []
        pause = FIRST_RETRY_SECONDS
        while True:
            assignment = await self._assign(missing, avoid, deadline)
            answers = await asyncio.gather(*(self._ask(*pair, step, choices) for pair in assignment.items()))
            failure = None
            for (replica, experts), answer in zip(assignment.items(), answers, strict=True):
                if isinstance(answer, Partial):
                    partials.append(answer)
                    missing.difference_update(experts)
                else:
                    avoid.add(replica)
                    failure = answer
            if failure is None:
                return partials
            if time.monotonic() + pause > deadline:
                raise ExpertUnavailableError(
                    f"experts {sorted(missing)} of layer {step.layer} did not answer within "
                    f"{self._config.wait_seconds:g} s; last failure: {failure}"
                ) from failure
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def _assign(
        self, experts: Iterable[int], avoid: set[Replica], deadline: float
    ) -> Mapping[Replica, list[int]]:
        """Choose a replica for each expert, waiting for one where there is none; ``avoid`` is used as a last resort."""
        assignment: dict[Replica, list[int]] = {}
        for expert in sorted(experts):
            await self._wait_for(expert, deadline)
            ready = self._pool.ready(expert)
            candidates = [replica for replica in ready if replica not in avoid] or ready
            assignment.setdefault(pick_less_loaded(candidates, self._rng), []).append(expert)
        return assignment

    async def _wait_for(self, expert: int, deadline: float) -> None:
        if self._pool.ready(expert):
            return
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._pool.wait_until(lambda: bool(self._pool.ready(expert)))
        except TimeoutError:
            raise ExpertUnavailableError(
                f"no replica hosts expert {expert}; waited {self._config.wait_seconds:g} s for one"
            ) from None

    async def _ask(
        self, replica: Replica, experts: list[int], step: ExpertCall, choices: NDArray[np.int64]
    ) -> Partial | ExpertmeshError:
        """Send one replica the rows of its experts; a failure that may pass is returned, any other is raised."""
        rows, call = _select(step, choices, experts, self._config.call_timeout_seconds)
        try:
            async with asyncio.timeout(self._config.call_timeout_seconds):
                results = await asyncio.gather(*map(replica.call, split_call(call, self._config.max_message_bytes)))
        except TimeoutError:
            return ReplicaLostError(f"{replica.endpoint} did not answer within {self._config.call_timeout_seconds:g} s")
        except ReplicaLostError as error:
            return error
        except CallFailure as failure:
            if failure.code in RETRYABLE:
                return failure
            raise ComputeError(f"layer {step.layer} on {replica.endpoint}: {failure}") from failure
        return Partial(experts[0], rows, torch.cat([result.partial for result in results]))


def _select(
    step: ExpertCall, choices: NDArray[np.int64], experts: list[int], timeout_seconds: float
) -> tuple[torch.Tensor, ExpertCall]:
    """Pick the rows that chose any of ``experts``, with every other choice masked out."""
    chosen = np.isin(choices, experts)  # [T, A]
    rows = torch.from_numpy(np.flatnonzero(chosen.any(axis=1)))  # [U]
    topk_ids = torch.from_numpy(np.where(chosen, choices, -1))  # [T, A]
    call = ExpertCall(step.layer, step.hidden[rows], topk_ids[rows], step.topk_weights[rows], timeout_seconds)
    return rows, call


def _combine(partials: list[Partial], hidden: torch.Tensor) -> torch.Tensor:
    """Add the partial rows in the order of their experts, whatever the order of arrival."""
    total = torch.zeros(hidden.shape, dtype=torch.float32)  # [T, D]
    for partial in sorted(partials, key=lambda partial: partial.first_expert):
        total.index_add_(0, partial.rows, partial.values)
    return total.to(hidden.device)
