"""One Dispatch stream: what it is owed and what is ready to be written. Knows messages, not what a call computes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial

from expertmesh.expert.job import CallJob, Outcome
from expertmesh.v1 import expert_pb2
from expertmesh.wire.calls import ExpertCall, decode_request, encode_response
from expertmesh.wire.failures import CallFailure, FailureCode, WireError

# A client that asks and does not listen is not read any further once so many answers lie ready for it.
MAX_UNWRITTEN = 256

Submit = Callable[[CallJob], None]
Write = Callable[[expert_pb2.DispatchResponse], Awaitable[None]]


class DispatchStream:
    """Reads calls, submits them without waiting, and writes outcomes one at a time in the order they become ready.

    ``submit`` refuses a job with CallFailure; ``refuse`` is told of calls that were damaged on their way. Two tasks per
    stream and none per message: at a row or two per call, tasks would cost more than the transport.
    """

    def __init__(
        self, submit: Submit, cancel: Callable[[CallJob], object], refuse: Callable[[CallFailure], object]
    ) -> None:
        self._submit = submit
        self._cancel = cancel
        self._refuse = refuse
        self._owed: dict[int, CallJob] = {}
        self._ready: deque[tuple[int, Outcome]] = deque()
        self._is_ending = False
        self._changed = asyncio.Event()
        self._written = asyncio.Event()

    async def run(self, requests: AsyncIterable[expert_pb2.DispatchRequest], write: Write) -> None:
        """Serve until the client has no more calls, or ``end``, and every call read so far is answered.

        When cancelled, because the client is gone, calls that still wait are not run.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            await self._write(write)
        finally:
            reader.cancel()
            for job in self._owed.values():
                self._cancel(job)
            [ended] = await asyncio.gather(reader, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended

    def end(self) -> None:
        """Write what is owed, then end the stream although the client may have more to ask."""
        self._is_ending = True
        self._changed.set()

    async def _read(self, requests: AsyncIterable[expert_pb2.DispatchRequest]) -> None:
        try:
            async for request in requests:
                self._accept(request)
                # What is answered already is written first: to ask for the next call takes time, too.
                await asyncio.sleep(0)
                while len(self._ready) >= MAX_UNWRITTEN:
                    self._written.clear()
                    await self._written.wait()
        finally:
            self.end()

    def _accept(self, request: expert_pb2.DispatchRequest) -> None:
        request_id = request.request_id
        if request_id in self._owed:
            what = f"request_id {request_id} is in flight already"
            self._answer(request_id, CallFailure(FailureCode.INVALID_REQUEST, what))
            return
        try:
            call = decode_request(request)
        except WireError as error:
            self._answer(request_id, CallFailure(FailureCode.INVALID_REQUEST, str(error)))
        except CallFailure as damage:
            self._refuse(damage)
            self._answer(request_id, damage)
        else:
            self._run(request_id, call)

    def _run(self, request_id: int, call: ExpertCall) -> None:
        job = self._owed[request_id] = CallJob(call, partial(self._finish, request_id))
        try:
            self._submit(job)
        except CallFailure as failure:
            self._finish(request_id, failure)

    def _finish(self, request_id: int, outcome: Outcome) -> None:
        del self._owed[request_id]
        self._answer(request_id, outcome)

    def _answer(self, request_id: int, outcome: Outcome) -> None:
        self._ready.append((request_id, outcome))
        self._changed.set()

    async def _write(self, write: Write) -> None:
        while self._ready or self._owed or not self._is_ending:
            self._changed.clear()
            while self._ready:
                request_id, outcome = self._ready.popleft()
                self._written.set()
                await write(encode_response(request_id, outcome))
            if self._owed or not self._is_ending:
                await self._changed.wait()
