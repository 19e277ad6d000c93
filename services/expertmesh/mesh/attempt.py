"""What one replica was sent for a layer step. Knows rows and the call, not what becomes of it."""

from dataclasses import dataclass

from expertmesh.mesh.call_rows import CallRows
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Replica, Ticket


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one replica was sent: the ``rows`` of the step that chose ``experts``, None = all of them, in order.

    ``sent`` is the ticket of the call, or why it could not be sent.
    """

    replica: Replica
    experts: tuple[int, ...]
    rows: CallRows | None
    sent: Ticket | LinkLostError
