"""How a server process runs: its event loop and its CPU threads."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


def run_process(main: Coroutine[Any, Any, ResultT], threads: int = 0) -> ResultT:
    """Run ``main`` to its end, on uvloop where there is one, and return its result.

    ``threads`` are the CPU threads of torch, 0 = one per core, or whatever a process without torch has.
    """
    if threads:
        import torch

        torch.set_num_threads(threads)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)
