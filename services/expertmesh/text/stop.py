"""Stop strings in a stream of text. Knows characters, not tokens."""

from collections.abc import Iterator, Sequence


class StopMatcher:
    """Passes text on until one of ``stops`` appears; text that may be the beginning of one is held back.

    The stop string itself is passed on where it ``includes_stop``.
    """

    def __init__(self, stops: Sequence[str], includes_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._includes_stop = includes_stop
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str, may_stop: bool = True) -> str:
        """Take more text and return what is certain to stand before any stop string; sets ``matched`` at the first.

        One that is complete with this text is like any other text unless it ``may_stop``.
        """
        if not self._stops:
            return text
        num_known = len(self._held)
        self._held += text
        found = list(self._find(num_known)) if may_stop else []
        if found:
            position, self.matched = min(found)
            return self._release(position + len(self.matched) * self._includes_stop)
        return self._release(len(self._held) - self._num_suspicious())

    def flush(self) -> str:
        """Return what was held back, at the end of a text that no stop string ended."""
        return self._release(len(self._held))

    def _find(self, num_known: int) -> Iterator[tuple[int, str]]:
        """Find the first place of each stop string that ends behind the characters that were ``known``."""
        for stop in self._stops:
            position = self._held.find(stop, max(0, num_known - len(stop) + 1))
            if position >= 0:
                yield position, stop

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        return released

    def _num_suspicious(self) -> int:
        """Length of the longest end of the held text that is a beginning of a stop string."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
