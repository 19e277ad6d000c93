"""How long a layer step waits for an answer. Knows times and who could be asked instead, not what was asked."""

import time

from expertmesh.mesh.answers import ReplicaFaultError
from expertmesh.mesh.attempt import Attempt
from expertmesh.mesh.expert_load import StepLoad
from expertmesh.mesh.hedges import Hedges
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Ticket
from expertmesh.mesh.roster import Roster
from expertmesh.mesh.stragglers import Stragglers
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.failures import CallFailure

# How often somebody who waits for a late answer looks for another replica to ask.
LOOK_SECONDS = 0.25
# What has arrived while the thread did something else is found within this.
GRACE_SECONDS = 0.05
# The same where another replica can be asked meanwhile, and how long each of two is listened to in turn.
HEDGE_GRACE_SECONDS = 0.01
TURN_SECONDS = 0.002


class Waiting:
    """Waits for the answers of one layer step: at most ``timeout_seconds`` for each.

    A call that takes longer than such calls do is sent to another replica, too, within bounds (``hedges``), and the
    first answer taken; the other is left to the ``stragglers``. One that is late is given up, as soon as other replicas
    could answer, or when the step is to end, at ``deadline`` by ``time.monotonic``.
    """

    def __init__(
        self, roster: Roster, hedges: Hedges, stragglers: Stragglers, timeout_seconds: float, deadline: float
    ) -> None:
        self._roster = roster
        self._hedges = hedges
        self._stragglers = stragglers
        self._timeout_seconds = timeout_seconds
        self._deadline = deadline
        self._num_late = 0

    def receive(self, ticket: Ticket, attempt: Attempt, load: StepLoad) -> ExpertResult:
        """Wait for an answer; LinkLostError when it is given up, else as ``Replica.receive``."""
        hedge_after = self._hedges.after_seconds(attempt, ticket.num_rows)
        if hedge_after is None:
            return self._receive_late(ticket, attempt)
        remaining = ticket.sent + hedge_after - time.perf_counter()
        try:
            return attempt.replica.receive(ticket, max(remaining, HEDGE_GRACE_SECONDS))
        except TimeoutError:
            second = self._hedges.send(attempt, ticket, time.monotonic())
        if second is None or not isinstance(second.sent, Ticket):
            return self._receive_late(ticket, attempt)
        load.hedged(attempt.experts, second.sent.num_bytes)
        try:
            return self._race({ticket: attempt, second.sent: second}, ticket)
        finally:
            second.replica.release()

    def _race(self, running: dict[Ticket, Attempt], first: Ticket) -> ExpertResult:
        """Take the answer that comes first; raises what the ``first`` call failed with when none comes."""
        reason: Exception | None = None
        while running:
            for ticket, attempt in list(running.items()):
                try:
                    result = attempt.replica.receive(ticket, TURN_SECONDS)
                except TimeoutError:
                    if time.perf_counter() < self._late_at(ticket, attempt):
                        continue
                    self._num_late += 1
                    failure: Exception = attempt.replica.give_up(ticket)
                except (LinkLostError, CallFailure, ReplicaFaultError) as error:
                    failure = error
                else:
                    del running[ticket]
                    for other, loser in running.items():
                        self._stragglers.leave(loser.replica, other, self._late_at(other, loser))
                    return result
                del running[ticket]
                reason = failure if ticket is first else reason
        assert reason is not None, "each call is answered or fails"
        try:
            raise reason
        finally:
            del reason, failure  # their tracebacks know this frame and the calls in it

    def _receive_late(self, ticket: Ticket, attempt: Attempt) -> ExpertResult:
        last = ticket.sent + self._timeout_seconds
        until = self._late_at(ticket, attempt)
        while True:
            try:
                return attempt.replica.receive(ticket, max(until - time.perf_counter(), GRACE_SECONDS))
            except TimeoutError:
                now, left = time.perf_counter(), self._deadline - time.monotonic()
                if now >= last or left <= 0 or self._has_twins(attempt):
                    self._num_late += 1
                    raise attempt.replica.give_up(ticket) from None
                until = min(last, now + LOOK_SECONDS, now + left)

    def _late_at(self, ticket: Ticket, attempt: Attempt) -> float:
        """When an answer is late, by ``time.perf_counter``: what the replica took before, or another while it is new.

        Twice as long after each that was late: maybe all replicas have become slow.
        """
        seconds = attempt.replica.latency.late_after(ticket.num_rows)
        if seconds is None:
            others = (replica.latency.late_after(ticket.num_rows) for replica in self._roster.replicas)
            seconds = next((other for other in others if other is not None), self._timeout_seconds)
        times: int = 2**self._num_late
        return ticket.sent + min(self._timeout_seconds, seconds * times)

    def _has_twins(self, attempt: Attempt) -> bool:
        """Whether all that was asked of a replica can be asked of others."""
        return all(
            any(replica is not attempt.replica for replica in self._roster.ready(expert)) for expert in attempt.experts
        )
