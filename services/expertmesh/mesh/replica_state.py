"""Whether a replica can be called, in one word. Knows replicas, not who asks."""

import time
from enum import Enum

from expertmesh.mesh.replica import Replica


class ReplicaState(Enum):
    """Whether a replica can be called; names as in ``load.proto``, which says what each means."""

    READY = "ready"
    CONNECTING = "connecting"
    EJECTED = "ejected"
    RETIRED = "retired"


def state_of(replica: Replica) -> ReplicaState:
    """Tell in one word how a replica is."""
    if replica.is_retired:
        return ReplicaState.RETIRED
    if replica.health.is_ejected(time.monotonic()):
        return ReplicaState.EJECTED
    return ReplicaState.READY if replica.is_ready else ReplicaState.CONNECTING
