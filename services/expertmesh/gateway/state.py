"""The parts of a gateway that can be asked how it is. Knows who knows what, not how it is told to anybody."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.snapshot import take_engine_snapshot
from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.snapshot import Snapshot
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.take_snapshot import take_mesh_snapshot


@dataclass(frozen=True)
class GatewayState:
    """What a running gateway counts; without a ``pool`` all experts live in its own process."""

    stats: EngineStats
    expert_load: ExpertLoadCounter
    scheduler: Scheduler
    blocks: BlockPool
    pool: ReplicaPool | None

    @property
    def replicas(self) -> Sequence[Replica]:
        """Every known replica."""
        return self.pool.replicas if self.pool else ()

    @property
    def watch_age_seconds(self) -> float:
        """How long ago the source of endpoints last confirmed what it said; 0 without replicas."""
        return self.pool.discovery_age_seconds if self.pool else 0.0

    def replicas_of(self, expert: int) -> Sequence[Replica]:
        """Known replicas that host ``expert``, ready or not."""
        return [replica for replica in self.replicas if expert in replica.experts]

    def num_ready(self, expert: int) -> int:
        """Count what can take calls for ``expert`` now; this process, if there are no replicas."""
        return len(self.pool.ready(expert)) if self.pool else 1

    def count_replicas(self, expert: int) -> Mapping[ReplicaState, int]:
        """Count the known replicas of ``expert`` in every state; one that has not answered yet is nobody's."""
        if self.pool is None:
            counts = Counter([ReplicaState.READY])
        else:
            counts = Counter(replica.state for replica in self.replicas_of(expert))
        return {state: counts[state] for state in ReplicaState}


def take_snapshot(state: GatewayState) -> Snapshot:
    """Copy what all parts count."""
    return Snapshot(
        take_engine_snapshot(state.stats, state.scheduler, state.blocks),
        take_mesh_snapshot(state.expert_load, state.pool),
    )


class LiveSnapshots:
    """A source of snapshots in the process that counts: each is taken when it is asked for."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def snapshot(self) -> Snapshot:
        """Return how the gateway is now."""
        return take_snapshot(self._state)
