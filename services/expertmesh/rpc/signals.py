"""Signals to a process: the one that ends it, and the one that has it read again what it was given."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def wait_for_shutdown() -> signal.Signals:
    """Return the first SIGTERM or SIGINT that this process gets; works in the main thread's loop only."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()
    with _handlers(loop, received):
        return await received


@contextmanager
def on_hangup(call: Callable[[], None] | None) -> Iterator[None]:
    """Call ``call`` on each SIGHUP inside the ``with``, which ends the process without it; main thread's loop only."""
    if call is None:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, call)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


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
