"""What experts were asked and how replicas are at one moment, as plain values. Knows no connections and no readers."""

from collections.abc import Mapping
from dataclasses import dataclass

from expertmesh.counting.histogram import HistogramSnapshot
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.replica_stats import CallTimes


@dataclass(frozen=True)
class ExpertSnapshot:
    """One expert, as ``ExpertLoadCounter`` counts it.

    ``num_ready`` replicas are to be called now; ``replicas`` are those known in every state. Experts of this process
    have one replica, which is ready.
    """

    tokens_by_layer: tuple[int, ...]
    inflight_rows: int
    queue_rows: int
    demand_rows: float
    num_retries: int
    num_damaged: int
    num_hedged: int
    num_dropped: int
    rpc_seconds: HistogramSnapshot
    call_rows: HistogramSnapshot
    num_ready: int
    replicas: Mapping[ReplicaState, int]

    @property
    def tokens(self) -> int:
        """Rows that the gate sent to it, over all layers."""
        return sum(self.tokens_by_layer)


@dataclass(frozen=True)
class ReplicaSnapshot:
    """One replica; ``experts`` are ascending, ``recent`` are its last answered calls, oldest first.

    One that ``is_ready`` may be ejected all the same: its ``state`` says so.
    """

    endpoint: str
    experts: tuple[int, ...]
    is_ready: bool
    state: ReplicaState
    inflight_rows: int
    num_calls: int
    num_failed_calls: int
    recent: tuple[CallTimes, ...]


@dataclass(frozen=True)
class MeshSnapshot:
    """All experts, expert 0 first, and every known replica; the bytes are those of the tensors of all calls.

    ``watch_age_seconds`` is how long ago the source of endpoints last confirmed what it said; 0 without replicas.
    """

    experts: tuple[ExpertSnapshot, ...]
    replicas: tuple[ReplicaSnapshot, ...]
    sent_bytes: int
    received_bytes: int
    watch_age_seconds: float
