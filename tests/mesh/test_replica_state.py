import random
import time

from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.v1 import load_pb2


def test_a_replica_is_connecting_then_ejected_then_retired():
    replica = Replica("127.0.0.1:1")
    states = [replica.state]
    for _ in range(3):
        replica.health = replica.health.after_error(time.monotonic(), random.Random(0))
    states.append(replica.state)
    replica.retire()
    assert [*states, replica.state] == [ReplicaState.CONNECTING, ReplicaState.EJECTED, ReplicaState.RETIRED]


def test_states_have_the_names_of_the_message():
    ours = {f"REPLICA_STATE_{state.name}" for state in ReplicaState}
    assert ours | {"REPLICA_STATE_UNSPECIFIED"} == set(load_pb2.ReplicaState.keys())
