"""Bounds of what is sent to replicas. Knows settings, not who keeps to them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DispatchConfig:
    """How long an answer may take and how large a message may be.

    ``call_timeout_seconds`` bounds one call to one replica; ``wait_seconds`` bounds a layer step over all attempts,
    waiting for a replica to come back included (0 = fail at the first failure).
    """

    call_timeout_seconds: float = 30.0
    wait_seconds: float = 120.0
    max_message_bytes: int = 1024 * 1024
