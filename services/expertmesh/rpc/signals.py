"""Waiting for the signal that ends a process."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def wait_for_shutdown() -> signal.Signals:
    """Return the first SIGTERM or SIGINT that this process gets; works in the main thread's loop only."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()
    with _handlers(loop, received):
        return await received


@contextmanager
def _handlers(loop: asyncio.AbstractEventLoop, received: "asyncio.Future[signal.Signals]") -> Iterator[None]:
    for number in _SIGNALS:
        loop.add_signal_handler(number, _resolve, received, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _resolve(received: "asyncio.Future[signal.Signals]", number: signal.Signals) -> None:
    if not received.done():
        received.set_result(number)
