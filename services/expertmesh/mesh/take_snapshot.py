"""A snapshot taken from what counts and connects. Knows counter and pool, not who reads what they say."""

from collections import Counter
from collections.abc import Iterable, Mapping

from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.snapshot import ExpertSnapshot, MeshSnapshot, ReplicaSnapshot


def take_mesh_snapshot(load: ExpertLoadCounter, pool: ReplicaPool | None) -> MeshSnapshot:
    """Copy what is counted per expert and per replica; without a ``pool`` this process hosts every expert."""
    replicas = tuple(map(_take_replica, pool.replicas)) if pool else ()
    return MeshSnapshot(
        experts=tuple(_take_expert(expert, load, pool, replicas) for expert in range(load.num_experts)),
        replicas=replicas,
        sent_bytes=load.sent_bytes,
        received_bytes=load.received_bytes,
        watch_age_seconds=pool.discovery_age_seconds if pool else 0.0,
    )


def _take_replica(replica: Replica) -> ReplicaSnapshot:
    return ReplicaSnapshot(
        endpoint=replica.endpoint,
        experts=tuple(sorted(replica.experts)),
        is_ready=replica.is_ready,
        state=replica.state,
        inflight_rows=replica.inflight_rows,
        num_calls=replica.stats.num_calls,
        num_failed_calls=replica.stats.num_failed_calls,
        recent=tuple(replica.stats.recent),
    )


def _take_expert(
    expert: int, load: ExpertLoadCounter, pool: ReplicaPool | None, replicas: Iterable[ReplicaSnapshot]
) -> ExpertSnapshot:
    hosts = [replica.state for replica in replicas if expert in replica.experts] if pool else [ReplicaState.READY]
    return ExpertSnapshot(
        tokens_by_layer=tuple(load.by_layer(expert)),
        inflight_rows=load.inflight_rows[expert],
        queue_rows=load.queue_rows[expert],
        demand_rows=load.demand_rows(expert),
        num_retries=load.num_retries[expert],
        num_damaged=load.num_damaged[expert],
        num_hedged=load.num_hedged[expert],
        num_dropped=load.num_dropped[expert],
        rpc_seconds=load.rpc_seconds[expert].snapshot(),
        call_rows=load.call_rows[expert].snapshot(),
        num_ready=len(pool.ready(expert)) if pool else 1,
        replicas=_count(hosts),
    )


def _count(states: Iterable[ReplicaState]) -> Mapping[ReplicaState, int]:
    counts = Counter(states)
    return {state: counts[state] for state in ReplicaState}
