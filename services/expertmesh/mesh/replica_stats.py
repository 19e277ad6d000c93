"""What a replica has done since the gateway knows it. Knows counts and times, not the wire."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

NUM_RECENT_CALLS = 512


class CallTimes(NamedTuple):
    """Where the time of one answered call went: from sending to answer, and of that in queue and kernels there."""

    latency_seconds: float
    queue_seconds: float
    compute_seconds: float


@dataclass
class ReplicaStats:
    """What a replica has done since the gateway knows it; ``recent`` are its last answered calls, oldest first."""

    num_calls: int = 0
    num_failed_calls: int = 0
    recent: deque[CallTimes] = field(default_factory=lambda: deque(maxlen=NUM_RECENT_CALLS))

    def record(self, times: CallTimes) -> None:
        """Count an answered call."""
        self.num_calls += 1
        self.recent.append(times)
