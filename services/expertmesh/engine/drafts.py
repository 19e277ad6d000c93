"""Drafts of the next tokens, copied from what a sequence already holds. Knows ids only."""

from collections.abc import Sequence

# Ends of a sequence that are looked for earlier in it, longest first: the longer the end, the likelier the draft.
SIZES = (4, 3, 2)


class PromptLookup:
    """Finds where the end of a sequence came before, and proposes what followed there (Saxena, 2023)."""

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}
        self._num_indexed = 0

    def propose(self, tokens: Sequence[int], max_tokens: int) -> tuple[int, ...]:
        """Return up to ``max_tokens`` ids that may follow; ``tokens`` must begin with those of earlier calls."""
        self._index(tokens)
        for size in SIZES:
            start = self._follows.get(tuple(tokens[-size:]))
            if start is not None:
                return tuple(tokens[start : start + max_tokens])
        return ()

    def _index(self, tokens: Sequence[int]) -> None:
        """Note for every run of tokens where it was last followed by something."""
        for start in range(self._num_indexed, len(tokens)):
            for size in SIZES:
                if start >= size:
                    self._follows[tuple(tokens[start - size : start])] = start
        self._num_indexed = len(tokens)
