import random
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.observer import NullObserver
from expertmesh.engine.request import Caller, Request, Sequence
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


@pytest.mark.parametrize("callers", ["a", "ab", "aaaaaaab", "abcdefgh"])
def test_every_sequence_finishes_whatever_the_mix(callers):
    rng = random.Random(0)
    pool = BlockPool(12, 4)
    plan = Scheduler(SchedulerConfig(max_num_batched_tokens=16, max_num_seqs=4), pool)
    todo = [from_caller(rng.choice(callers), rng.randint(1, 30), rng.randint(1, 16)) for _ in range(40)]
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


def from_caller(
    name: str, num_prompt: int = 4, max_tokens: int = 8, first: int | None = None, **caller: Any
) -> Sequence:
    one = sequence(num_prompt, max_tokens, first)
    return replace(one, request=replace(one.request, caller=Caller(name, **caller)))


def callers(chunks: list[Chunk]) -> list[str]:
    return [chunk.sequence.request.caller.id for chunk in chunks]


def finish(plan: Scheduler, sequences: Iterable[Sequence]) -> None:
    for one in sequences:
        plan.remove(one)


def test_callers_take_turns_whoever_came_first_and_each_is_served_in_its_order():
    plan = scheduler(tokens=64, seqs=6)
    waiting = {name: [from_caller(name) for _ in range(4)] for name in "abc"}
    for one in (one for ones in waiting.values() for one in ones):
        plan.add(one)
    chunks = plan.schedule()
    assert callers(chunks) == [*"abcabc"]
    assert [chunk.sequence for chunk in chunks] == [ones[turn] for turn in range(2) for ones in waiting.values()]


def test_a_place_that_becomes_free_is_that_of_the_caller_with_the_fewest_running():
    plan = scheduler(tokens=64, seqs=4, num_blocks=64)
    flood = [from_caller("flood") for _ in range(12)]
    for one in flood[:8]:
        plan.add(one)
    for name in ("some", "some", "flood"):
        plan.add(from_caller(name))
    first = plan.schedule()
    assert callers(first) == ["flood", "some", "flood", "some"]
    finish(plan, [first[0].sequence])
    assert callers(plan.schedule()) == ["some", "flood", "some", "flood"]


def test_who_waits_with_nothing_running_gets_the_place_of_the_youngest_of_those_with_the_most():
    plan = scheduler(tokens=64, seqs=3, num_blocks=64)
    flood = [from_caller("flood") for _ in range(9)]
    for one in flood:
        plan.add(one)
    advance(plan, plan.schedule())
    probes = [from_caller("probe") for _ in range(2)]
    for one in probes:
        plan.add(one)
    chunks = plan.schedule()
    assert [chunk.sequence for chunk in chunks] == [*flood[:2], probes[0]]  # one place is enough to begin with
    assert (plan.num_running, plan.num_waiting) == (3, 8)
    advance(plan, chunks)
    assert [chunk.sequence for chunk in plan.schedule()] == [*flood[:2], probes[0]]
    finish(plan, probes)
    assert [chunk.sequence for chunk in plan.schedule()] == flood[:3]  # it comes back before those that never ran


def test_nobody_is_preempted_for_a_newcomer_where_each_has_one():
    plan = scheduler(seqs=2)
    for name in ("a", "b"):
        plan.add(from_caller(name))
    advance(plan, plan.schedule())
    plan.add(from_caller("c"))
    assert callers(plan.schedule()) == ["a", "b"]


def test_the_rest_of_a_long_prompt_leaves_half_a_step_to_a_newcomer():
    plan = scheduler(num_blocks=64, tokens=16)
    plan.add(from_caller("long", 100))
    advance(plan, plan.schedule())
    plan.add(from_caller("long", 100))
    assert sizes(plan.schedule()) == [16]
    plan.add(from_caller("probe", 6))
    chunks = plan.schedule()
    assert [*zip(callers(chunks), sizes(chunks), strict=True)] == [("long", 8), ("probe", 6), ("long", 2)]


def test_blocks_that_lack_are_those_of_the_caller_with_the_most_running():
    plan = scheduler(num_blocks=8, tokens=64, seqs=4)
    flood, probe = [from_caller("flood", 7) for _ in range(3)], from_caller("probe", 7)
    for one in (*flood, probe):
        plan.add(one)
    first = plan.schedule()
    assert [chunk.sequence for chunk in first] == [flood[0], probe, *flood[1:]]
    advance(plan, first)
    advance(plan, plan.schedule())
    chunks = plan.schedule()  # all need a third block, and two of them are to be had of a third sequence
    assert [chunk.sequence for chunk in chunks] == [flood[0], probe]
    assert plan.num_waiting == 2


def test_a_sequence_that_preempts_itself_leaves_those_of_others_their_step():
    plan = scheduler(num_blocks=5, tokens=64, seqs=3)
    old, young, other = from_caller("a", 4), from_caller("a", 7), from_caller("b", 4)
    for one in (old, young):
        plan.add(one)
    first = plan.schedule()
    plan.add(other)
    advance(plan, first)
    second = plan.schedule()
    assert [chunk.sequence for chunk in second] == [old, young, other]
    advance(plan, second)
    chunks = plan.schedule()  # young and other need a block, and none is free
    assert [chunk.sequence for chunk in chunks] == [old, other]


@pytest.mark.parametrize("num_floods", [1, 2, 5])
def test_there_is_room_for_the_next_caller_however_many_flood(num_floods):
    plan = scheduler(max_num_waiting=256)
    names = [f"flood {number}" for number in range(num_floods)]
    for _ in range(300):
        for name in names:
            with suppress(QueueFullError):
                plan.add(from_caller(name))
    held = plan.count_waiting()
    assert max(held.values()) - min(held.values()) <= 1
    assert plan.num_waiting >= 256 * 4 // 5
    with pytest.raises(QueueFullError, match=f"{plan.num_waiting} sequences wait already, {held[Caller(names[0])]} of"):
        plan.add(from_caller(names[0]))
    plan.add(from_caller("probe"))
    if num_floods == 1:
        assert SchedulerConfig(max_num_seqs=3, max_num_waiting=256).max_held == 3 + held[Caller(names[0])]


def test_what_waits_of_one_caller_is_bounded():
    config = SchedulerConfig(max_num_seqs=3, max_waiting_per_key=2)
    plan = scheduler(max_waiting_per_key=2)
    for _ in range(2):
        plan.add(from_caller("flood"))
    with pytest.raises(QueueFullError, match="2 sequences of this caller wait already.*--max-waiting-per-key"):
        plan.add(from_caller("flood"))
    plan.add(from_caller("other"))
    assert config.max_held == 5


def test_an_answer_that_has_begun_finds_room_in_a_full_queue():
    plan = scheduler(max_num_waiting=1)
    plan.add(sequence(4))
    plan.add(Sequence(Request((1, 2), SamplingParams()), max_tokens=8, seed=0, past_ids=(3,)))
    assert plan.num_waiting == 2


def test_callers_with_other_salts_know_nothing_of_each_others_prompts():
    plan = scheduler(num_blocks=64, tokens=64, seqs=8)
    plan.add(from_caller("a", 12, first=7, cache_salt="a"))
    advance(plan, plan.schedule())
    later = [from_caller(name, 12, first=7, cache_salt=salt) for name, salt in (("a", "a"), ("b", "b"), ("c", ""))]
    for one in later:
        plan.add(one)
    plan.schedule()
    assert [one.num_cached_tokens for one in later] == [8, 0, 0]
