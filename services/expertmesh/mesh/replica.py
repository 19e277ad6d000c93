"""One expert server as the gateway sees it: a connection that comes back by itself, and calls over it.

Knows the wire and the state of one endpoint, not which experts a token needs.
"""

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import grpc

from expertmesh.discovery.picker import Health
from expertmesh.errors import ExpertmeshError, FingerprintMismatchError
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.replica_stats import CallTimes, ReplicaStats
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, ExpertResult, decode_response, encode_request
from expertmesh.wire.failures import CallFailure, FailureCode, WireError
from expertmesh.wire.info import ServerInfo, decode_info

_log = logging.getLogger(__name__)

Stream = grpc.aio.StreamStreamCall[expert_pb2.DispatchRequest, expert_pb2.DispatchResponse]

GET_INFO_TIMEOUT_SECONDS = 5.0
MIN_BACKOFF_SECONDS = 0.1
# A server that comes back at an address that never changes shall be found again within a second.
MAX_BACKOFF_SECONDS = 1.0
MISMATCH_BACKOFF_SECONDS = 5.0
# A server that never answers what it owes is let go after so long.
RETIREMENT_SECONDS = 60.0
# Failures that say nothing against the replica: it is full, it leaves, or it was asked for the wrong thing.
INNOCENT = frozenset({FailureCode.BUSY, FailureCode.DRAINING, FailureCode.INVALID_REQUEST})


class ReplicaLostError(ExpertmeshError):
    """The connection ended before the answer came."""


@dataclass(frozen=True)
class Ticket:
    """A call that was sent: ``answer`` gets its result, a CallFailure, or ReplicaLostError when the connection ends."""

    request_id: int
    num_rows: int
    sent: float
    answer: asyncio.Future[ExpertResult]


