"""Which blocks of the KV cache are free. Knows numbers of blocks, not what is stored in them."""


class BlockPool:
    """Hands out the blocks of a KV cache, each to one sequence at a time."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Count the blocks that ``num_tokens`` tokens fill."""
        return -(-num_tokens // self.block_size)

    def can_grow(self, blocks: list[int], num_tokens: int) -> bool:
        """Tell whether ``blocks`` can be extended to hold ``num_tokens`` tokens."""
        return self.blocks_for(num_tokens) - len(blocks) <= self.num_free

    def grow(self, blocks: list[int], num_tokens: int) -> None:
        """Extend ``blocks`` in place until it holds ``num_tokens`` tokens."""
        for _ in range(self.blocks_for(num_tokens) - len(blocks)):
            blocks.append(self._free.pop())

    def free(self, blocks: list[int]) -> None:
        """Take all ``blocks`` back and leave the list empty."""
        self._free.extend(reversed(blocks))
        blocks.clear()
