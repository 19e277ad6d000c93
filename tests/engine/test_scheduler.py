import random
from itertools import count
from typing import Any

import pytest

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.observer import NullObserver
from expertmesh.engine.request import Request, Sequence
from expertmesh.engine.scheduler import Chunk, Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.errors import QueueFullError
from expertmesh.model.sampling import SamplingParams

FRESH = count(1000)


def sequence(num_prompt: int, max_tokens: int = 8, first: int | None = None, **sampling: Any) -> Sequence:
    """A sequence whose prompt begins like no other's, or like those with the same ``first`` token."""
    prompt = [next(FRESH) if first is None else first, *range(num_prompt - 1)]
    return Sequence(Request(tuple(prompt), SamplingParams(**sampling)), max_tokens=max_tokens, seed=0)


class CountPreemptions(NullObserver):
    count = 0

    def preempted(self, sequence: Sequence) -> None:
        self.count += 1


def scheduler(num_blocks: int = 16, block_size: int = 4, tokens: int = 16, seqs: int = 4, **config: Any) -> Scheduler:
    return Scheduler(
        SchedulerConfig(max_num_batched_tokens=tokens, max_num_seqs=seqs, **config), BlockPool(num_blocks, block_size)
    )


def test_a_step_is_as_large_as_suits_the_device_unless_it_is_said():
    on_cpu, on_gpu = (SchedulerConfig().fitted_to(device) for device in ("cpu", "cuda"))
    assert (on_cpu.max_num_seqs, on_cpu.max_num_batched_tokens) == (64, 512)
    assert (on_gpu.max_num_seqs, on_gpu.max_num_batched_tokens) == (256, 4096)
    said = SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=7, num_draft_tokens=2)
    assert said.fitted_to("cpu") == said.fitted_to("cuda") == said
    with pytest.raises(ValueError, match="max_num_seqs=0"):
        Scheduler(SchedulerConfig(), BlockPool(1, 1))


def advance(plan: Scheduler, chunks: list[Chunk], token: int = 0) -> None:
    """Do what the engine does after a step."""
    for chunk in chunks:
        if chunk.is_last:
            chunk.sequence.tokens.append(token)
        plan.advance(chunk)


def sizes(chunks: list[Chunk]) -> list[int]:
    return [chunk.num_tokens for chunk in chunks]


def test_long_prompt_is_computed_in_chunks_within_the_budget():
    plan = scheduler(tokens=16)
    plan.add(sequence(40))
    seen = []
    for _ in range(4):
        chunks = plan.schedule()
        seen.append((sizes(chunks), chunks[0].is_last))
        advance(plan, chunks)
    assert seen == [([16], False), ([16], False), ([8], True), ([1], True)]


def test_decoding_sequences_go_before_new_prompts():
    plan = scheduler(tokens=16)
    plan.add(sequence(4))
    advance(plan, plan.schedule())
    plan.add(sequence(20))
    assert sizes(plan.schedule()) == [1, 15]


def test_no_more_sequences_than_allowed_and_first_come_first_served():
    plan = scheduler(seqs=2)
    first, second, third = sequence(2), sequence(2), sequence(2)
    for one in (first, second, third):
        plan.add(one)
    chunks = plan.schedule()
    assert [chunk.sequence for chunk in chunks] == [first, second]
    advance(plan, chunks)
    plan.remove(first)
    assert [chunk.sequence for chunk in plan.schedule()] == [second, third]


def test_the_youngest_is_preempted_and_computed_again_but_for_what_is_still_known():
    preempted = CountPreemptions()
    plan = Scheduler(SchedulerConfig(max_num_batched_tokens=64, max_num_seqs=4), BlockPool(4, 4), preempted)
    old, young = sequence(7), sequence(7)
    assert preempted.count == 0
    plan.add(old)
    plan.add(young)
    advance(plan, plan.schedule())
    advance(plan, plan.schedule())
    chunks = plan.schedule()  # both need a third block and none is free
    assert [chunk.sequence for chunk in chunks] == [old]
    assert (young.num_computed, young.blocks, plan.num_waiting, preempted.count) == (0, [], 1, 1)
    plan.remove(old)
    chunks = plan.schedule()
    # One of its two full blocks went to the old sequence, the other one still holds its beginning.
    assert [(chunk.sequence, chunk.num_tokens) for chunk in chunks] == [(young, 5)]
    assert young.num_cached_tokens == 0  # what its client is told: how much of the prompt was known when it came


def test_removing_frees_the_blocks_of_waiting_and_running():
    pool = BlockPool(4, 4)
    plan = Scheduler(SchedulerConfig(max_num_batched_tokens=8, max_num_seqs=1), pool)
    running, waiting = sequence(8), sequence(8)
    plan.add(running)
    plan.add(waiting)
    plan.schedule()
    assert pool.num_free == 2
    plan.remove(waiting)
    plan.remove(running)
    assert pool.num_free == 4
    assert not plan.has_work


