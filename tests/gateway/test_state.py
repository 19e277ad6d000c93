from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.state import GatewayState, take_snapshot
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.replica_state import ReplicaState


def make_state(pool: ReplicaPool | None) -> GatewayState:
    blocks = BlockPool(8, 16)
    return GatewayState(
        EngineStats(), ExpertLoadCounter(2, 8), Scheduler(SchedulerConfig().fitted_to("cpu"), blocks), blocks, pool
    )


def test_without_replicas_this_process_hosts_everything_and_nothing_ages():
    mesh = take_snapshot(make_state(pool=None)).mesh
    assert mesh.experts[3].replicas == {
        ReplicaState.READY: 1,
        ReplicaState.CONNECTING: 0,
        ReplicaState.EJECTED: 0,
        ReplicaState.RETIRED: 0,
    }
    assert (mesh.experts[3].num_ready, mesh.watch_age_seconds, mesh.replicas) == (1, 0.0, ())


def test_the_age_is_that_of_the_source():
    class OldDiscovery(StaticDiscovery):
        age_seconds = 123.0

    state = make_state(ReplicaPool(OldDiscovery(frozenset()), "f00d"))
    assert take_snapshot(state).mesh.watch_age_seconds == 123.0
