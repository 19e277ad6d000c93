"""A link over the Dispatch stream of an event loop, which runs in another thread than the steps.

Knows messages and the two threads, not which calls are made.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from expertmesh.mesh.link import Link, LinkLostError
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, ExpertResult, decode_response, encode_request
from expertmesh.wire.failures import CallFailure, FailureCode, WireError

Stream = grpc.aio.StreamStreamCall[expert_pb2.DispatchRequest, expert_pb2.DispatchResponse]


@dataclass(frozen=True)
class OpenLink:
    """A link, and what ends when its connection does."""

    link: Link
    ended: "asyncio.Task[None]"


@asynccontextmanager
async def open_link(
    stub: expert_pb2_grpc.ExpertServiceStub, fingerprint: str, endpoint: str
) -> AsyncIterator[OpenLink]:
    """Keep a link to the server behind ``stub`` open inside the ``async with``."""
    link = StreamLink(stub.Dispatch(metadata=((FINGERPRINT_KEY, fingerprint),)), endpoint)
    ended = asyncio.create_task(link.run())
    try:
        yield OpenLink(link, ended)
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


class StreamLink:
    """Calls go to the loop one by one, answers are laid out for the thread that waits for them.

    ``run`` belongs to the loop that makes it, the methods of ``Link`` to any other thread.
    """

    def __init__(self, stream: Stream, endpoint: str) -> None:
        self._stream = stream
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[expert_pb2.DispatchRequest] = deque()
        self._has_unsent = asyncio.Event()
        # For each call under way its answer, None before it comes.
        self._answers: dict[int, expert_pb2.DispatchResponse | None] = {}
        self._has_news = threading.Condition()
        self._is_lost = False

    def send(self, call_id: int, call: ExpertCall) -> int:
        """See ``Link``."""
        request = encode_request(call_id, call)
        with self._has_news:
            self._check_is_there()
            self._answers[call_id] = None
            self._loop.call_soon_threadsafe(self._put, request)
        return call.num_bytes

    def receive(self, call_id: int, timeout_seconds: float) -> ExpertResult:
        """See ``Link``."""
        with self._has_news:
            if not self._has_news.wait_for(lambda: self._answers[call_id] or self._is_lost, timeout_seconds):
                raise TimeoutError
            response = self._answers.pop(call_id)
            if response is None:
                self._check_is_there()
        assert response is not None
        return self._read_answer(response)

    def forget(self, call_id: int) -> None:
        """See ``Link``."""
        with self._has_news:
            self._answers.pop(call_id, None)

    def close(self) -> None:
        """See ``Link``."""
        with self._has_news:
            self._is_lost = True
            self._has_news.notify_all()

    async def run(self) -> None:
        """Exchange messages until the connection ends, which the link is told."""
        exchange = [asyncio.create_task(part) for part in (self._read_all(), self._write_all())]
        try:
            done, _ = await asyncio.wait(exchange, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.close()
            for task in exchange:
                task.cancel()
            await asyncio.gather(*exchange, return_exceptions=True)
            self._stream.cancel()

    def _put(self, request: expert_pb2.DispatchRequest) -> None:
        self._unsent.append(request)
        self._has_unsent.set()

    async def _write_all(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            while self._unsent:
                await self._stream.write(self._unsent.popleft())

    async def _read_all(self) -> None:
        while isinstance(response := await self._stream.read(), expert_pb2.DispatchResponse):
            with self._has_news:
                if response.request_id in self._answers:
                    self._answers[response.request_id] = response
                    self._has_news.notify_all()

    def _check_is_there(self) -> None:
        if self._is_lost:
            raise LinkLostError(f"replica {self._endpoint} went away before it answered")

    def _read_answer(self, response: expert_pb2.DispatchResponse) -> ExpertResult:
        try:
            outcome = decode_response(response)
        except WireError as error:
            outcome = CallFailure(FailureCode.UNSPECIFIED, f"{self._endpoint} answered with a damaged tensor: {error}")
        if isinstance(outcome, CallFailure):
            raise outcome
        return outcome
