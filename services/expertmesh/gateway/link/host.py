"""The engine's end: API processes connect, learn how far the engine is, and put requests. Knows messages, not steps.

It runs in the event loop, the door in the engine's thread: requests get there by the inbox, and what the door says
comes back encoded.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from expertmesh.engine.door import Door
from expertmesh.engine.inbox import Inbox
from expertmesh.engine.internal_error import as_told
from expertmesh.engine.messages import Cancel, Failed, Submit, TokenDelta, Tokens, encode_error
from expertmesh.engine.observer import OUTCOMES
from expertmesh.engine.request import Constraint
from expertmesh.errors import ExpertmeshError
from expertmesh.gateway.grammars.cache import Grammars
from expertmesh.gateway.link.connection import Connection, encode_frame
from expertmesh.gateway.link.messages import (
    AskSnapshot,
    Broken,
    Loaded,
    Loading,
    Missing,
    Refused,
    SnapshotTaken,
    ToEngine,
)
from expertmesh.gateway.snapshot import Snapshot
from expertmesh.wire.model_info import ModelInfo

_log = logging.getLogger(__name__)

# A step may wait for an expert without replicas; what is asked of that expert must be known meanwhile.
SNAPSHOT_SECONDS = 0.1


class ApiProcess:
    """An API process on the line: a recipient at the engine's door."""

    def __init__(self, connection: "Connection[ToEngine]") -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._compiling: dict[int, asyncio.Task[None]] = {}

    def tell(self, message: msgspec.Struct) -> None:
        """Send a message."""
        self._connection.send(message)

    def hang_up(self) -> None:
        """End the line: nothing comes in any more."""
        self._connection.hang_up()

    def compile(self, request_id: int, work: "asyncio.Task[None]") -> None:
        """Note that the grammar of a request is being compiled, which goes no further once nobody wants it."""
        self._compiling[request_id] = work
        work.add_done_callback(lambda _: self._compiling.pop(request_id, None))

    def leave(self, request_id: int) -> None:
        """Compile no more for a request."""
        if work := self._compiling.get(request_id):
            work.cancel()

    def leave_all(self) -> None:
        """Compile no more for any request."""
        for work in self._compiling.values():
            work.cancel()

    async def flush(self) -> None:
        """Wait until all that was told is on its way."""
        await self._connection.flush()

    def hand(self, deltas: list[tuple[int, TokenDelta]]) -> None:
        """Send the tokens of a step; called in the engine's thread."""
        self._tell_from_engine(Tokens(deltas))

    def refuse(self, request_id: int, error: ExpertmeshError) -> None:
        """Say that a request ended with an error; called in the engine's thread."""
        self._tell_from_engine(Failed(request_id, encode_error(error)))

    def _tell_from_engine(self, message: msgspec.Struct) -> None:
        self._loop.call_soon_threadsafe(self._connection.write, encode_frame(message))


@dataclass(frozen=True)
class OpenEngine:
    """What requests are put to: a ``door``, by way of the ``inbox`` of its thread."""

    door: Door
    inbox: Inbox
    grammars: Grammars
    take_snapshot: Callable[[], Snapshot]
    count_refused: Callable[[str, int], None]

    def enter(self, process: ApiProcess, message: Submit, constraint: Constraint | None) -> None:
        """Put a request."""
        self.inbox.put(partial(self.door.enter, process, message.id, message.request, constraint, message.past_ids))

    def refuse(self, process: ApiProcess, request_id: int, error: ExpertmeshError) -> None:
        """Count a request that cannot be put, and have its process told."""
        self.inbox.put(partial(self.door.refuse, process, request_id, error))

    def leave(self, process: ApiProcess, message: Cancel) -> None:
        """Want no more of a request."""
        self.inbox.put(partial(self.door.leave, process, message.id, OUTCOMES[message.outcome]))

    def leave_all(self, process: ApiProcess) -> None:
        """End all that a process wanted which is gone."""
        self.inbox.put(partial(self.door.leave_all, process))

    def put_snapshot(self, taken: "asyncio.Future[Snapshot]") -> None:
        """Have a snapshot taken between two steps."""
        loop = taken.get_loop()
        self.inbox.put(lambda: loop.call_soon_threadsafe(taken.set_result, self.take_snapshot()))


