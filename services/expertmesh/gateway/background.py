"""Tasks and threads that run beside something. Knows no work of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[tuple[asyncio.Task[None], ...]]:
    """Run coroutines beside the body and cancel them after it."""
    tasks = tuple(asyncio.create_task(coroutine) for coroutine in coroutines)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def thread(run: Callable[[], None], stop: Callable[[], None], name: str) -> AsyncIterator["asyncio.Future[None]"]:
    """Call ``run`` in a thread beside the body, and after it ``stop``, which makes it return; yields its end."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=name)
    running = asyncio.get_running_loop().run_in_executor(executor, run)
    try:
        yield running
    finally:
        stop()
        await asyncio.wait([running])
        executor.shutdown()


async def first_of(*tasks: asyncio.Future[Any]) -> None:
    """Wait for the first task to end, and raise its error if it ended with one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
