"""What one replica was sent for a layer step. Knows rows and calls under way, not what becomes of them."""

from collections import deque
from dataclasses import dataclass

from expertmesh.mesh.call_rows import CallRows
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Replica, Ticket


@dataclass(frozen=True)
class Attempt:
    """What one replica was sent: the ``rows`` of the step that chose ``experts``, None = all of them, in order.

    ``tickets`` are those of the calls still under way; ``failure`` is why not all could be sent.
    """

    replica: Replica
    experts: tuple[int, ...]
    rows: CallRows | None
    tickets: deque[Ticket]
    failure: LinkLostError | None
