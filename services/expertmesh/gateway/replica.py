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
from dataclasses import dataclass, replace
from statistics import median

import grpc

from expertmesh.errors import ExpertmeshError, FingerprintMismatchError
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, ExpertResult, decode_response, encode_request
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.info import ServerInfo, decode_info
from expertmesh.wire.tensors import WireError

_log = logging.getLogger(__name__)

Stream = grpc.aio.StreamStreamCall[expert_pb2.DispatchRequest, expert_pb2.DispatchResponse]

GET_INFO_TIMEOUT_SECONDS = 5.0
MIN_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0
NUM_LATENCIES = 512


class ReplicaLostError(ExpertmeshError):
    """The connection ended before the answer came."""


@dataclass
class ReplicaStats:
    """What a replica has done since the gateway knows it."""

    num_calls: int = 0
    num_failed_calls: int = 0

    def __post_init__(self) -> None:
        self._latencies: deque[float] = deque(maxlen=NUM_LATENCIES)

    def record(self, latency_seconds: float) -> None:
        """Count an answered call."""
        self.num_calls += 1
        self._latencies.append(latency_seconds)

    @property
    def latency_p50_seconds(self) -> float:
        """Median over the last calls, from sending to answer; 0 before the first."""
        return median(self._latencies) if self._latencies else 0.0


class Replica:
    """An expert server at one endpoint: kept connected by ``run``, asked by ``call``."""

    def __init__(self, endpoint: str, fingerprint: str, on_change: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self.experts: frozenset[int] = frozenset()
        self.inflight_rows = 0
        self.stats = ReplicaStats()
        self._fingerprint = fingerprint
        self._on_change = on_change
        self._stream: Stream | None = None
        self._write_lock = asyncio.Lock()
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[ExpertResult]] = {}

    @property
    def is_ready(self) -> bool:
        """Whether a call sent now would reach the server."""
        return self._stream is not None

    async def run(self) -> None:
        """Connect, read answers until the connection ends, and connect again; until cancelled."""
        backoff = MIN_BACKOFF_SECONDS
        while True:
            try:
                await self._serve_connection()
                _log.warning("replica %s ended the connection", self.endpoint)
                backoff = MIN_BACKOFF_SECONDS
            except FingerprintMismatchError as error:
                _log.error("refusing replica: %s", error)
                backoff = MAX_BACKOFF_SECONDS
            except grpc.aio.AioRpcError as error:
                # A replica that was there is worth a warning, one that is not there yet is not.
                level = logging.WARNING if self.experts else logging.DEBUG
                _log.log(level, "replica %s: %s", self.endpoint, error.details())
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def call(self, call: ExpertCall) -> ExpertResult:
        """Send one call and wait for its answer.

        Raises CallFailure with the server's reason, or ReplicaLostError when there is no connection or it breaks.
        """
        num_rows = call.hidden.shape[0]
        self.inflight_rows += num_rows
        sent = time.perf_counter()
        try:
            result = await self._exchange(call)
        except ExpertmeshError:
            self.stats.num_failed_calls += 1
            raise
        finally:
            self.inflight_rows -= num_rows
        self.stats.record(time.perf_counter() - sent)
        return result

    async def _exchange(self, call: ExpertCall) -> ExpertResult:
        stream = self._stream
        if stream is None:
            raise ReplicaLostError(f"replica {self.endpoint} is not connected")
        request_id = next(self._ids)
        answer: asyncio.Future[ExpertResult] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            async with self._write_lock:
                await stream.write(encode_request(request_id, call))
            return await answer
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise ReplicaLostError(f"replica {self.endpoint} was lost while sending: {error}") from error
        finally:
            del self._waiting[request_id]

    async def _serve_connection(self) -> None:
        async with open_channel(self.endpoint) as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            info = decode_info(await stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=GET_INFO_TIMEOUT_SECONDS))
            self._check(info)
            stream = stub.Dispatch(metadata=((FINGERPRINT_KEY, self._fingerprint),))
            self._connect(stream, frozenset(info.experts))
            try:
                async for response in stream:
                    self._deliver(response)
            finally:
                self._disconnect()

    def _check(self, info: ServerInfo) -> None:
        if info.fingerprint != self._fingerprint:
            raise FingerprintMismatchError(
                f"{self.endpoint} serves model {info.fingerprint}, this gateway serves {self._fingerprint}; "
                "start both from the same checkpoint"
            )

    def _connect(self, stream: Stream, experts: frozenset[int]) -> None:
        self._stream = stream
        self.experts = experts
        _log.info("replica %s is ready with experts %s", self.endpoint, sorted(experts))
        self._on_change()

    def _disconnect(self) -> None:
        self._stream = None
        lost = ReplicaLostError(f"replica {self.endpoint} went away before it answered")
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(lost)
        self._on_change()

    def _deliver(self, response: expert_pb2.DispatchResponse) -> None:
        answer = self._waiting.get(response.request_id)
        if answer is None or answer.done():
            return
        try:
            outcome = decode_response(response)
        except WireError as error:
            outcome = CallFailure(FailureCode.UNSPECIFIED, f"{self.endpoint} answered with a damaged tensor: {error}")
        if isinstance(outcome, CallFailure):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


def split_call(call: ExpertCall, max_bytes: int) -> list[ExpertCall]:
    """Cut a call into calls of at most ``max_bytes`` of hidden states each; rows keep their order."""
    num_rows, width = call.hidden.shape
    step = max(1, max_bytes // (width * call.hidden.element_size()))
    return [
        replace(
            call,
            hidden=call.hidden[start : start + step],
            topk_ids=call.topk_ids[start : start + step],
            topk_weights=call.topk_weights[start : start + step],
        )
        for start in range(0, num_rows, step)
    ]
