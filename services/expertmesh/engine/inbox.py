"""What other threads want done in the engine's thread. Knows errands, not what they do."""

import threading
from collections import deque
from collections.abc import Callable

Errand = Callable[[], object]


class Inbox:
    """Takes errands from any thread; the engine's own does them, between steps."""

    def __init__(self) -> None:
        self._errands: deque[Errand] = deque()
        self._has_news = threading.Event()
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether the engine is to end."""
        return self._is_closed

    def put(self, errand: Errand) -> None:
        """Have something done soon, after what was put before; never, if the engine ends before."""
        self._errands.append(errand)
        self._has_news.set()

    def close(self) -> None:
        """Have the engine end."""
        self._is_closed = True
        self._has_news.set()

    def do_all(self, waits: bool) -> bool:
        """Do what is to be done; ``waits`` for something first where there is nothing. False when closed."""
        if waits:
            self._has_news.wait()
        self._has_news.clear()
        while self._errands and not self._is_closed:
            self._errands.popleft()()
        return not self._is_closed
