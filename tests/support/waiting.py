"""Waiting for what another thread or process does, and for its end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

SECONDS = 30.0
T = TypeVar("T")


def wait_until(is_so: Callable[[], T], seconds: float = SECONDS) -> T:
    """Ask ``is_so`` until it says yes, and return how; AssertionError after half a minute."""
    end = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < end
        time.sleep(0.001)
    return answer


@contextmanager
def no_thread_left(name: str = "") -> Iterator[None]:
    """Every thread with such a name that begins inside ends, soon after.

    Only threads begun inside count: others may still be ending. What a thread does last, it is seen to have done before
    the thread is gone.
    """
    before = set(threading.enumerate())
    yield
    wait_until(lambda: not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith(name)])
