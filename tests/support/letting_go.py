"""Whether things are let go in time."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

NUM_THINGS = 3


def assert_each_is_gone_before_the_next(use: Callable[[Iterable[Any]], object], make: Callable[[int], Any]) -> None:
    """Let ``use`` read some things, made one by one from their numbers: it may keep none while the next is made."""
    alive: list[weakref.ref[Any]] = []

    def read() -> Iterator[Any]:
        for number in range(NUM_THINGS):
            thing = make(number)
            alive.append(weakref.ref(thing))
            yield thing
            del thing
            assert alive[-1]() is None

    use(read())
    assert len(alive) == NUM_THINGS