def test_every_sequence_finishes_whatever_the_mix():
    rng = random.Random(0)
    pool = BlockPool(12, 4)
    plan = Scheduler(SchedulerConfig(max_num_batched_tokens=16, max_num_seqs=4), pool)
    todo = [sequence(rng.randint(1, 30), rng.randint(1, 16)) for _ in range(40)]
    for one in todo:
        plan.add(one)
    for _ in range(3000):
        if not plan.has_work:
            break
        chunks = plan.schedule()
        assert 0 < sum(sizes(chunks)) <= 16
        assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks) <= 4
        for chunk in chunks:
            needed = chunk.sequence.num_computed + chunk.num_tokens
            assert len(chunk.sequence.blocks) * 4 >= needed
        advance(plan, chunks)
        for chunk in chunks:
            if chunk.sequence.num_output_tokens >= chunk.sequence.max_tokens:
                plan.remove(chunk.sequence)
    assert not plan.has_work
    assert pool.num_free == 12


def test_a_prompt_that_begins_like_an_earlier_one_is_computed_from_where_they_part():
    plan = scheduler(num_blocks=16, block_size=4, tokens=64)
    first, alike, other = sequence(10, first=7), sequence(14, first=7), sequence(10, first=8)
    plan.add(first)
    advance(plan, plan.schedule())
    plan.add(alike)
    plan.add(other)
    chunks = plan.schedule()
    assert [(chunk.sequence, chunk.num_tokens) for chunk in chunks] == [(first, 1), (alike, 6), (other, 10)]
    assert alike.num_cached_tokens == 8
    assert alike.blocks[:2] == first.blocks[:2]
    assert not {*other.blocks} & {*first.blocks, *alike.blocks}


def test_a_whole_known_prompt_leaves_one_token_to_compute():
    plan = scheduler(num_blocks=16, block_size=4, tokens=64)
    for _ in range(2):
        one = sequence(8, first=7)
        plan.add(one)
        chunks = plan.schedule()
        advance(plan, chunks)
        plan.remove(one)
    assert sizes(chunks) == [4]


def test_a_prompt_whose_logits_are_wanted_is_computed_whole():
    plan = scheduler(num_blocks=16, block_size=4, tokens=64)
    first, scored = sequence(10, first=7), sequence(10, first=7, prompt_logprobs=0)
    plan.add(first)
    advance(plan, plan.schedule())
    plan.add(scored)
    assert [chunk.num_tokens for chunk in plan.schedule() if chunk.sequence is scored] == [10]


def test_the_queue_is_bounded():
    plan = scheduler(max_num_waiting=2)
    plan.add(sequence(4))
    plan.add(sequence(4))
    with pytest.raises(QueueFullError, match="2 sequences wait"):
        plan.add(sequence(4))
    plan.schedule()
    plan.add(sequence(4))


def test_drafts_stay_within_budget_blocks_and_the_end_of_the_sequence():
    def decode(budget: int, num_blocks: int = 16, max_tokens: int = 8) -> tuple[int, ...]:
        plan = scheduler(num_blocks, block_size=4, tokens=budget, num_draft_tokens=3)
        one = Sequence(Request((5, 6, 7, 8, 9, 5, 6), SamplingParams()), max_tokens=max_tokens, seed=0)
        plan.add(one)
        while one.num_output_tokens == 0:
            advance(plan, plan.schedule(), token=7)
        [chunk] = plan.schedule()
        assert len(one.blocks) * 4 >= one.num_computed + chunk.num_rows
        return chunk.draft

    assert decode(budget=16) == (8, 9, 5)
    assert decode(budget=3) == (8, 9)
    assert decode(budget=1) == ()
    assert decode(budget=16, num_blocks=2) == ()
    assert decode(budget=16, max_tokens=3) == (8,)
    assert decode(budget=16, max_tokens=2) == ()


def test_accepted_drafts_are_in_the_cache_and_rejected_ones_are_not():
    plan = scheduler(num_draft_tokens=3)
    one = Sequence(Request((5, 6, 7, 8, 9, 5, 6), SamplingParams()), max_tokens=8, seed=0)
    plan.add(one)
    advance(plan, plan.schedule(), token=7)
    [chunk] = plan.schedule()
    assert chunk.draft == (8, 9, 5)
    one.tokens += [8, 1]  # the first was right; 1 came instead of 9
    plan.advance(chunk, num_accepted=1)
    assert (one.num_computed, one.num_pending) == (9, 1)
