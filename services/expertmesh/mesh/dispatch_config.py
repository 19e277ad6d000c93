"""Bounds of what is sent to replicas. Knows settings, not who keeps to them."""

from dataclasses import dataclass

from expertmesh.settings.flags import LIMITS, Flag, setting

_WAIT = Flag(
    LIMITS,
    "WAIT_SECONDS",
    "How long a request waits for an expert without a replica; 0 = fail at once.",
    min=0,
)


@dataclass(frozen=True)
class DispatchConfig:
    """How long an answer may take and how large a message may be.

    ``call_timeout_seconds`` bounds one call to one replica; ``wait_seconds`` bounds a layer step over all attempts,
    waiting for a replica to come back included (0 = fail at the first failure).
    """

    call_timeout_seconds: float = 30.0
    wait_seconds: float = setting(120.0, _WAIT)
    max_message_bytes: int = 1024 * 1024
