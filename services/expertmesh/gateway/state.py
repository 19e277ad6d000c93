"""The parts of a gateway that can be asked how it is. Knows who knows what, not how it is told to anybody."""

from dataclasses import dataclass, field

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.snapshot import take_engine_snapshot
from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.refusals import Refusal
from expertmesh.gateway.snapshot import Snapshot
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.take_snapshot import take_mesh_snapshot


@dataclass(frozen=True)
class GatewayState:
    """What a running gateway counts; without a ``pool`` all experts live in its own process."""

    stats: EngineStats
    expert_load: ExpertLoadCounter
    scheduler: Scheduler
    blocks: BlockPool
    pool: ReplicaPool | None
    num_refused: dict[str, int] = field(default_factory=lambda: {reason.value: 0 for reason in Refusal})

    def count_refused(self, reason: str, number: int) -> None:
        """Count callers that an API process sent away; called in the event loop, not in the engine's thread."""
        self.num_refused[reason] += number


def take_snapshot(state: GatewayState) -> Snapshot:
    """Copy what all parts count."""
    return Snapshot(
        take_engine_snapshot(state.stats, state.scheduler, state.blocks),
        take_mesh_snapshot(state.expert_load, state.pool),
        dict(state.num_refused),
    )
