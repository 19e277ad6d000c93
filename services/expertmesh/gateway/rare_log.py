"""Saying what happens often only now and then. Knows times, not what is said."""

import logging
import math
import time

SECONDS = 60.0


class RareLog:
    """Warns at most once in ``seconds``."""

    def __init__(self, log: logging.Logger, seconds: float = SECONDS) -> None:
        self._log = log
        self._seconds = seconds
        self._last = -math.inf

    def warning(self, text: str, *args: object) -> None:
        """Say it, unless something was said a little while ago."""
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._log.warning(text, *args)
