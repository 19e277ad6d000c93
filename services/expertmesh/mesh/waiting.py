"""How long a layer step waits for an answer. Knows times and who could be asked instead, not what was asked."""

import time

from expertmesh.mesh.attempt import Attempt
from expertmesh.mesh.replica import Ticket
from expertmesh.mesh.roster import Roster
from expertmesh.wire.calls import ExpertResult

# How often somebody who waits for a late answer looks for another replica to ask.
LOOK_SECONDS = 0.25
# What has arrived while the thread did something else is found within this.
GRACE_SECONDS = 0.05


class Waiting:
    """Waits for the answers of one layer step: at most ``timeout_seconds`` for each.

    One that is late is given up before, as soon as other replicas could give it.
    """

    def __init__(self, roster: Roster, timeout_seconds: float) -> None:
        self._roster = roster
        self._timeout_seconds = timeout_seconds
        self._num_late = 0

    def receive(self, ticket: Ticket, attempt: Attempt) -> ExpertResult:
        """Wait for an answer; LinkLostError when it is given up, else as ``Replica.receive``."""
        last = ticket.sent + self._timeout_seconds
        until = min(last, ticket.sent + self._late_after(ticket, attempt))
        while True:
            try:
                return attempt.replica.receive(ticket, max(until - time.perf_counter(), GRACE_SECONDS))
            except TimeoutError:
                now = time.perf_counter()
                if now >= last or self._has_twins(attempt):
                    self._num_late += 1
                    raise attempt.replica.give_up(ticket) from None
                until = min(last, now + LOOK_SECONDS)

    def _late_after(self, ticket: Ticket, attempt: Attempt) -> float:
        """Seconds after which an answer is late, by what the replica took before, or another while it is new.

        Twice as long after each that was late: maybe all replicas have become slow.
        """
        seconds = attempt.replica.latency.late_after(ticket.num_rows)
        if seconds is None:
            others = (replica.latency.late_after(ticket.num_rows) for replica in self._roster.replicas)
            seconds = next((other for other in others if other is not None), self._timeout_seconds)
        times: int = 2**self._num_late
        return seconds * times

    def _has_twins(self, attempt: Attempt) -> bool:
        """Whether all that was asked of a replica can be asked of others."""
        return all(
            any(replica is not attempt.replica for replica in self._roster.ready(expert)) for expert in attempt.experts
        )
