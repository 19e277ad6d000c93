"""A call on its way through an expert server. Knows what it asks for, not who runs it."""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure

Outcome = ExpertResult | CallFailure


@dataclass(eq=False)
class CallJob:
    """A checked call in the queue; ``on_done`` gets its outcome, in the event loop."""

    call: ExpertCall
    on_done: Callable[[Outcome], None]
    arrived: float = field(default_factory=time.monotonic)

    @cached_property
    def key(self) -> Hashable:
        """Layer, dtype and A: what calls that run together have in common."""
        return self.call.layer, self.call.hidden.dtype, self.call.topk_ids.shape[1]

    @cached_property
    def num_rows(self) -> int:
        """Rows U of the call."""
        return self.call.hidden.shape[0]

    @cached_property
    def deadline(self) -> float:
        """When the caller stops waiting, in ``time.monotonic`` seconds."""
        return self.arrived + (math.inf if self.call.timeout_seconds is None else self.call.timeout_seconds)
