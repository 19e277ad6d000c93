"""Printing an answer while it is produced."""

import sys
from collections.abc import AsyncIterator

from expertmesh.client.gateway import Answer


async def print_stream(answer: AsyncIterator[Answer]) -> str:
    """Write the pieces of an answer to standard output as they come, then a newline; return the text."""
    parts: list[str] = []
    async for piece in answer:
        sys.stdout.write(piece.text)
        sys.stdout.flush()
        parts.append(piece.text)
    sys.stdout.write("\n")
    return "".join(parts)
