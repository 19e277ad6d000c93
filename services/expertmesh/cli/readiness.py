"""How a child says that it serves: one line through a pipe that its supervisor made. Knows no child and no supervisor.

As in s6's notification-fd, the child inherits the writing end; its number is in the environment. What a child prints is
for people: it may say anything, and nothing follows from it.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import closing, suppress
from typing import BinaryIO

# Not a setting: supervisors set it, for a child of theirs.
READY_FD = "EXPERTMESH_READY_FD"

TellReady = Callable[[str], None]


def claim_ready_pipe() -> TellReady:
    """Return what tells the supervisor the addresses that this process serves, once; nothing where there is none.

    Call it early: from then on the pipe is this process's alone, and whatever it starts neither has nor knows it.
    """
    number = os.environ.pop(READY_FD, None)
    if number is None:
        return lambda addresses: None
    descriptor = int(number)
    os.set_inheritable(descriptor, False)

    def tell(addresses: str) -> None:
        with suppress(BrokenPipeError), open(descriptor, "w") as pipe:
            pipe.write(f"{addresses}\n")

    return tell


async def read_ready(pipe: BinaryIO) -> str | None:
    """Wait for what the other end tells; None when it is closed before, for example because its process died."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    with closing(transport):
        line = (await reader.readline()).decode(errors="replace")
    return line.removesuffix("\n") if line.endswith("\n") else None
