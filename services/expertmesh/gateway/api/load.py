"""LoadService: how busy experts and replicas are. Knows the messages, not who counts."""

from typing import Any

import grpc.aio

from expertmesh.gateway.load import ExpertLoadCounter, balancedness, shares
from expertmesh.gateway.pool import ReplicaPool
from expertmesh.gateway.replica import Replica
from expertmesh.v1 import load_pb2 as pb
from expertmesh.v1 import load_pb2_grpc


class LoadServicer(load_pb2_grpc.LoadServiceServicer):
    """Serves the counts of one gateway; without a pool all experts live in the gateway itself."""

    def __init__(self, load: ExpertLoadCounter, pool: ReplicaPool | None) -> None:
        self._load = load
        self._pool = pool

    async def GetLoad(  # noqa: D102
        self, request: pb.GetLoadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetLoadResponse:
        totals = self._load.totals()
        return pb.GetLoadResponse(
            experts=[
                self._expert_load(expert, tokens, share)
                for expert, (tokens, share) in enumerate(zip(totals, shares(totals), strict=True))
            ],
            replicas=[_replica_load(replica) for replica in self._pool.replicas] if self._pool else [],
            balancedness=balancedness(totals),
        )

    def _expert_load(self, expert: int, tokens: int, share: float) -> pb.ExpertLoad:
        return pb.ExpertLoad(
            expert=expert,
            tokens=tokens,
            tokens_by_layer=self._load.by_layer(expert),
            share=share,
            inflight_rows=self._load.inflight_rows(expert),
            ready_replicas=len(self._pool.ready(expert)) if self._pool else 1,
        )


def _replica_load(replica: Replica) -> pb.ReplicaLoad:
    return pb.ReplicaLoad(
        endpoint=replica.endpoint,
        experts=sorted(replica.experts),
        ready=replica.is_ready,
        calls=replica.stats.num_calls,
        failed_calls=replica.stats.num_failed_calls,
        inflight_rows=replica.inflight_rows,
        latency_p50_ns=int(replica.stats.latency_p50_seconds * 1e9),
    )
