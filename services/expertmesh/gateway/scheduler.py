"""Which sequences take part in the next step, and with how many tokens. Knows counts and blocks, not tensors."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from expertmesh.gateway.blocks import BlockPool
from expertmesh.gateway.request import Sequence


@dataclass(frozen=True)
class SchedulerConfig:
    """Bounds of one step: new tokens over all sequences, and sequences."""

    max_num_batched_tokens: int = 512
    max_num_seqs: int = 64


@dataclass(frozen=True)
class Chunk:
    """The next ``num_tokens`` tokens of a sequence, to be computed in one step."""

    sequence: Sequence
    num_tokens: int

    @property
    def is_last(self) -> bool:
        """Whether the sequence has no token left after this chunk, so that the next one is sampled."""
        return self.num_tokens == self.sequence.num_pending


class Scheduler:
    """Continuous batching, first come first served.

    Running sequences go first, then waiting ones are admitted as far as the token budget and the free blocks reach; a
    prompt longer than the budget is computed in chunks. When a running sequence finds no free block, the youngest one
    is preempted: it gives its blocks back and is computed again later, from its first token.
    """

    def __init__(self, config: SchedulerConfig, blocks: BlockPool) -> None:
        self._config = config
        self._blocks = blocks
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether any sequence is waiting or running."""
        return bool(self._waiting or self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences not admitted yet, or preempted."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or not, and free its blocks."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        self._blocks.free(sequence.blocks)

    def schedule(self) -> list[Chunk]:
        """Choose the chunks of the next step and give their sequences the blocks that they fill."""
        budget = self._config.max_num_batched_tokens
        chunks: list[Chunk] = []
        for chunk in self._continue_running(budget):
            chunks.append(chunk)
            budget -= chunk.num_tokens
        chunks.extend(self._admit_waiting(budget))
        return chunks

    def _continue_running(self, budget: int) -> Iterator[Chunk]:
        index = 0
        while index < len(self._running) and budget > 0:
            sequence = self._running[index]
            num_tokens = min(sequence.num_pending, budget)
            if not self._make_room(sequence, sequence.num_computed + num_tokens):
                return
            budget -= num_tokens
            index += 1
            yield Chunk(sequence, num_tokens)

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Grow the sequence's blocks, preempting younger ones for them; False if it had to preempt itself."""
        while not self._blocks.can_grow(sequence.blocks, num_tokens):
            youngest = self._running.pop()
            self._preempt(youngest)
            if youngest is sequence:
                return False
        self._blocks.grow(sequence.blocks, num_tokens)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._blocks.free(sequence.blocks)
        sequence.num_computed = 0
        self._waiting.appendleft(sequence)

    def _admit_waiting(self, budget: int) -> Iterator[Chunk]:
        while self._waiting and budget > 0 and len(self._running) < self._config.max_num_seqs:
            sequence = self._waiting[0]
            # Room for all its tokens, not only for the first chunk: otherwise two long prompts preempt each other.
            if not self._blocks.can_grow(sequence.blocks, len(sequence.tokens)):
                return
            num_tokens = min(sequence.num_pending, budget)
            self._blocks.grow(sequence.blocks, len(sequence.tokens))
            self._running.append(self._waiting.popleft())
            budget -= num_tokens
            yield Chunk(sequence, num_tokens)
