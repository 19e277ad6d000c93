"""Which sequences take part in the next step, and with how many tokens. Knows counts and blocks, not tensors."""

import time
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.fair_queue import FairQueue
from expertmesh.engine.observer import NullObserver, SchedulerObserver
from expertmesh.engine.request import Caller, Sequence
from expertmesh.engine.scheduler_config import SchedulerConfig


@dataclass(frozen=True)
class Chunk:
    """The next ``num_tokens`` tokens of a sequence, to be computed in one step, and ``draft``, a guess what follows."""

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows that the chunk adds to the step."""
        return self.num_tokens + len(self.draft)

    @property
    def is_last(self) -> bool:
        """Whether the sequence has no token left after this chunk, so that the next one is sampled."""
        return self.num_tokens == self.sequence.num_pending


class Scheduler:
    """Continuous batching, fair to callers; of one caller, first come first served.

    Running sequences go first, then waiting ones are admitted as far as the token budget and the free blocks reach; a
    prompt longer than the budget is computed in chunks, one whose beginning is known shares its blocks. When a running
    sequence finds no free block, another is preempted: it gives its blocks back and is computed again later.

    What callers have alike are running sequences, max-min fair: the next place is that of whoever has the fewest, and
    the youngest of whoever has the most is preempted, also for a caller that waits and has none. A token a step each,
    equal numbers are equal shares of what is computed; a count of past tokens would add debts of idle callers to that.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        blocks: BlockPool,
        observer: SchedulerObserver = NullObserver(),
    ) -> None:
        if not (config.max_num_seqs and config.max_num_batched_tokens):
            raise ValueError(f"{config} leaves a step without room; fitted_to a device it would have some")
        self._config = config
        self._blocks = blocks
        self._observer = observer
        self._waiting = FairQueue()
        self._running: list[Sequence] = []  # the oldest first
        self._num_running: Counter[Caller] = Counter()

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

    def count_running(self) -> Counter[Caller]:
        """Count the sequences of each caller that hold blocks; any thread may ask."""
        return Counter(sequence.request.caller for sequence in tuple(self._running))

    def count_waiting(self) -> Counter[Caller]:
        """Count the sequences of each caller that were not admitted yet, or preempted; any thread may ask."""
        return Counter(self._waiting.lengths())

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; QueueFullError when as many wait as may, in all or of its caller.

        One with a past was let in before, and its answer has begun.
        """
        if not sequence.past_ids:
            self._config.check_room(self._waiting.length(sequence.request.caller), self.num_waiting)
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or not, and free its blocks."""
        if sequence in self._running:
            self._leave_batch(sequence)
        else:
            self._waiting.remove(sequence)
        self._blocks.free(sequence.blocks)

    def schedule(self) -> list[Chunk]:
        """Choose the chunks of the next step and give their sequences the blocks that they fill."""
        self._make_way()
        budget = self._config.max_num_batched_tokens
        chunks: list[Chunk] = []
        for chunk in self._continue_running(budget):
            chunks.append(chunk)
            budget -= chunk.num_rows
        chunks.extend(self._admit_waiting(budget))
        return chunks

    def advance(self, chunk: Chunk, num_accepted: int = 0) -> None:
        """Note that a chunk was computed, and that ``num_accepted`` tokens of its draft were right.

        Call it once the tokens accepted are part of the sequence.
        """
        sequence = chunk.sequence
        sequence.num_computed += chunk.num_tokens + num_accepted
        sequence.moved_at = time.monotonic()
        if sequence.is_tainted:
            return  # nobody else shall read what it left in the cache
        sequence.known_prefix, sequence.num_known_blocks = self._blocks.remember(
            sequence.blocks, sequence.tokens, sequence.num_computed, sequence.known_prefix, sequence.num_known_blocks
        )

    def _make_way(self) -> None:
        """Preempt a sequence of those with the most for each caller that would else wait with none running."""
        num_lacking = self._num_newcomers() + len(self._running) - self._config.max_num_seqs
        for _ in range(num_lacking):
            if max(self._num_running.values(), default=0) < 2:
                return
            self._preempt(self._of_the_most(self._running))

    def _num_newcomers(self) -> int:
        return sum(not self._num_running[caller] for caller in self._waiting)

    def _of_the_most(self, sequences: Seq[Sequence]) -> Sequence:
        """Return the youngest of ``sequences`` whose caller has the most running."""
        return max(reversed(sequences), key=lambda sequence: self._num_running[sequence.request.caller])

    def _continue_running(self, budget: int) -> Iterator[Chunk]:
        # The rest of a long prompt leaves half a step to callers that have nothing running.
        kept = budget // 2 if self._num_newcomers() else 0
        index = 0
        while index < len(self._running) and budget > 0:
            sequence = self._running[index]
            num_tokens = min(sequence.num_pending, max(1, budget - kept))
            if not self._make_room(index, sequence.num_computed + num_tokens):
                continue
            chunk = Chunk(sequence, num_tokens, self._draft(sequence, budget - num_tokens))
            budget -= chunk.num_rows
            index += 1
            yield chunk

    def _make_room(self, index: int, num_tokens: int) -> bool:
        """Grow the blocks of a running sequence, preempting those after it; False if it had to preempt itself.

        The oldest of all is preempted only when it is alone, so that there always is one that goes on to its end.
        """
        sequence = self._running[index]
        while not self._blocks.can_grow(sequence.blocks, num_tokens):
            victim = self._of_the_most(self._running[index:])
            self._preempt(victim)
            if victim is sequence:
                return False
        self._blocks.grow(sequence.blocks, num_tokens)
        return True

    def _draft(self, sequence: Sequence, budget: int) -> tuple[int, ...]:
        """Guess what follows a decoding sequence, as far as budget, blocks and its own end allow."""
        if not self._config.num_draft_tokens or sequence.num_pending > 1 or sequence.constraint is not None:
            return ()
        num_left = sequence.max_tokens - sequence.num_output_tokens
        num_tokens = min(self._config.num_draft_tokens, budget, num_left - 1)
        draft = sequence.lookup.propose(sequence.tokens, num_tokens) if num_tokens > 0 else ()
        num_in_all = len(sequence.tokens) + len(draft)
        if not self._blocks.can_grow(sequence.blocks, num_in_all):
            return ()
        self._blocks.grow(sequence.blocks, num_in_all)
        return draft

    def _preempt(self, sequence: Sequence) -> None:
        self._leave_batch(sequence)
        self._blocks.free(sequence.blocks)
        sequence.num_computed = 0
        self._waiting.put_back(sequence)
        self._observer.preempted(sequence)

    def _leave_batch(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._num_running -= Counter((sequence.request.caller,))  # keeps none that has none left

    def _admit_waiting(self, budget: int) -> Iterator[Chunk]:
        while self._waiting and budget > 0 and len(self._running) < self._config.max_num_seqs:
            sequence = self._waiting.first(self._num_running)
            if not self._admit(sequence):
                return
            self._waiting.take(sequence)
            self._running.append(sequence)
            self._num_running[sequence.request.caller] += 1
            self._observer.admitted(sequence)
            chunk = Chunk(sequence, min(sequence.num_pending, budget))
            budget -= chunk.num_rows
            yield chunk

    def _admit(self, sequence: Sequence) -> bool:
        """Give a sequence blocks for all its tokens, known ones where its beginning is known; False if they lack.

        Room for all its tokens, not only for the first chunk: otherwise two long prompts preempt each other.
        """
        root = self._blocks.root_of(sequence.request.caller.cache_salt)
        # Tokens whose logits are wanted must be computed.
        known = [] if sequence.num_unscored > 0 else self._blocks.find(sequence.tokens, root)
        if not self._blocks.can_grow(known, len(sequence.tokens)):
            return False
        self._blocks.share(known)
        sequence.blocks = known
        sequence.known_prefix, sequence.num_known_blocks = root, 0
        sequence.num_computed = len(known) * self._blocks.block_size
        if not sequence.num_output_tokens:
            sequence.num_cached_tokens = sequence.num_computed
        self._blocks.grow(sequence.blocks, len(sequence.tokens))
        return True
