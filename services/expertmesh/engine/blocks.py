"""Which blocks of the KV cache are free, and which hold a prefix that was computed before. Knows ids, not tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

# What comes before the first block of every sequence without a salt.
ROOT = 0

# The prefix before a block, and the tokens in it. Prefixes are numbered, so keys compare whole prefixes exactly.
Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class _Known:
    """A block whose contents are remembered: with it, the prefix numbered ``prefix`` is complete."""

    block: int
    prefix: int


class BlockPool:
    """Hands out the blocks of a KV cache and remembers what full ones hold.

    A block that holds a known prefix may belong to several sequences; when nobody holds it any more it is free, but
    its contents stay known until it is handed out for something else, the least recently used block first.
    """

    def __init__(self, num_blocks: int, block_size: int, reuses_prefixes: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._reuses_prefixes = reuses_prefixes
        self._num_holders = [0] * num_blocks
        # A dict keeps its order: the blocks that were freed first are handed out first.
        self._free = dict.fromkeys(range(num_blocks))
        self._known: dict[Key, _Known] = {}
        self._keys: dict[int, Key] = {}
        self._roots = {"": ROOT}
        self._prefixes = count(ROOT + 1)

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that somebody holds, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        """Count the blocks that ``num_tokens`` tokens fill."""
        return -(-num_tokens // self.block_size)

    def can_grow(self, blocks: Sequence[int], num_tokens: int) -> bool:
        """Tell whether ``blocks``, held or found by ``find``, can be extended to hold ``num_tokens`` tokens."""
        num_missing = self.blocks_for(num_tokens) - len(blocks)
        return num_missing <= 0 or num_missing <= self.num_free - sum(block in self._free for block in blocks)

    def grow(self, blocks: list[int], num_tokens: int) -> None:
        """Extend ``blocks`` in place until it holds ``num_tokens`` tokens."""
        for _ in range(self.blocks_for(num_tokens) - len(blocks)):
            block = next(iter(self._free))
            self._forget(block)
            self._hold(block)
            blocks.append(block)

    def free(self, blocks: list[int]) -> None:
        """Take all ``blocks`` back from one holder and leave the list empty."""
        # Ends of prefixes first: without its beginning the rest of a prefix is of no use.
        for block in reversed(blocks):
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                self._free[block] = None
        blocks.clear()

    def root_of(self, salt: str) -> int:
        """Number what comes before the first block of the sequences with a salt: prefixes are known by it, too."""
        if salt not in self._roots:
            self._roots[salt] = next(self._prefixes)
        return self._roots[salt]

    def find(self, tokens: Sequence[int], prefix: int = ROOT) -> list[int]:
        """Return the blocks of the longest known prefix of ``tokens`` that leaves at least one token to compute.

        ``prefix`` numbers what comes before all of them, as ``root_of`` does.
        """
        blocks: list[int] = []
        for start in range(0, len(tokens) - self.block_size, self.block_size):
            known = self._known.get((prefix, tuple(tokens[start : start + self.block_size])))
            if known is None:
                break
            blocks.append(known.block)
            prefix = known.prefix
        return blocks

    def share(self, blocks: Sequence[int]) -> None:
        """Add a holder to each of ``blocks``, which ``find`` returned."""
        for block in blocks:
            self._hold(block)

    def remember(
        self, blocks: Sequence[int], tokens: Sequence[int], num_computed: int, prefix: int, num_known: int
    ) -> tuple[int, int]:
        """Note what the full blocks of a sequence hold, from block ``num_known`` on.

        The first ``num_computed`` of its ``tokens`` are in ``blocks``; ``prefix`` numbers what the known blocks hold,
        their root at the start. Returns ``prefix`` and ``num_known`` for the next call.
        """
        if not self._reuses_prefixes:
            return prefix, num_known
        num_full = num_computed // self.block_size
        for index in range(num_known, num_full):
            key = prefix, tuple(tokens[index * self.block_size : (index + 1) * self.block_size])
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = _Known(blocks[index], next(self._prefixes))
                self._keys[blocks[index]] = key
            prefix = known.prefix
        return prefix, num_full

    def _hold(self, block: int) -> None:
        self._free.pop(block, None)
        self._num_holders[block] += 1

    def _forget(self, block: int) -> None:
        key = self._keys.pop(block, None)
        if key is not None:
            del self._known[key]
