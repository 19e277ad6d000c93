"""The API process's end: requests go to the engine, tokens come back, and an engine that dies is not a lost request.

Knows messages and what was asked, neither text nor who starts engines.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import msgspec

from expertmesh.engine.messages import Cancel, EngineError, Failed, Submit, TokenDelta, Tokens, decode_error
from expertmesh.engine.observer import Interruption, Outcome
from expertmesh.engine.request import FinishReason, Request
from expertmesh.errors import ExpertmeshError, ShuttingDownError, StillLoadingError
from expertmesh.gateway.link.connection import Connection, connect
from expertmesh.gateway.link.messages import (
    AskSnapshot,
    Broken,
    FromEngine,
    Loaded,
    Loading,
    Missing,
    Refused,
    SnapshotTaken,
)
from expertmesh.gateway.snapshot import Snapshot
from expertmesh.wire.model_info import ModelInfo

_log = logging.getLogger(__name__)

CONNECT_PAUSE_SECONDS = 0.02
# An engine in the middle of a long step answers after it; who asks how it is gets what it said before.
SNAPSHOT_SECONDS = 0.5
LAST_WORDS_SECONDS = 1.0
# A request that was being computed whenever an engine died so often within so long is what it dies of.
MAX_CRASHES = 3
CRASH_WINDOW_SECONDS = 600.0
TOO_LATE = "the gateway is shutting down, and the time that it had for running requests is over; send it again"

Report = Callable[[int, int], None]


@dataclass(eq=False)
class _OpenRequest:
    """A request whose answer is not complete, with the tokens that came so far."""

    id: int
    request: Request
    stream: asyncio.Queue[TokenDelta | ExpertmeshError] = field(default_factory=asyncio.Queue)
    past_ids: list[int] = field(default_factory=list)
    crashes: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_CRASHES))

    def has_crashed_too_often(self, now: float) -> bool:
        """Note a crash; tell whether there were as many as are bearable, within the time that counts."""
        self.crashes.append(now)
        return len(self.crashes) == MAX_CRASHES and now - self.crashes[0] <= CRASH_WINDOW_SECONDS


class EngineClient:
    """An engine in another process, or in this one behind the same socket; ``run`` keeps the connection."""

    def __init__(self, report: Report = lambda done, total: None) -> None:
        self._report = report
        self._numbers = count()
        self._open: dict[int, _OpenRequest] = {}
        self._connection: Connection[FromEngine] | None = None
        self._model: ModelInfo | None = None
        self._is_loaded = False
        self._missing: tuple[int, ...] | None = None
        self._is_ready = False
        self._is_shut_down = False
        self._snapshot: Snapshot | None = None
        self._uncounted: Counter[str] = Counter()
        self._asked: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self._broken: asyncio.Future[ExpertmeshError] = asyncio.get_running_loop().create_future()

    @property
    def model(self) -> ModelInfo:
        """What is served; StillLoadingError before that is known."""
        if self._model is None:
            raise StillLoadingError("the model is still loading; try again later")
        return self._model

    async def check_loaded(self, code: int) -> None:
        """Raise what an engine said that ended before any has loaded the model: another would end like it.

        Its words may still be on the way when it has ended, with exit ``code``.
        """
        if self._model is None:
            done, _ = await asyncio.wait((self._broken,), timeout=LAST_WORDS_SECONDS)
            what = f"the engine process ended with exit code {code} while it loaded the model"
            raise self._broken.result() if done else EngineError(what)

    @property
    def is_serving(self) -> bool:
        """Whether the engine is there and every expert has a replica."""
        return self._missing == ()

    @property
    def is_ready(self) -> bool:
        """Whether the engine is there and has once found a replica of every expert; requests wait for one that goes."""
        return self._is_ready

    @property
    def missing(self) -> Sequence[int]:
        """Experts that have no replica, as far as the engine has said."""
        return self._missing or ()

    async def wait_loaded(self) -> None:
        """Return once an engine has loaded the model; raises the error of one that cannot."""
        await self.wait_until(lambda: self._model is not None)

    async def wait_serving(self, is_serving: bool = True) -> None:
        """Return once ``is_serving`` is so; raises the error of an engine that cannot load."""
        await self.wait_until(lambda: self.is_serving == is_serving)

    async def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Return once ``is_so`` of what the engine has said; raises the error of an engine that cannot load."""
        while not is_so():
            if self._broken.done():
                raise self._broken.result()
            self._changed.clear()
            await self._changed.wait()

    async def snapshot(self) -> Snapshot:
        """Return what the engine counts now, or the last that is known of one that is gone or busy.

        StillLoadingError before any has said so.
        """
        if self._is_loaded and self._connection is not None:
            if self._asked is None:
                self._asked = asyncio.get_running_loop().create_future()
                self._send(AskSnapshot())
            await asyncio.wait((self._asked,), timeout=SNAPSHOT_SECONDS)
        if self._snapshot is None:
            raise StillLoadingError("the model is still loading, so that nothing is counted yet; try again later")
        return self._snapshot

    def count_refused(self, reason: str) -> None:
        """Have the engine count a caller who was sent away, as it counts for all API processes; or the next one."""
        self._uncounted[reason] += 1
        if self._is_loaded:
            self._tell_refused()

    def _tell_refused(self) -> None:
        for reason, number in self._uncounted.items():
            self._send(Refused(reason, number))
        self._uncounted.clear()

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta, FinishReason | None]:
        """Yield the tokens of a request as they are sampled, the end-of-sequence token included.

        Raises InvalidRequestError before anything is computed, or the error of the step that failed. Leaving the
        iterator early frees everything that the request held, and counts as cancelled; whoever has all the text that
        was wanted sends the reason instead, which ends the iterator. An engine that dies meanwhile is waited for.
        """
        opened = self._enter(request)
        outcome: Outcome | None = Interruption.CANCELLED
        try:
            while True:
                delta = await opened.stream.get()
                if isinstance(delta, ExpertmeshError):
                    outcome = None
                    raise delta
                reason = yield delta
                if delta.finish_reason is not None:
                    outcome = None
                    return
                if reason is not None:
                    outcome = reason
                    return
        finally:
            self._leave(opened, outcome)

    async def run(self, path: str) -> None:
        """Keep connected to the engine at the socket ``path``, whichever process that is, until cancelled."""
        while True:
            self._connection = await _connect_when_possible(path)
            try:
                async for message in self._connection.messages():
                    self._take(message)
            finally:
                await self._connection.close()
                self._lose()

    def shut_down(self) -> None:
        """End every request that is open, and those to come, with ShuttingDownError."""
        self._is_shut_down = True
        for opened in self._open.values():
            opened.stream.put_nowait(ShuttingDownError(TOO_LATE))

    def _enter(self, request: Request) -> _OpenRequest:
        if self._is_shut_down:
            raise ShuttingDownError(TOO_LATE)
        self.model  # noqa: B018  # raises before the first engine is loaded
        if request.sampling.seed is None:
            # Drawn here, so that another engine draws the same tokens.
            request = replace(request, sampling=replace(request.sampling, seed=secrets.randbits(63)))
        opened = _OpenRequest(next(self._numbers), request)
        self._open[opened.id] = opened
        if self._is_loaded:
            self._submit(opened)
        return opened

    def _submit(self, opened: _OpenRequest) -> None:
        self._send(Submit(opened.id, opened.request, tuple(opened.past_ids)))

    def _leave(self, opened: _OpenRequest, outcome: Outcome | None) -> None:
        if self._open.pop(opened.id, None) is not None and outcome is not None and self._is_loaded:
            self._send(Cancel(opened.id, outcome.value))

    def _send(self, message: msgspec.Struct) -> None:
        if self._connection is not None:
            self._connection.send(message)

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, Tokens):
            for request_id, delta in message.deltas:
                self._hand(request_id, delta)
        elif isinstance(message, SnapshotTaken):
            self._snapshot = message.snapshot
            self._end_asking()
        elif isinstance(message, Failed):
            if opened := self._open.get(message.id):
                opened.stream.put_nowait(decode_error(message.error))
        else:
            self._take_status(message)

    def _hand(self, request_id: int, delta: TokenDelta) -> None:
        opened = self._open.get(request_id)
        if opened is None:
            return  # its client left meanwhile
        opened.past_ids.append(delta.choice.token_id)
        opened.stream.put_nowait(delta)

    def _take_status(self, message: Loading | Loaded | Missing | Broken) -> None:
        if isinstance(message, Loading):
            self._report(message.done, message.total)
        elif isinstance(message, Loaded):
            self._model, self._is_loaded = message.model, True
            self._tell_refused()
            for opened in self._open.values():
                self._submit(opened)
        elif isinstance(message, Missing):
            self._missing = message.experts
            self._is_ready = self._is_ready or not message.experts
        elif not self._broken.done():
            self._broken.set_result(decode_error(message.error))
        self._changed.set()

    def _end_asking(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)
        self._asked = None

    def _lose(self) -> None:
        """Note that the engine is gone; requests wait for the next one, but for those that it seems to die of."""
        was_computing, self._is_loaded, self._connection = self._is_loaded, False, None
        self._missing, self._is_ready = None, False
        self._end_asking()
        self._changed.set()
        if not was_computing or not self._open:
            return
        _log.warning("the engine is gone; %d requests wait for it to come back", len(self._open))
        now = time.monotonic()
        for opened in [opened for opened in self._open.values() if opened.has_crashed_too_often(now)]:
            del self._open[opened.id]
            opened.stream.put_nowait(
                EngineError(f"the engine died {MAX_CRASHES} times while it computed this request; the log says more")
            )


async def _connect_when_possible(path: str) -> "Connection[FromEngine]":
    decoder = msgspec.msgpack.Decoder(FromEngine)
    while True:
        try:
            return await connect(path, decoder)
        except OSError:
            await asyncio.sleep(CONNECT_PAUSE_SECONDS)
