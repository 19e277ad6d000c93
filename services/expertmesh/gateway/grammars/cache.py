"""Constraints of the grammars asked for last. Knows who waits for which, but no way to compile."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from expertmesh.engine.request import Constraint
from expertmesh.errors import InvalidRequestError, QueueFullError
from expertmesh.gateway.grammars.compiler import Compiled

# Compiles kind and source of a grammar.
Compile = Callable[[str, str], Awaitable[Compiled]]
MAX_KEPT = 64
MAX_KEPT_BYTES = 512 << 20
# A grammar that was refused costs as much again, and its client may ask again.
REFUSAL_SECONDS = 60.0
# Each takes two seconds at worst.
MAX_COMPILING = 32


@dataclass(eq=False)
class _Entry:
    """A grammar that is compiled, or was, and how many wait for it."""

    task: "asyncio.Task[Compiled]"
    num_waiting: int = 0

    @property
    def num_bytes(self) -> int:
        """What is known of what it keeps."""
        is_kept = self.task.done() and not self.task.cancelled() and self.task.exception() is None
        return self.task.result().num_bytes if is_kept else 0


class Grammars:
    """Makes constraints; the youngest are kept, up to a number and a size."""

    def __init__(self, compile_grammar: Compile) -> None:
        self._compile = compile_grammar
        self._entries: dict[tuple[str, str], _Entry] = {}

    async def make_constraint(self, kind: str, source: str, has_begun: bool = False) -> Constraint:
        """Return a constraint for one more answer; raises what compiling raises.

        QueueFullError when too many are being compiled, unless the answer ``has_begun``. A compilation ends when the
        last one who waits for it is cancelled.
        """
        entry = self._enter(kind, source, has_begun)
        entry.num_waiting += 1
        try:
            compiled = await asyncio.shield(entry.task)
        finally:
            entry.num_waiting -= 1
            if not entry.num_waiting and not entry.task.done():
                entry.task.cancel()
                self._forget((kind, source), entry)
        return compiled.constraint.copy()

    async def close(self) -> None:
        """End what is being compiled; whoever waits for it is cancelled."""
        tasks = [entry.task for entry in self._entries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _enter(self, kind: str, source: str, has_begun: bool) -> _Entry:
        """Find a grammar, or begin with it; the youngest comes last."""
        entry = self._entries.pop((kind, source), None)
        if entry is None:
            if not has_begun:
                self._check_room()
            entry = self._begin(kind, source)
        self._entries[kind, source] = entry
        return entry

    def _check_room(self) -> None:
        num_compiling = sum(not entry.task.done() for entry in self._entries.values())
        if num_compiling >= MAX_COMPILING:
            raise QueueFullError(f"{num_compiling} grammars are being compiled or wait for it; try again later")

    def _begin(self, kind: str, source: str) -> _Entry:
        async def compile_grammar() -> Compiled:
            return await self._compile(kind, source)

        entry = _Entry(asyncio.create_task(compile_grammar()))
        entry.task.add_done_callback(lambda _: self._settle((kind, source), entry))
        return entry

    def _settle(self, key: tuple[str, str], entry: _Entry) -> None:
        """Keep what has come of a grammar for as long as that is of use."""
        if entry.task.cancelled():
            self._forget(key, entry)
        elif (error := entry.task.exception()) is None:
            self._make_room()
        elif isinstance(error, InvalidRequestError):
            asyncio.get_running_loop().call_later(REFUSAL_SECONDS, self._forget, key, entry)
            self._make_room()
        else:
            self._forget(key, entry)

    def _make_room(self) -> None:
        done = [(key, entry) for key, entry in self._entries.items() if entry.task.done()]
        num_bytes = sum(entry.num_bytes for _, entry in done)
        num_kept = len(done)
        for key, entry in done[:-1]:  # the last one may be as large as it is
            if num_kept <= MAX_KEPT and num_bytes <= MAX_KEPT_BYTES:
                return
            self._forget(key, entry)
            num_bytes -= entry.num_bytes
            num_kept -= 1

    def _forget(self, key: tuple[str, str], entry: _Entry) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]
