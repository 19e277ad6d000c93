"""Calls that another replica has answered first. Knows who still owes an answer, not what was asked.

Their answers are taken when they come, for what they tell of the replica, and given up when they are late; until then
the replica is spared. All of it happens in the thread of the steps, whenever that begins one.
"""

import time
from typing import NamedTuple

from expertmesh.mesh.answers import ReplicaFaultError
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Replica, Ticket
from expertmesh.wire.failures import CallFailure


class _Straggler(NamedTuple):
    replica: Replica
    ticket: Ticket
    late_at: float


class Stragglers:
    """Calls whose answers nobody waits for any more."""

    def __init__(self) -> None:
        self._calls: list[_Straggler] = []

    def leave(self, replica: Replica, ticket: Ticket, late_at: float) -> None:
        """Wait for a call no more; it is late at ``late_at``, by ``time.perf_counter``."""
        self._calls.append(_Straggler(replica, ticket, late_at))

    def have(self, replica: Replica) -> bool:
        """Whether a replica still owes such an answer."""
        return any(call.replica is replica for call in self._calls)

    def look(self) -> None:
        """Take what has come, and give up what is late."""
        if self._calls:
            self._calls = [call for call in self._calls if _is_owed(call)]


def _is_owed(call: _Straggler) -> bool:
    try:
        call.replica.receive(call.ticket, 0)
    except TimeoutError:
        if time.perf_counter() < call.late_at:
            return True
        call.replica.give_up(call.ticket)
    except (LinkLostError, CallFailure, ReplicaFaultError):
        pass  # the replica has drawn its consequences
    return False
