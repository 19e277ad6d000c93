import asyncio
import random
import time

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.gateway.blocks import BlockPool
from expertmesh.gateway.engine_stats import EngineStats
from expertmesh.gateway.load import ExpertLoadCounter
from expertmesh.gateway.pool import ReplicaPool
from expertmesh.gateway.replica import Replica
from expertmesh.gateway.scheduler import Scheduler, SchedulerConfig
from expertmesh.gateway.state import GatewayState, ReplicaState, state_of
from expertmesh.v1 import load_pb2


def make_state(pool: ReplicaPool | None) -> GatewayState:
    blocks = BlockPool(8, 16)
    return GatewayState(EngineStats(), ExpertLoadCounter(2, 8), Scheduler(SchedulerConfig(), blocks), blocks, pool)


def test_a_replica_is_connecting_then_ejected_then_retired():
    async def run() -> list[ReplicaState]:
        replica = Replica("127.0.0.1:1", "f00d", on_change=lambda: None)
        states = [state_of(replica)]
        for _ in range(3):
            replica.health = replica.health.after_error(time.monotonic(), random.Random(0))
        states.append(state_of(replica))
        replica.retire()
        return [*states, state_of(replica)]

    assert asyncio.run(run()) == [ReplicaState.CONNECTING, ReplicaState.EJECTED, ReplicaState.RETIRED]


def test_states_have_the_names_of_the_message():
    ours = {f"REPLICA_STATE_{state.name}" for state in ReplicaState}
    assert ours | {"REPLICA_STATE_UNSPECIFIED"} == set(load_pb2.ReplicaState.keys())


def test_without_replicas_this_process_hosts_everything_and_nothing_ages():
    state = make_state(pool=None)
    assert state.count_replicas(3) == {
        ReplicaState.READY: 1,
        ReplicaState.CONNECTING: 0,
        ReplicaState.EJECTED: 0,
        ReplicaState.RETIRED: 0,
    }
    assert (state.num_ready(3), state.watch_age_seconds, state.replicas) == (1, 0.0, ())


def test_the_age_is_that_of_the_source():
    class OldDiscovery(StaticDiscovery):
        age_seconds = 123.0

    assert make_state(ReplicaPool(OldDiscovery(frozenset()), "f00d")).watch_age_seconds == 123.0
