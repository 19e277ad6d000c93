"""A way to one replica, as the thread of the steps sees it. Knows calls, neither transports nor who picks replicas."""

from collections.abc import Sequence
from typing import Protocol

import torch

from expertmesh.errors import ExpertmeshError
from expertmesh.wire.calls import ExpertCall, ExpertResult


class LinkLostError(ExpertmeshError):
    """The connection to a replica is gone; what was asked over it may be asked elsewhere."""


class Link(Protocol):
    """A way to one replica, used by one thread; many calls may be under way. ``transport`` is its name in a log."""

    transport: str

    def take_room(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """Return memory where the hidden states [U, D] of a call had better be; None when any will do.

        It is theirs until nobody has them, nor their answer, any more.
        """
        ...

    def send(self, call_id: int, call: ExpertCall) -> int:
        """Send a call and return at once; returns the bytes of its tensors.

        LinkLostError when the connection is gone.
        """
        ...

    def receive(self, call_id: int, timeout_seconds: float) -> ExpertResult:
        """Wait for the answer to a call.

        CallFailure is the server's, ReplicaFaultError for an answer that cannot be read, TimeoutError when none comes
        in time, after which it may be waited for again, LinkLostError when the connection is gone.
        """
        ...

    def forget(self, call_id: int) -> None:
        """Want no answer to a call any more: one that still comes is dropped."""
        ...

    def close(self) -> None:
        """Hang up, in any thread; whoever waits for an answer hears LinkLostError."""
        ...
