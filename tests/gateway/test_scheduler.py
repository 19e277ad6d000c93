import random

from expertmesh.gateway.blocks import BlockPool
from expertmesh.gateway.request import Request, Sequence
from expertmesh.gateway.scheduler import Chunk, Scheduler, SchedulerConfig
from expertmesh.model.sampling import SamplingParams


def sequence(num_prompt: int, max_tokens: int = 8) -> Sequence:
    return Sequence(Request(tuple(range(num_prompt)), SamplingParams()), max_tokens=max_tokens, seed=0)


def scheduler(num_blocks: int = 16, block_size: int = 4, tokens: int = 16, seqs: int = 4) -> Scheduler:
    return Scheduler(SchedulerConfig(tokens, seqs), BlockPool(num_blocks, block_size))


def advance(chunks: list[Chunk]) -> None:
    """Do what the engine does after a step."""
    for chunk in chunks:
        is_last = chunk.is_last
        chunk.sequence.num_computed += chunk.num_tokens
        if is_last:
            chunk.sequence.tokens.append(0)


def sizes(chunks: list[Chunk]) -> list[int]:
    return [chunk.num_tokens for chunk in chunks]


def test_long_prompt_is_computed_in_chunks_within_the_budget():
    plan = scheduler(tokens=16)
    plan.add(sequence(40))
    seen = []
    for _ in range(4):
        chunks = plan.schedule()
        seen.append((sizes(chunks), chunks[0].is_last))
        advance(chunks)
    assert seen == [([16], False), ([16], False), ([8], True), ([1], True)]


def test_decoding_sequences_go_before_new_prompts():
    plan = scheduler(tokens=16)
    plan.add(sequence(4))
    advance(plan.schedule())
    plan.add(sequence(20))
    assert sizes(plan.schedule()) == [1, 15]


def test_no_more_sequences_than_allowed_and_first_come_first_served():
    plan = scheduler(seqs=2)
    first, second, third = sequence(2), sequence(2), sequence(2)
    for one in (first, second, third):
        plan.add(one)
    chunks = plan.schedule()
    assert [chunk.sequence for chunk in chunks] == [first, second]
    advance(chunks)
    plan.remove(first)
    assert [chunk.sequence for chunk in plan.schedule()] == [second, third]


def test_the_youngest_is_preempted_and_computed_again_from_its_first_token():
    plan = scheduler(num_blocks=4, block_size=4, tokens=64)
    old, young = sequence(7), sequence(7)
    plan.add(old)
    plan.add(young)
    advance(plan.schedule())
    advance(plan.schedule())
    chunks = plan.schedule()  # both need a third block and none is free
    assert [chunk.sequence for chunk in chunks] == [old]
    assert (young.num_computed, young.blocks, plan.num_waiting) == (0, [], 1)
    plan.remove(old)
    chunks = plan.schedule()
    assert [(chunk.sequence, chunk.num_tokens) for chunk in chunks] == [(young, 9)]


def test_removing_frees_the_blocks_of_waiting_and_running():
    pool = BlockPool(4, 4)
    plan = Scheduler(SchedulerConfig(8, 1), pool)
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
    plan = Scheduler(SchedulerConfig(16, 4), pool)
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
        advance(chunks)
        for chunk in chunks:
            if chunk.sequence.num_output_tokens >= chunk.sequence.max_tokens:
                plan.remove(chunk.sequence)
    assert not plan.has_work
    assert pool.num_free == 12
