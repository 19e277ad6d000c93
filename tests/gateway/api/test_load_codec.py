from dataclasses import replace

from expertmesh.counting.histogram import Histogram
from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.snapshot import take_engine_snapshot
from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.api.load_codec import encode_load
from expertmesh.gateway.snapshot import Snapshot
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.replica_stats import CallTimes
from expertmesh.mesh.snapshot import ExpertSnapshot, MeshSnapshot, ReplicaSnapshot
from expertmesh.v1 import load_pb2 as pb

NOTHING = Histogram(()).snapshot()
STATES = {state: int(state is ReplicaState.READY) for state in ReplicaState}
EXPERT = ExpertSnapshot((0, 0), 0, 0, 0.0, 0, 0, 0, 0, NOTHING, NOTHING, 1, STATES)
REPLICA = ReplicaSnapshot("10.0.0.1:50051", (0, 1), True, ReplicaState.READY, 0, 0, 0, ())


def encode(experts: tuple[ExpertSnapshot, ...], replicas: tuple[ReplicaSnapshot, ...] = ()) -> pb.GetLoadResponse:
    blocks = BlockPool(8, 16)
    engine = take_engine_snapshot(EngineStats(), Scheduler(SchedulerConfig().fitted_to("cpu"), blocks), blocks)
    return encode_load(Snapshot(engine, MeshSnapshot(experts, replicas, 0, 0, 0.0), {}))


def calls(*milliseconds: int) -> tuple[CallTimes, ...]:
    return tuple(CallTimes(value * 1e-3, value * 1e-4, value * 1e-5) for value in milliseconds)


def test_experts_are_numbered_and_share_what_the_gate_sent():
    load = encode((replace(EXPERT, tokens_by_layer=(1, 2)), replace(EXPERT, tokens_by_layer=(8, 1))))
    assert [(e.expert, e.tokens, list(e.tokens_by_layer), e.share) for e in load.experts] == [
        (0, 3, [1, 2], 0.25),
        (1, 9, [8, 1], 0.75),
    ]
    assert load.balancedness == 6 / 9


def test_an_expert_has_the_latencies_of_all_its_replicas_and_of_no_other():
    fast = replace(REPLICA, experts=(0, 1), recent=calls(1, 1, 1))
    slow = replace(REPLICA, experts=(1,), recent=calls(3, 3, 5, 5))
    load = encode((EXPERT, EXPERT), (fast, slow))
    assert [expert.latency_p50_ns for expert in load.experts] == [1_000_000, 3_000_000]
    assert [replica.latency_p50_ns for replica in load.replicas] == [1_000_000, 4_000_000]
    assert [(replica.queue_p50_ns, replica.compute_p50_ns) for replica in load.replicas] == [
        (100_000, 10_000),
        (400_000, 40_000),
    ]


def test_before_the_first_call_times_are_zero():
    load = encode((EXPERT,), (replace(REPLICA, experts=(), is_ready=False, state=ReplicaState.CONNECTING),))
    [replica], [expert] = load.replicas, load.experts
    assert (replica.latency_p99_ns, replica.queue_p50_ns, expert.latency_p99_ns, expert.share) == (0, 0, 0, 0)
    assert (list(replica.experts), replica.ready, replica.state) == ([], False, pb.REPLICA_STATE_CONNECTING)


def test_of_the_states_of_replicas_those_that_occur_are_told():
    [expert] = encode((replace(EXPERT, replicas={**STATES, ReplicaState.EJECTED: 2}),)).experts
    assert [(count.state, count.replicas) for count in expert.replicas] == [
        (pb.REPLICA_STATE_READY, 1),
        (pb.REPLICA_STATE_EJECTED, 2),
    ]
