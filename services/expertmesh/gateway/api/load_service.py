"""LoadService: how busy experts and replicas are. Knows the messages, not who counts."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc.aio
import numpy as np

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.api.load_rates import rates
from expertmesh.gateway.state import GatewayState
from expertmesh.mesh.expert_load import balancedness, shares
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_stats import CallTimes
from expertmesh.rpc.status import report_errors
from expertmesh.v1 import load_pb2 as pb
from expertmesh.v1 import load_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_INTERVAL_MS = 1000
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 100, 60_000


class LoadServicer(load_pb2_grpc.LoadServiceServicer):
    """Serves the counts of one gateway."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End the streams: whoever watches must not keep a gateway that drains."""
        self._ending.set()

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.GetLoadResponse:  # noqa: D102
        return self.read_load()

    async def WatchLoad(  # noqa: D102
        self, request: pb.WatchLoadRequest, context: Context
    ) -> AsyncIterator[pb.WatchLoadResponse]:
        async with report_errors(context):
            interval_seconds = _interval_seconds(request)
        load, taken = self.read_load(), time.monotonic()
        yield pb.WatchLoadResponse(load=load)
        while not await self._ends_within(interval_seconds):
            before, since, load, taken = load, taken, self.read_load(), time.monotonic()
            yield pb.WatchLoadResponse(load=load, rates=rates(before, load, taken - since))

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._ending.wait()
        except TimeoutError:
            return False

    def read_load(self) -> pb.GetLoadResponse:
        """Say what has been counted until now."""
        totals = self._state.expert_load.totals()
        return pb.GetLoadResponse(
            experts=[
                self._expert_load(expert, tokens, share)
                for expert, (tokens, share) in enumerate(zip(totals, shares(totals), strict=True))
            ],
            replicas=[_replica_load(replica) for replica in self._state.replicas],
            balancedness=balancedness(totals),
            gateway=self._gateway_load(),
        )

    def _gateway_load(self) -> pb.GatewayLoad:
        stats = self._state.stats
        return pb.GatewayLoad(
            running=self._state.scheduler.num_running,
            waiting=self._state.scheduler.num_waiting,
            kv_cache_usage=self._state.blocks.usage,
            prompt_tokens=stats.num_prompt_tokens,
            generation_tokens=stats.num_generation_tokens,
            prefix_cache_query_tokens=stats.num_looked_up_tokens,
            prefix_cache_hit_tokens=stats.num_cached_tokens,
            preemptions=stats.num_preemptions,
        )

    def _expert_load(self, expert: int, tokens: int, share: float) -> pb.ExpertLoad:
        load = self._state.expert_load
        recent = [times for replica in self._state.replicas_of(expert) for times in replica.stats.recent]
        p50, p99 = _latencies_ns(recent)
        return pb.ExpertLoad(
            expert=expert,
            tokens=tokens,
            tokens_by_layer=load.by_layer(expert),
            share=share,
            inflight_rows=load.inflight_rows[expert],
            ready_replicas=self._state.num_ready(expert),
            queue_rows=load.queue_rows[expert],
            demand_rows=load.demand_rows(expert),
            latency_p50_ns=p50,
            latency_p99_ns=p99,
            retries=load.num_retries[expert],
            replicas=[
                pb.ReplicaCount(state=f"REPLICA_STATE_{state.name}", replicas=count)
                for state, count in self._state.count_replicas(expert).items()
                if count
            ],
        )


def _interval_seconds(request: pb.WatchLoadRequest) -> float:
    milliseconds = request.interval_ms or DEFAULT_INTERVAL_MS
    if not MIN_INTERVAL_MS <= milliseconds <= MAX_INTERVAL_MS:
        raise InvalidRequestError(
            f"interval_ms is {milliseconds}; it must be from {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}, or 0 for "
            f"{DEFAULT_INTERVAL_MS}"
        )
    return milliseconds / 1000


def _replica_load(replica: Replica) -> pb.ReplicaLoad:
    recent = replica.stats.recent
    p50, p99 = _latencies_ns(recent)
    return pb.ReplicaLoad(
        endpoint=replica.endpoint,
        experts=sorted(replica.experts),
        ready=replica.is_ready,
        calls=replica.stats.num_calls,
        failed_calls=replica.stats.num_failed_calls,
        inflight_rows=replica.inflight_rows,
        latency_p50_ns=p50,
        latency_p99_ns=p99,
        queue_p50_ns=_quantiles_ns([times.queue_seconds for times in recent], 0.5)[0],
        compute_p50_ns=_quantiles_ns([times.compute_seconds for times in recent], 0.5)[0],
        state=f"REPLICA_STATE_{replica.state.name}",
    )


def _latencies_ns(calls: Iterable[CallTimes]) -> list[int]:
    return _quantiles_ns([times.latency_seconds for times in calls], 0.5, 0.99)


def _quantiles_ns(seconds: Sequence[float], *quantiles: float) -> list[int]:
    """Nanoseconds that each of the shares ``quantiles`` of the durations stays within; zeros before the first."""
    return [int(value * 1e9) for value in np.quantile(seconds or [0.0], quantiles)]
