"""Calls that are sent to a second replica while the first still owes the answer. Knows who could answer, not who did.

Dean and Barroso, "The Tail at Scale", 2013: what takes longer than 99 of 100 calls is asked of another one.
"""

import random

from expertmesh.discovery.picker import pick_replica
from expertmesh.mesh.attempt import Attempt
from expertmesh.mesh.call_spans import send_traced
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Replica, Ticket
from expertmesh.mesh.roster import Roster
from expertmesh.mesh.stragglers import Stragglers
from expertmesh.tracing.tracer import Tracer

# Of a hundred calls, how many may be sent twice, and how many of those that were not are saved for hard times.
EXTRA_SHARE = 0.05
MAX_SAVED = 10.0


class Budget:
    """How many calls may be sent twice now."""

    def __init__(self) -> None:
        self._saved = 1.0

    def earn(self) -> None:
        """Count a call."""
        self._saved = min(MAX_SAVED, self._saved + EXTRA_SHARE)

    def spend(self) -> bool:
        """Count a call that is sent twice, if there may be one."""
        is_enough = self._saved >= 1.0
        self._saved -= is_enough
        return is_enough


class Hedges:
    """Chooses and asks second replicas, for the thread of the steps."""

    def __init__(self, roster: Roster, stragglers: Stragglers, rng: random.Random, tracer: Tracer) -> None:
        self._roster = roster
        self._stragglers = stragglers
        self._rng = rng
        self._tracer = tracer
        self._budget = Budget()

    def after_seconds(self, attempt: Attempt, num_rows: int) -> float | None:
        """Count a call, and say when it had better be sent again; None when nobody else could answer it.

        That is when it takes longer than 99 of 100 calls to the fastest replica that could.
        """
        self._budget.earn()
        twins = self._twins(attempt)
        known = [replica.latency.hedge_after(num_rows) for replica in (attempt.replica, *twins)] if twins else []
        return min((seconds for seconds in known if seconds is not None), default=None)

    def send(self, attempt: Attempt, ticket: Ticket, now: float) -> Attempt | None:
        """Ask somebody else, and hold them; None when there is nobody, or when too many calls were sent twice.

        ``now`` is by ``time.monotonic``.
        """
        twins = self._twins(attempt)
        if not (twins and self._budget.spend()):
            return None
        replica = pick_replica(twins, ticket.num_rows, now, self._rng)
        if not replica.hold():
            return None
        try:
            sent = send_traced(self._tracer, replica, attempt.experts, ticket.call)
        except LinkLostError:
            replica.release()
            return None
        return Attempt(replica, attempt.experts, attempt.rows, sent)

    def _twins(self, attempt: Attempt) -> list[Replica]:
        ready, *others = (self._roster.ready(expert) for expert in attempt.experts)
        if len(ready) < 2:
            return []
        return [
            replica
            for replica in ready
            if replica is not attempt.replica
            and all(replica in other for other in others)
            and not self._stragglers.have(replica)
        ]
