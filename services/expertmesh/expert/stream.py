"""One Dispatch stream: what it is owed and what is ready to be written. Knows messages, not what a call computes."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial

from expertmesh.expert.budget import CallBudget
from expertmesh.expert.job import CallJob, CallRunner, Outcome
from expertmesh.v1 import expert_pb2
from expertmesh.wire.calls import ExpertCall, decode_request, encode_response
from expertmesh.wire.failures import CallFailure, FailureCode, WireError, without_traceback

_log = logging.getLogger(__name__)

# A client that asks and does not listen is not read any further once so many answers lie ready for it, or once the
# calls and answers of its stream are so large a part of what the server may hold.
MAX_UNWRITTEN = 256
MAX_SHARE = 0.5
# One that has taken nothing of an answer for so long gets no other.
STALL_SECONDS = 30.0

Submit = Callable[[CallJob], None]
Write = Callable[[expert_pb2.DispatchResponse], Awaitable[None]]


class DispatchStream:
    """Reads calls, submits them without waiting, and writes outcomes one at a time in the order they become ready.

    ``submit`` has ``runner`` run a job, or refuses it with CallFailure. What calls take until they are answered is of
    ``budget``. Two tasks per stream and none per message: at a row or two per call, tasks would cost more than the
    transport.
    """

    def __init__(self, runner: CallRunner, submit: Submit, budget: CallBudget) -> None:
        self._runner = runner
        self._submit = submit
        self._budget = budget
        self._owed: dict[int, CallJob] = {}
        self._ready: deque[tuple[int, Outcome, int]] = deque()  # request id, outcome, bytes of the budget
        self._num_taken = 0
        self._is_ending = False
        self._changed = asyncio.Event()
        self._written = asyncio.Event()

    async def run(self, requests: AsyncIterable[expert_pb2.DispatchRequest], write: Write) -> None:
        """Serve until the client has no more calls, or ``end``, and every call read so far is answered.

        When cancelled, because the client is gone, or when it takes no answer, calls that still wait are not run.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            await self._write(write, reader)
        finally:
            reader.cancel()
            self._drop_all()
            self._give_back(self._num_taken)
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
                del request
                # What is answered already is written first: to ask for the next call takes time, too.
                await asyncio.sleep(0)
                while self._has_enough:
                    self._written.clear()
                    await self._written.wait()
        finally:
            self.end()

    @property
    def _has_enough(self) -> bool:
        return len(self._ready) >= MAX_UNWRITTEN or self._num_taken > MAX_SHARE * self._budget.max_bytes

    def _accept(self, request: expert_pb2.DispatchRequest) -> None:
        request_id = request.request_id
        if request_id in self._owed:
            what = f"request_id {request_id} is in flight already"
            self._answer(request_id, CallFailure(FailureCode.INVALID_REQUEST, what))
            return
        try:
            call = decode_request(request)
            num_bytes = self._budget.take_call(call)
        except WireError as error:
            self._answer(request_id, CallFailure(FailureCode.INVALID_REQUEST, str(error)))
        except CallFailure as failure:
            self._runner.refuse(failure)
            self._answer(request_id, without_traceback(failure))
        else:
            self._num_taken += num_bytes
            self._run(request_id, call, num_bytes)

    def _run(self, request_id: int, call: ExpertCall, num_bytes: int) -> None:
        job = self._owed[request_id] = CallJob(call, partial(self._finish, request_id, num_bytes))
        try:
            self._submit(job)
        except CallFailure as failure:
            self._finish(request_id, num_bytes, without_traceback(failure))

    def _finish(self, request_id: int, num_bytes: int, outcome: Outcome) -> None:
        if self._owed.pop(request_id, None) is not None:  # otherwise nobody wants it any more
            self._answer(request_id, outcome, num_bytes)

    def _answer(self, request_id: int, outcome: Outcome, num_bytes: int = 0) -> None:
        self._ready.append((request_id, outcome, num_bytes))
        self._changed.set()

    async def _write(self, write: Write, reader: "asyncio.Task[None]") -> None:
        while self._ready or self._owed or not self._is_ending:
            self._changed.clear()
            while self._ready:
                request_id, outcome, num_bytes = self._ready.popleft()
                message = encode_response(request_id, outcome)
                del outcome
                try:
                    async with asyncio.timeout(STALL_SECONDS):
                        await write(message)
                except TimeoutError:
                    self._give_up(reader, num_bytes)
                    await asyncio.get_running_loop().create_future()  # until the client is gone
                self._give_back(num_bytes)
                self._written.set()
            if self._owed or not self._is_ending:
                await self._changed.wait()

    def _give_up(self, reader: "asyncio.Task[None]", num_bytes: int) -> None:
        """Owe nothing more to a client that takes nothing; gRPC keeps what it is writing until that is gone."""
        _log.warning("a stream's client took nothing of an answer for %g s; it is read no further", STALL_SECONDS)
        reader.cancel()
        self._drop_all()
        self._give_back(self._num_taken - num_bytes)

    def _drop_all(self) -> None:
        for job in self._owed.values():
            self._runner.cancel(job)
        self._owed.clear()
        self._ready.clear()

    def _give_back(self, num_bytes: int) -> None:
        self._num_taken -= num_bytes
        self._budget.give_back(num_bytes)
