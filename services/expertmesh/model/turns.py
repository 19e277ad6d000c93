"""Parts of a step that take turns, so that one works while another's experts are asked. Knows no tensors."""

from collections.abc import Generator, Sequence
from typing import TypeVar

R = TypeVar("R")

# Work that pauses wherever somebody else could go on, and returns something in the end.
Part = Generator[None, None, R]


def in_turns(parts: Sequence["Part[R]"]) -> list[R]:
    """Run each part up to its next pause, then the next part; returns what each returned.

    When one fails, the others are closed where they are.
    """
    running = dict(enumerate(parts))
    results: dict[int, R] = {}
    try:
        while running:
            for index, part in tuple(running.items()):
                try:
                    next(part)
                except StopIteration as end:
                    results[index] = end.value
                    del running[index]
    finally:
        for part in running.values():
            part.close()
    return [results[index] for index in range(len(parts))]