class EngineHost:
    """Listens for API processes from the first moment; has an engine for them once the model is loaded."""

    def __init__(self) -> None:
        self._processes: set[ApiProcess] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._status: list[msgspec.Struct] = []
        self._engine: OpenEngine | None = None

    @asynccontextmanager
    async def listening(self, path: str) -> AsyncIterator[None]:
        """Take connections at the socket ``path`` inside the ``async with``."""
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield
        finally:
            server.close()
            for process in tuple(self._processes):
                process.hang_up()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def loading(self, done: int, total: int) -> None:
        """Tell how far the loading is."""
        self._say(Loading(done, total), keeps=False)

    def broken(self, error: ExpertmeshError) -> None:
        """Tell that the model cannot be loaded."""
        self._say(Broken(encode_error(error)))

    def open(
        self,
        model: ModelInfo,
        door: Door,
        inbox: Inbox,
        grammars: Grammars,
        take_snapshot: Callable[[], Snapshot],
        count_refused: Callable[[str, int], None],
    ) -> None:
        """Take requests from now on."""
        self._engine = OpenEngine(door, inbox, grammars, take_snapshot, count_refused)
        self._say(Loaded(model))

    def missing(self, experts: Sequence[int]) -> None:
        """Tell which experts no replica hosts now."""
        self._status = [status for status in self._status if not isinstance(status, Missing)]
        self._say(Missing(tuple(experts)))

    async def wait_told(self, seconds: float = 2.0) -> None:
        """Wait until an API process has heard the last word: the first one connects while the model loads."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._processes:
                    await asyncio.sleep(0.01)
                for process in tuple(self._processes):
                    await process.flush()

    def _say(self, status: msgspec.Struct, keeps: bool = True) -> None:
        """Tell every API process, and those to come if it ``keeps`` being true."""
        if keeps:
            self._status.append(status)
        for process in self._processes:
            process.tell(status)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection: Connection[ToEngine] = Connection(reader, writer, msgspec.msgpack.Decoder(ToEngine))
        process = ApiProcess(connection)
        self._processes.add(process)
        try:
            for status in self._status:
                process.tell(status)
            async for message in connection.messages():
                self._take(process, message)
        finally:
            self._processes.discard(process)
            process.leave_all()
            if self._engine is not None:
                self._engine.leave_all(process)
            await connection.close()
            self._tasks.discard(task)

    def _take(self, process: ApiProcess, message: ToEngine) -> None:
        if self._engine is None:
            if isinstance(message, Submit):
                raise RuntimeError("a request came before the model was loaded")
        elif isinstance(message, AskSnapshot):
            self._start(_tell_snapshot(self._engine, process))
        elif isinstance(message, Refused):
            self._engine.count_refused(message.reason, message.number)
        elif isinstance(message, Cancel):
            process.leave(message.id)
            self._engine.leave(process, message)
        elif message.request.grammar is None:
            self._engine.enter(process, message, None)
        else:
            work = self._start(_compile_and_enter(self._engine, process, message, *message.request.grammar))
            process.compile(message.id, work)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _tell_snapshot(engine: OpenEngine, process: ApiProcess) -> None:
    """Send what is counted once all that the process said before is done; or now, if a step takes its time."""
    taken: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
    engine.put_snapshot(taken)
    await asyncio.wait((taken,), timeout=SNAPSHOT_SECONDS)
    process.tell(SnapshotTaken(taken.result() if taken.done() else engine.take_snapshot()))


async def _compile_and_enter(engine: OpenEngine, process: ApiProcess, message: Submit, kind: str, source: str) -> None:
    try:
        constraint = await engine.grammars.make_constraint(kind, source, has_begun=bool(message.past_ids))
    except Exception as error:  # otherwise its client would wait for ever
        engine.refuse(process, message.id, as_told(error, "making a constraint"))
        return
    engine.enter(process, message, constraint)
