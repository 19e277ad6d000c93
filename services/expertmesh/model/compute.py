"""Where tensor work runs: on the event loop when it is short, in a thread when it is long. Knows no tensors."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Handing a layer to a thread costs about 0.1 ms; so many rows of a real model take far longer than that.
MIN_THREAD_ROWS = 32


class Compute(Protocol):
    """Runs a function of tensors."""

    async def __call__(self, num_rows: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``function(*args)``, whose time grows with ``num_rows``."""
        ...


async def compute_inline(num_rows: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Compute at once, whatever waits."""
    return function(*args, **kwargs)


class ComputeThread:
    """Computes many rows in a thread of its own, so that the event loop hears its clients meanwhile."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compute")

    async def __call__(self, num_rows: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``function(*args)``; few rows are computed at once."""
        if num_rows < MIN_THREAD_ROWS:
            return function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))

    def close(self) -> None:
        """End the thread, once what it computes is done."""
        self._executor.shutdown()
