"""Rows of a layer step that are sent together: to the replicas of their experts, and again where these fail.

Knows replicas and calls; call_rows.py knows the rows in them, waiting.py when an answer is late, retry.py and
refusals.py what becomes of failures. Alphabet: T rows of the piece, U rows of one call, D hidden width.
"""

import random
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from expertmesh.discovery.picker import pick_replica
from expertmesh.mesh.answers import ReplicaFaultError
from expertmesh.mesh.attempt import Attempt
from expertmesh.mesh.call_rows import Partial, combine, select_rows
from expertmesh.mesh.call_spans import send_traced
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.expert_load import StepLoad
from expertmesh.mesh.failure import Failure
from expertmesh.mesh.hedges import Hedges
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.refusals import Refusals
from expertmesh.mesh.replica import Replica, Ticket
from expertmesh.mesh.retry import is_damage, is_passing, retry_pauses
from expertmesh.mesh.roster import Roster
from expertmesh.mesh.shortage import Shortage
from expertmesh.mesh.stragglers import Stragglers
from expertmesh.mesh.waiting import Waiting
from expertmesh.tracing.tracer import Tracer
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure


@dataclass(frozen=True)
class Dispatch:
    """What all layer steps share."""

    roster: Roster
    config: DispatchConfig
    rng: random.Random
    tracer: Tracer
    stragglers: Stragglers
    hedges: Hedges


@dataclass
class Trials:
    """What the pieces of one layer step share: the time for all, and which replicas have failed."""

    deadline: float
    waiting: Waiting
    avoid: set[Replica] = field(default_factory=set)


class Piece:
    """Rows on their way through their experts, for the thread that sent them.

    Replicas are held from the moment that they are picked until they have answered.
    """

    def __init__(
        self, dispatch: Dispatch, trials: Trials, rows: ExpertCall, shortage: Shortage, load: StepLoad
    ) -> None:
        self._roster = dispatch.roster
        self._config = dispatch.config
        self._rng = dispatch.rng
        self._tracer = dispatch.tracer
        self._stragglers = dispatch.stragglers
        self._trials = trials
        self._rows = rows
        self._shortage = shortage
        self._load = load
        self._pauses = retry_pauses()
        self._refusals = Refusals(rows.layer)
        self._held: set[Replica] = set()
        self._attempts: deque[Attempt] = deque()
        self._partials: list[Partial] = []

    @property
    def num_rows(self) -> int:
        """Rows T."""
        return self._rows.hidden.shape[0]

    def send(self) -> None:
        """Send every replica its rows; what fails at once is sent again by ``receive``."""
        self._ask(self._load.experts)

    def receive(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return, for each row, the sum of weight x expert(row) [T, D] float32, in ``out`` if that is given.

        A call that fails is sent again, to another replica if there is one: once if it is refused, and for a reason
        that passes again and again. An expert without any replica is waited for or done without, see ``Shortage``.
        Raises NoReplicaError when that may not be or takes too long, and ComputeError when a second replica refuses it
        too.
        """
        while failure := self._receive_all():
            self._pause(failure)
            self._ask(self._missing())
        self._refusals.blame()
        total = self._shortage.conclude(combine(self._partials, self._rows.hidden.shape, out), out)
        self.end()
        return total

    def end(self) -> None:
        """Wait for nothing any more."""
        while self._attempts:
            attempt = self._attempts.popleft()
            if isinstance(attempt.sent, Ticket):
                attempt.replica.forget(attempt.sent)
        for replica in self._held:
            replica.release()
        self._held.clear()
        self._partials.clear()
        self._load.end()

    def _ask(self, experts: Iterable[int]) -> None:
        for replica, chosen in self._assign(experts).items():
            self._attempts.append(self._send(replica, tuple(chosen)))

    def _assign(self, experts: Iterable[int]) -> Mapping[Replica, list[int]]:
        """Choose a replica for each expert, in their order, but for those that are dropped."""
        assignment: dict[Replica, list[int]] = {}
        now = time.monotonic()
        for expert in sorted(experts):
            replica = self._pick(expert, now)
            if replica is None:
                self._load.dropped(expert)
            else:
                assignment.setdefault(replica, []).append(expert)
        return assignment

    def _pick(self, expert: int, now: float) -> Replica | None:
        """Choose and hold a replica; one that failed in this step, or still owes an answer, is the last resort.

        None where the expert is dropped.
        """
        while ready := self._roster.ready(expert) or self._shortage.wait_for(expert):
            candidates = [replica for replica in ready if self._is_to_be_asked(replica)] if len(ready) > 1 else ready
            replica = pick_replica(candidates or ready, self._load.num_rows(expert), now, self._rng)
            if replica in self._held:
                return replica
            if replica.hold():  # if not, it has just retired
                self._held.add(replica)
                return replica
        return None

    def _is_to_be_asked(self, replica: Replica) -> bool:
        return replica not in self._trials.avoid and not self._stragglers.have(replica)

    def _send(self, replica: Replica, experts: tuple[int, ...]) -> Attempt:
        rows, call = select_rows(self._rows, experts, replica.take_room)
        try:
            sent: Ticket | LinkLostError = send_traced(self._tracer, replica, experts, call)
        except LinkLostError as error:
            sent = error
        self._load.sent(experts, sent.num_bytes if isinstance(sent, Ticket) else 0)
        return Attempt(replica, experts, rows, sent)

    def _receive_all(self) -> Failure | None:
        """Wait for all attempts, in the order of their experts; returns a failure after which to ask again."""
        failure = None
        while self._attempts:
            attempt = self._attempts.popleft()
            try:
                self._partials.append(Partial(attempt.experts, attempt.rows, self._receive(attempt)))
            except (LinkLostError, CallFailure, ReplicaFaultError) as error:
                # As it is, the error would keep the memory of its call.
                failure = Failure.of(attempt.replica.endpoint, error)
                if not is_passing(error):
                    self._refusals.note(attempt, error)
                self._load.failed(attempt.experts, is_damage(error))
                self._trials.avoid.add(attempt.replica)
            self._held.discard(attempt.replica)
            attempt.replica.release()
        return failure

    def _receive(self, attempt: Attempt) -> torch.Tensor:
        """Return the partial rows [U, D] of an attempt."""
        ticket = attempt.sent
        if isinstance(ticket, LinkLostError):
            raise ticket
        partial = self._trials.waiting.receive(ticket, attempt, self._load).partial
        self._load.called(attempt.experts, time.perf_counter() - ticket.sent, ticket.num_rows, partial.nbytes)
        self._load.answered(attempt.experts)
        return partial

    def _missing(self) -> set[int]:
        """Experts that have not answered, and are not dropped."""
        answered = (partial.experts for partial in self._partials)
        return set(self._load.experts).difference(self._shortage.dropped, *answered)

    def _pause(self, failure: Failure) -> None:
        pause = next(self._pauses)
        if time.monotonic() + pause <= self._trials.deadline:
            self._roster.pause(pause)
            return
        missing = sorted(self._missing())
        self._shortage.give_up(
            missing,
            f"experts {missing} of layer {self._rows.layer} did not answer within {self._config.wait_seconds:g} s; "
            f"last failure: {failure.told}",
            failure.logged,
        )
        for expert in missing:
            self._load.dropped(expert)
