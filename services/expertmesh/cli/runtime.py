"""How a server process runs: its event loop and its CPU threads."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import torch


def run_process(main: Coroutine[Any, Any, None], threads: int) -> None:
    """Run ``main`` to its end, on uvloop where there is one.

    ``threads`` are the CPU threads of torch, 0 = one per core.
    """
    if threads:
        torch.set_num_threads(threads)
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)
