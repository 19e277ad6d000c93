"""The mean of a level over the recent past. Knows numbers and a clock that is passed in."""

import math

TICKS_PER_WINDOW = 20


class MovingMean:
    """A level that changes in steps, averaged over time with weights that fall by e every ``window_seconds``.

    A level looked at now and then says little: rows are in flight for a fraction of each step. Changes come by the
    thousand in a second, so they are added up over a tick, and only ticks are weighed.
    """

    def __init__(self, window_seconds: float, now: float) -> None:
        self._window_seconds = window_seconds
        self._tick_seconds = window_seconds / TICKS_PER_WINDOW
        self._mean = 0.0
        self._level = 0.0
        self._since = now
        self._area = 0.0
        self._tick = now

    def change(self, difference: float, now: float) -> None:
        """Add ``difference`` to the level, from ``now`` on."""
        self._area += self._level * (now - self._since)
        self._level += difference
        self._since = now
        if now - self._tick > self._tick_seconds:
            self._mean = self._weigh(now)
            self._tick, self._area = now, 0.0

    def at(self, now: float) -> float:
        """Return the mean at ``now``, which is not before the last change."""
        return self._weigh(now)

    def _weigh(self, now: float) -> float:
        """Mix the mean before this tick with the level during it."""
        seconds = now - self._tick
        if seconds <= 0:
            return self._mean
        recent = (self._area + self._level * (now - self._since)) / seconds
        return recent + (self._mean - recent) * math.exp(-seconds / self._window_seconds)
