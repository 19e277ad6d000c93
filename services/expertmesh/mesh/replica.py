"""One expert server as the gateway sees it: what it owes, how it has answered, whether it can be called.

Knows the link to it and the answers of one endpoint, neither how it is connected nor which experts a token needs.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from expertmesh.mesh.answers import ReplicaFaultError, check_answer
from expertmesh.mesh.health import Health
from expertmesh.mesh.latency import LatencyBook
from expertmesh.mesh.link import Link, LinkLostError
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.replica_stats import CallTimes, ReplicaStats
from expertmesh.tracing.tracer import NullSpan, Span, UnwantedError
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode

_log = logging.getLogger(__name__)

_NO_SPAN = NullSpan()


@dataclass(frozen=True, eq=False)
class Ticket:
    """A call under way, to be answered (``receive``), given up or forgotten, once; ``num_bytes`` were sent with it.

    ``sent`` is when, by ``time.perf_counter``.
    """

    call_id: int
    call: ExpertCall
    link: Link
    num_bytes: int
    sent: float
    span: Span

    @property
    def num_rows(self) -> int:
        """Rows of the call."""
        return self.call.hidden.shape[0]


class Replica:
    """An expert server at one endpoint, shared by two threads.

    One connects it (``connect``, ``disconnect``, ``retire``), the other, that of the steps, does the rest. Everything
    may be read from anywhere; ``on_change`` is called in either thread whenever it may be ready or not any more.
    """

    def __init__(self, endpoint: str, on_change: Callable[[], None] = lambda: None) -> None:
        self.endpoint = endpoint
        self.experts: frozenset[int] = frozenset()
        self.numerics = ""
        self.digests: Mapping[int, str] = {}
        self.inflight_rows = 0
        self.started_at = 0.0
        self.health = Health()
        self.stats = ReplicaStats()
        self.latency = LatencyBook()
        self.is_retired = False
        self._on_change = on_change
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._lost: Link | None = None
        self._is_draining = False
        self._num_holders = 0
        self._rng = random.Random()
        self._ids = itertools.count()

    @property
    def is_ready(self) -> bool:
        """Whether a call sent now would reach a server that takes it."""
        return self._link is not None and not self._is_draining and not self.is_retired

    @property
    def is_held(self) -> bool:
        """Whether anybody is about to call it or waits for an answer."""
        return self._num_holders > 0

    @property
    def state(self) -> ReplicaState:
        """How it is, in one word."""
        if self.is_retired:
            return ReplicaState.RETIRED
        if self.health.is_ejected(time.monotonic()):
            return ReplicaState.EJECTED
        return ReplicaState.READY if self.is_ready else ReplicaState.CONNECTING

    def expected_seconds(self, num_rows: int) -> float | None:
        """How long it has taken for such calls lately; None when it has not answered any."""
        return self.latency.expected_seconds(num_rows)

    def connect(
        self, link: Link, experts: frozenset[int], numerics: str = "", digests: Mapping[int, str] | None = None
    ) -> None:
        """Be called over ``link`` from now on.

        ``numerics`` says what the bits of its answers depend on, ``digests`` what its weights are, where that is known.
        """
        self.started_at = max(time.monotonic(), self.health.ejected_until)
        self.experts, self.numerics, self.digests = experts, numerics, digests or {}
        with self._lock:
            self._link, self._is_draining = link, False
        self._on_change()

    def disconnect(self, link: Link) -> None:
        """Be called over ``link`` no more."""
        with self._lock:
            if self._link is link:
                self._link = None
        self._on_change()

    def retire(self) -> None:
        """Take no new holders."""
        with self._lock:
            self.is_retired = True
        self._on_change()

    def hold(self) -> bool:
        """Keep the replica connected, even if it retires, until ``release``; False when it has retired already."""
        with self._lock:
            if not self.is_retired:
                self._num_holders += 1
            return not self.is_retired

    def release(self) -> None:
        """Need the replica no more."""
        with self._lock:
            self._num_holders -= 1

    def take_room(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """Return memory where the hidden states of a call had better be, see ``Link``."""
        link = self._link
        return None if link is None else link.take_room(shape, dtype)

    def send(self, call: ExpertCall, span: Span = _NO_SPAN) -> Ticket:
        """Send a call and return at once; ``span`` ends with its answer. LinkLostError when that is not possible."""
        link, call_id, now = self._link, next(self._ids), time.perf_counter()
        try:
            if link is None:
                raise LinkLostError(f"replica {self.endpoint} takes no calls now")
            num_bytes = link.send(call_id, call)
        except LinkLostError as error:
            self.stats.num_failed_calls += 1
            span.end(error)
            raise
        ticket = Ticket(call_id, call, link, num_bytes, now, span)
        self.inflight_rows += ticket.num_rows
        return ticket

    def receive(self, ticket: Ticket, timeout_seconds: float) -> ExpertResult:
        """Wait for the answer to a call.

        TimeoutError when it does not come in time, but may still come. CallFailure is the server's, LinkLostError when
        the connection ends before, ReplicaFaultError for an answer that cannot be right.
        """
        began = time.perf_counter()
        try:
            result = ticket.link.receive(ticket.call_id, timeout_seconds)
            check_answer(ticket.call, result)
        except (CallFailure, LinkLostError, ReplicaFaultError) as error:
            self._settle(ticket, error)
            self._judge(error, ticket.link)
            raise
        self._settle(ticket)
        if not self.health.is_proven:
            self.health = self.health.after_success(time.monotonic())
        now = time.perf_counter()
        latency_seconds = now - ticket.sent
        self.latency.record(ticket.num_rows, latency_seconds, now - began)
        self.stats.record(CallTimes(latency_seconds, result.queue_seconds, result.compute_seconds))
        return result

    def give_up(self, ticket: Ticket) -> LinkLostError:
        """Wait no more for the answer to a call, and leave the replica alone; returns how the call has failed."""
        seconds = time.perf_counter() - ticket.sent
        error = LinkLostError(f"{self.endpoint} did not answer within {seconds:.1f} s")
        self._settle(ticket, error)
        self.blame(is_grave=True)
        return error

    def forget(self, ticket: Ticket) -> None:
        """Need the answer to a call no more."""
        self._settle(ticket, UnwantedError("nobody waits for the answer any more"))

    def blame(self, is_grave: bool = False) -> None:
        """Count an error against the replica; several in a row, or a grave one, eject it for a while."""
        ejected_until = self.health.ejected_until
        self.health = self.health.after_error(time.monotonic(), self._rng, is_grave)
        if self.health.ejected_until > ejected_until:
            self.started_at = self.health.ejected_until
            _log.warning("replica %s fails; left alone for a while where others can do its work", self.endpoint)
            self._on_change()

    def _settle(self, ticket: Ticket, error: Exception | None = None) -> None:
        self.inflight_rows -= ticket.num_rows
        if error is not None:
            self.stats.num_failed_calls += 1
            ticket.link.forget(ticket.call_id)
        ticket.span.end(error)

    def _judge(self, error: CallFailure | LinkLostError | ReplicaFaultError, link: Link) -> None:
        """Draw the consequences of a failed call; whether a refusal is just, only another replica can say."""
        if isinstance(error, LinkLostError):
            self._lose(link)
        elif isinstance(error, ReplicaFaultError):
            self.blame()
        elif error.code is FailureCode.DRAINING:
            self._drain(link)
        elif error.code is FailureCode.DAMAGED:
            _log.warning("replica %s: %s", self.endpoint, error)
            self.blame()
        elif error.code is FailureCode.DEADLINE_EXCEEDED:
            self.blame()

    def _lose(self, link: Link) -> None:
        """Note that a link is gone: one error, however many calls were under way, and none of one that was to end."""
        if link is not self._lost and not self._is_draining and not self.is_retired:
            self.blame()
        self._lost = link
        self.disconnect(link)

    def _drain(self, link: Link) -> None:
        with self._lock:
            if self._link is link:
                self._is_draining = True
        self._on_change()
