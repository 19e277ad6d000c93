"""Sequences that wait, each caller's in a line of its own. Knows whose turn it is, not whether there is room."""

from collections import Counter, deque
from collections.abc import Iterator

from expertmesh.engine.request import Caller, Sequence


class FairQueue:
    """A line for each caller that waits. The callers take turns: who was served stands behind the others."""

    def __init__(self) -> None:
        # A dict keeps its order: the caller that was served longest ago comes first.
        self._lines: dict[Caller, deque[Sequence]] = {}

    def __len__(self) -> int:
        return sum(self.lengths().values())

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[Caller]:
        """Yield the callers that wait."""
        return iter(self._lines)

    def lengths(self) -> dict[Caller, int]:
        """Count the sequences of each caller; any thread may ask."""
        return {caller: len(line) for caller, line in tuple(self._lines.items())}

    def length(self, caller: Caller) -> int:
        """Count the sequences of a caller."""
        return len(self._lines.get(caller, ()))

    def append(self, sequence: Sequence) -> None:
        """Put a sequence behind the others of its caller."""
        self._lines.setdefault(sequence.request.caller, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Put a sequence before the others of its caller."""
        self._lines.setdefault(sequence.request.caller, deque()).appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands; its caller keeps its turn. ValueError when it does not wait."""
        caller = sequence.request.caller
        line = self._lines.get(caller, deque())
        line.remove(sequence)
        if not line:
            del self._lines[caller]

    def first(self, num_running: Counter[Caller]) -> Sequence:
        """Return whose turn it is: the first of the caller with the fewest sequences running, of equals by turns."""
        return self._lines[min(self._lines, key=lambda caller: num_running[caller])][0]

    def take(self, sequence: Sequence) -> None:
        """Take out the sequence whose turn it was; its caller goes behind the others."""
        caller = sequence.request.caller
        line = self._lines.pop(caller)
        line.popleft()
        if line:
            self._lines[caller] = line
