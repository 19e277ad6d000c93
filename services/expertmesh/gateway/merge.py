"""Several streams as one. Knows asynchronous generators, not what they yield."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: Exception | None


_Queue = asyncio.Queue[_Item[T] | _End]


def merge(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    """Yield what the streams yield, as it comes. The first error ends all of them; so does leaving early."""
    return streams[0] if len(streams) == 1 else _merge(streams)


async def _merge(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    queue: _Queue[T] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(stream, queue)) for stream in streams]
    try:
        num_running = len(tasks)
        while num_running:
            match await queue.get():
                case _Item(value):
                    yield value
                case _End(None):
                    num_running -= 1
                case _End(Exception() as error):
                    raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(stream: AsyncGenerator[T], queue: _Queue[T]) -> None:
    async with aclosing(stream):
        try:
            async for value in stream:
                queue.put_nowait(_Item(value))
        except Exception as error:
            queue.put_nowait(_End(error))
        else:
            queue.put_nowait(_End(None))
