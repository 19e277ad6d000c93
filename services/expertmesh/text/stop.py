"""Stop strings in a stream of text. Knows characters, not tokens."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until one of ``stops`` appears; text that may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take more text and return what is certain to stand before any stop string; sets ``matched`` at the first."""
        if not self._stops:
            return text
        self._held += text
        found = [(position, stop) for stop in self._stops if (position := self._held.find(stop)) >= 0]
        if found:
            position, self.matched = min(found)
            return self._release(position)
        return self._release(len(self._held) - self._num_suspicious())

    def flush(self) -> str:
        """Return what was held back, at the end of a text that no stop string ended."""
        return self._release(len(self._held))

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
