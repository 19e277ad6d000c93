"""When a client asks again. gRPC itself does it (gRFC A6): before a first piece has come, never after."""

import json
from dataclasses import dataclass

from expertmesh.errors import ConfigError

SERVICES = ("expertmesh.v1.GenerationService", "expertmesh.v1.LoadService")
# A server that begins to stop as a call arrives ends it with CANCELLED; what a client cancels itself is over anyway.
CODES = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED")
# gRPC makes no more attempts than this, whatever it is told.
MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class RetryPolicy:
    """Ask up to ``max_attempts`` times when a gateway cannot be reached or its queue is full; 1 = never again.

    Pauses are jittered and double from ``first_pause_seconds`` up to ``max_pause_seconds``, unless the gateway says how
    long to wait. All attempts and pauses count towards one timeout.
    """

    max_attempts: int = MAX_ATTEMPTS
    first_pause_seconds: float = 0.2
    max_pause_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise ConfigError(f"max_attempts is {self.max_attempts}; it must be from 1 to {MAX_ATTEMPTS}")
        if not 0 < self.first_pause_seconds <= self.max_pause_seconds:
            raise ConfigError(
                f"pauses from {self.first_pause_seconds} to {self.max_pause_seconds} s; "
                "the first must be above 0, and the longest at least as long"
            )

    def service_config(self) -> str:
        """Return the policy as gRPC's channels take it. Health checks are never repeated: they ask how things are."""
        if self.max_attempts == 1:
            return "{}"
        policy = {
            "maxAttempts": self.max_attempts,
            "initialBackoff": f"{self.first_pause_seconds:.9f}s",
            "maxBackoff": f"{self.max_pause_seconds:.9f}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": CODES,
        }
        names = [{"service": service} for service in SERVICES]
        return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})
