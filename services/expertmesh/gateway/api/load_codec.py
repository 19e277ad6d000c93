"""A snapshot as the answer of GetLoad. Knows both, not who asks."""

from collections.abc import Iterable, Sequence

import numpy as np

from expertmesh.engine.snapshot import EngineSnapshot
from expertmesh.gateway.snapshot import Snapshot
from expertmesh.mesh.expert_load import balancedness, shares
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.replica_stats import CallTimes
from expertmesh.mesh.snapshot import ExpertSnapshot, ReplicaSnapshot
from expertmesh.v1 import load_pb2 as pb


def encode_load(snapshot: Snapshot) -> pb.GetLoadResponse:
    """Turn a snapshot into its message."""
    mesh = snapshot.mesh
    totals = [expert.tokens for expert in mesh.experts]
    experts = enumerate(zip(mesh.experts, shares(totals), strict=True))
    return pb.GetLoadResponse(
        experts=[
            _encode_expert(number, expert, share, _recent_calls(mesh.replicas, number))
            for number, (expert, share) in experts
        ],
        replicas=map(_encode_replica, mesh.replicas),
        balancedness=balancedness(totals),
        gateway=_encode_gateway(snapshot.engine),
    )


def _encode_gateway(engine: EngineSnapshot) -> pb.GatewayLoad:
    return pb.GatewayLoad(
        running=engine.num_running,
        waiting=engine.num_waiting,
        kv_cache_usage=engine.kv_cache_usage,
        prompt_tokens=engine.num_prompt_tokens,
        generation_tokens=engine.num_generation_tokens,
        prefix_cache_query_tokens=engine.num_looked_up_tokens,
        prefix_cache_hit_tokens=engine.num_cached_tokens,
        preemptions=engine.num_preemptions,
    )


def _encode_expert(number: int, expert: ExpertSnapshot, share: float, recent: Iterable[CallTimes]) -> pb.ExpertLoad:
    p50, p99 = _latencies_ns(recent)
    return pb.ExpertLoad(
        expert=number,
        tokens=expert.tokens,
        tokens_by_layer=expert.tokens_by_layer,
        share=share,
        inflight_rows=expert.inflight_rows,
        ready_replicas=expert.num_ready,
        queue_rows=expert.queue_rows,
        demand_rows=expert.demand_rows,
        latency_p50_ns=p50,
        latency_p99_ns=p99,
        retries=expert.num_retries,
        replicas=[
            pb.ReplicaCount(state=_encode_state(state), replicas=count)
            for state, count in expert.replicas.items()
            if count
        ],
    )


def _encode_replica(replica: ReplicaSnapshot) -> pb.ReplicaLoad:
    recent = replica.recent
    p50, p99 = _latencies_ns(recent)
    return pb.ReplicaLoad(
        endpoint=replica.endpoint,
        experts=replica.experts,
        ready=replica.is_ready,
        calls=replica.num_calls,
        failed_calls=replica.num_failed_calls,
        inflight_rows=replica.inflight_rows,
        latency_p50_ns=p50,
        latency_p99_ns=p99,
        queue_p50_ns=_quantiles_ns([times.queue_seconds for times in recent], 0.5)[0],
        compute_p50_ns=_quantiles_ns([times.compute_seconds for times in recent], 0.5)[0],
        state=_encode_state(replica.state),
    )


def _encode_state(state: ReplicaState) -> str:
    return f"REPLICA_STATE_{state.name}"


def _recent_calls(replicas: Iterable[ReplicaSnapshot], expert: int) -> list[CallTimes]:
    """Collect the last calls to all replicas that host ``expert``."""
    return [times for replica in replicas if expert in replica.experts for times in replica.recent]


def _latencies_ns(calls: Iterable[CallTimes]) -> list[int]:
    return _quantiles_ns([times.latency_seconds for times in calls], 0.5, 0.99)


def _quantiles_ns(seconds: Sequence[float], *quantiles: float) -> list[int]:
    """Nanoseconds that each of the shares ``quantiles`` of the durations stays within; zeros before the first."""
    return [int(value * 1e9) for value in np.quantile(seconds or [0.0], quantiles)]