class Replica:
    """An expert server at one endpoint: kept connected by ``run``, asked by ``send``.

    Sending is not awaited and makes no task: at a row or two per call, tasks would cost more than the transport.
    """

    def __init__(self, endpoint: str, fingerprint: str, on_change: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self.experts: frozenset[int] = frozenset()
        self.inflight_rows = 0
        self.started_at = 0.0
        self.health = Health()
        self.stats = ReplicaStats()
        self._fingerprint = fingerprint
        self._on_change = on_change
        self._is_connected = False
        self._is_draining = False
        self._retired = asyncio.Event()
        self._rng = random.Random()
        self._backoff = MIN_BACKOFF_SECONDS
        self._ids = itertools.count()
        self._owed: dict[int, Ticket] = {}
        self._unsent: deque[expert_pb2.DispatchRequest] = deque()
        self._has_unsent = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether a call sent now would reach a server that takes it."""
        return self._is_connected and not self._is_draining and not self.is_retired

    @property
    def is_retired(self) -> bool:
        """Whether it was told to finish what it has and to end."""
        return self._retired.is_set()

    @property
    def state(self) -> ReplicaState:
        """How it is, in one word."""
        if self.is_retired:
            return ReplicaState.RETIRED
        if self.health.is_ejected(time.monotonic()):
            return ReplicaState.EJECTED
        return ReplicaState.READY if self.is_ready else ReplicaState.CONNECTING

    async def run(self) -> None:
        """Connect, exchange messages until the connection ends, and connect again; until retired or cancelled."""
        while not self.is_retired:
            try:
                await self._serve_connection()
            except FingerprintMismatchError as error:
                _log.error("refusing replica: %s", error)
                self._backoff = MISMATCH_BACKOFF_SECONDS
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ReplicaLostError) as error:
                self._log_end(error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), self._backoff * self._rng.uniform(0.5, 1.0))
            self._backoff = min(2 * self._backoff, MAX_BACKOFF_SECONDS)

    def retire(self) -> None:
        """Take no new calls; ``run`` ends once those sent before are answered."""
        self._retired.set()
        self._has_unsent.set()
        self._on_change()

    def blame(self) -> None:
        """Count an error against the replica; several in a row eject it for a while."""
        ejected_until = self.health.ejected_until
        self.health = self.health.after_error(time.monotonic(), self._rng)
        if self.health.ejected_until > ejected_until:
            self.started_at = self.health.ejected_until
            _log.warning("replica %s fails; left alone for a while where others can do its work", self.endpoint)
            self._on_change()

    def send(self, call: ExpertCall) -> Ticket:
        """Send one call; hand the ticket to ``settle`` when its answer has come or nobody waits for it any more."""
        answer: asyncio.Future[ExpertResult] = asyncio.get_running_loop().create_future()
        ticket = Ticket(next(self._ids), call.hidden.shape[0], time.perf_counter(), answer)
        self._owed[ticket.request_id] = ticket
        self.inflight_rows += ticket.num_rows
        if self.is_ready:
            self._unsent.append(encode_request(ticket.request_id, call))
            self._has_unsent.set()
        else:
            answer.set_exception(ReplicaLostError(f"replica {self.endpoint} takes no calls now"))
        return ticket

    def settle(self, ticket: Ticket) -> None:
        """Forget a call and count how it went; without an answer, its ticket is cancelled."""
        del self._owed[ticket.request_id]
        self.inflight_rows -= ticket.num_rows
        answer = ticket.answer
        if not answer.done() or answer.cancelled() or answer.exception():
            self.stats.num_failed_calls += 1
            answer.cancel()

    async def _serve_connection(self) -> None:
        async with open_channel(self.endpoint) as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            info = decode_info(await stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=GET_INFO_TIMEOUT_SECONDS))
            self._check(info)
            stream = stub.Dispatch(metadata=((FINGERPRINT_KEY, self._fingerprint),))
            self._connect(info)
            exchange = [asyncio.create_task(part) for part in (self._read(stream), self._write(stream))]
            try:
                done, _ = await asyncio.wait(exchange, return_when=asyncio.FIRST_COMPLETED)
                if self.is_retired and not any(task.exception() for task in done):
                    await asyncio.wait(exchange, timeout=RETIREMENT_SECONDS)
            finally:
                for task in exchange:
                    task.cancel()
                self._disconnect()
                ends = await asyncio.gather(*exchange, return_exceptions=True)
            raise next((end for end in ends if isinstance(end, Exception)), ReplicaLostError("the stream ended"))

    async def _write(self, stream: Stream) -> None:
        """Write what is unsent, one message at a time; when retired, say that nothing more will come."""
        while not self.is_retired:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            while self._unsent:
                await stream.write(self._unsent.popleft())
        await stream.done_writing()

    async def _read(self, stream: Stream) -> None:
        while isinstance(response := await stream.read(), expert_pb2.DispatchResponse):
            self._deliver(response)
            # Who waits for the answer goes on first: to ask for the next one takes time, too.
            await asyncio.sleep(0)

    def _check(self, info: ServerInfo) -> None:
        if info.fingerprint != self._fingerprint:
            raise FingerprintMismatchError(
                f"{self.endpoint} serves model {info.fingerprint}, this gateway serves {self._fingerprint}; "
                "start both from the same checkpoint"
            )

    def _connect(self, info: ServerInfo) -> None:
        self._is_connected = True
        self._is_draining = False
        self.started_at = max(time.monotonic(), self.health.ejected_until)
        self._backoff = MIN_BACKOFF_SECONDS
        self.experts = frozenset(info.experts)
        _log.info("replica %s is ready with experts %s", self.endpoint, list(info.experts))
        self._on_change()

    def _disconnect(self) -> None:
        self._is_connected = False
        self._unsent.clear()
        lost = [ticket for ticket in self._owed.values() if not ticket.answer.done()]
        for ticket in lost:
            ticket.answer.set_exception(ReplicaLostError(f"replica {self.endpoint} went away before it answered"))
        if lost and not self._is_draining and not self.is_retired:
            self.blame()
        self._on_change()

    def _deliver(self, response: expert_pb2.DispatchResponse) -> None:
        ticket = self._owed.get(response.request_id)
        if ticket is None or ticket.answer.done():
            return
        try:
            outcome = decode_response(response)
        except WireError as error:
            outcome = CallFailure(FailureCode.UNSPECIFIED, f"{self.endpoint} answered with a damaged tensor: {error}")
        if isinstance(outcome, CallFailure):
            ticket.answer.set_exception(outcome)
            self._judge(outcome.code)
        else:
            ticket.answer.set_result(outcome)
            if self.health.num_consecutive_errors:
                self.health = self.health.after_success()
            latency_seconds = time.perf_counter() - ticket.sent
            self.stats.record(CallTimes(latency_seconds, outcome.queue_seconds, outcome.compute_seconds))

    def _judge(self, code: FailureCode) -> None:
        """Draw the consequences of a failed call."""
        if code is FailureCode.DRAINING:
            self._is_draining = True
            self._on_change()
        elif code not in INNOCENT:
            self.blame()

    def _log_end(self, error: Exception) -> None:
        # A replica that was there is worth a warning, one that is not there yet or is meant to end is not.
        level = logging.WARNING if self.experts and not self.is_retired else logging.DEBUG
        reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
        _log.log(level, "replica %s: %s", self.endpoint, reason)
