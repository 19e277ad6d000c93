"""What the engine does to be fast, through the whole gateway: none of it may change a token."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
import pytest
from integration_mesh import QUARTERS, Mesh, cache_bytes, run_mesh

from expertmesh.engine.messages import TokenDelta
from expertmesh.engine.request import FinishReason, Request
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.errors import InvalidRequestError, QueueFullError
from expertmesh.gateway import assembly
from expertmesh.gateway.grammars.compiler import Compiled
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams

# With the logarithm of every token's probability, so that equal means equal logits.
GREEDY = SamplingParams(max_tokens=40, ignore_eos=True, logprobs=0)
SAMPLED = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0.8, top_k=40, seed=7, logprobs=0)


async def tokens(mesh: Mesh, prompt: Sequence[int], sampling: SamplingParams, **request) -> list[TokenDelta]:
    deltas = mesh.gateway.engine.generate(Request(tuple(prompt), sampling, **request))
    return [delta async for delta in deltas]


def ids(deltas: Sequence[TokenDelta]) -> list[int]:
    return [delta.choice.token_id for delta in deltas]


def choices(deltas: Sequence[TokenDelta]) -> list[Choice]:
    return [delta.choice for delta in deltas]


def generate(directory, prompts, sampling=GREEDY, **config) -> list[list[Choice]]:
    """Generate from all prompts at the same time."""

    async def run() -> list[list[Choice]]:
        async with run_mesh(directory, **{"hosts": None, **config}) as mesh:
            answers = await asyncio.gather(*(tokens(mesh, prompt, sampling) for prompt in prompts))
            assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks
            return [choices(answer) for answer in answers]

    return asyncio.run(run())


def test_cached_equals_uncached(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    system = [1, *range(3, 60)]
    asked = [[*system, *prompt[1:]] for prompt in prompts[:6]]

    async def one_after_the_other() -> list[list[TokenDelta]]:
        async with run_mesh(directory, hosts=None, isa=isa) as mesh:
            return [await tokens(mesh, prompt, GREEDY) for prompt in asked]

    answers = asyncio.run(one_after_the_other())
    assert [answer[0].num_cached_tokens for answer in answers] == [0, 48, 48, 48, 48, 48]
    assert [choices(answer) for answer in answers] == generate(directory, asked, reuses_prefixes=False, isa=isa)


def test_a_conversation_finds_its_answers_again(make_mixtral):
    directory = make_mixtral().directory

    async def talk() -> None:
        async with run_mesh(directory, hosts=None) as mesh:
            prompt = [1, *range(3, 33)]
            first = await tokens(mesh, prompt, GREEDY)
            prompt += [*ids(first), 9, 8, 7]
            second = await tokens(mesh, prompt, GREEDY)
            # All but the last token of the first answer were computed, in blocks of 16.
            assert second[0].num_cached_tokens == (len(prompt) - 4) // 16 * 16

    asyncio.run(talk())


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_speculated_equals_plain(make_mixtral, prompts, isa, sampling):
    directory = make_mixtral().directory
    # Prompts that repeat themselves, so that there are drafts, right and wrong ones.
    asked = [prompt * 2 for prompt in prompts[:6]]
    config = SchedulerConfig(num_draft_tokens=4)
    guessed = generate(directory, asked, sampling, scheduler=config, isa=isa)
    assert guessed == generate(directory, asked, sampling, isa=isa)


def test_speculation_takes_fewer_steps_where_a_text_repeats_itself(make_mixtral):
    directory = make_mixtral().directory

    def num_steps(**config) -> int:
        async def run() -> int:
            async with run_mesh(directory, hosts=None, scheduler=SchedulerConfig(**config)) as mesh:
                await tokens(mesh, [1, 5, 6, 7], SamplingParams(max_tokens=120, ignore_eos=True))
                return mesh.gateway.core.state.stats.step_seconds.num_values

        return asyncio.run(run())

    # A small random model soon goes round in circles.
    assert num_steps(num_draft_tokens=4) < num_steps() == 120


@pytest.mark.parametrize("hosts", [None, QUARTERS], ids=["local", "remote"])
def test_micro_batched_equals_whole(make_mixtral, prompts, isa, hosts):
    directory = make_mixtral().directory
    whole = generate(directory, prompts, isa=isa, hosts=hosts)
    assert generate(directory, prompts, isa=isa, hosts=hosts, num_micro_batches=2) == whole
    assert generate(directory, prompts, isa=isa, hosts=hosts, num_micro_batches=5) == whole


def test_preempted_and_cached_and_speculated_at_once_equals_plain(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    asked = [[1, *range(3, 40), *prompt[1:]] for prompt in prompts]
    busy = generate(
        directory,
        asked,
        SAMPLED,
        isa=isa,
        kv_cache_bytes=cache_bytes(24, isa),
        max_model_len=128,
        num_micro_batches=2,
        scheduler=SchedulerConfig(max_num_batched_tokens=23, num_draft_tokens=3),
    )
    assert busy == generate(directory, asked, SAMPLED, isa=isa, reuses_prefixes=False)


def test_prompt_logprobs_do_not_depend_on_chunks_or_preemption(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    sampling = SamplingParams(max_tokens=30, ignore_eos=True, logprobs=2, prompt_logprobs=3)

    def scores(**config) -> list[TokenDelta]:
        async def run() -> list[list[TokenDelta]]:
            async with run_mesh(directory, hosts=None, isa=isa, **config) as mesh:
                return await asyncio.gather(*(tokens(mesh, prompt, sampling) for prompt in prompts[:6]))

        return asyncio.run(run())

    whole = scores()
    small = SchedulerConfig(max_num_batched_tokens=7)
    tight = scores(kv_cache_bytes=cache_bytes(8, isa), max_model_len=96, scheduler=small)
    for prompt, calm, busy in zip(prompts, whole, tight, strict=False):
        assert [choice.token_id for choice in calm[0].prompt_logprobs] == prompt[1:]
        assert calm[0].prompt_logprobs == busy[0].prompt_logprobs
        assert {len(choice.top_logprobs) for choice in calm[0].prompt_logprobs} == {3}
        assert all(delta.prompt_logprobs is None for delta in calm[1:])
        assert [len(delta.choice.top_logprobs) for delta in calm] == [2] * 30
        assert choices(calm) == choices(busy)


def test_logprobs_of_a_prompt_are_those_its_tokens_had_when_generated(make_mixtral, prompts, isa):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory, hosts=None, isa=isa) as mesh:
            drawn = await tokens(
                mesh, prompts[3], SamplingParams(20, ignore_eos=True, temperature=1, logprobs=0, seed=1)
            )
            text = [*prompts[3], *ids(drawn)]
            scored = await tokens(mesh, text, SamplingParams(1, prompt_logprobs=0))
            tail = scored[0].prompt_logprobs[-20:]
            for then, now in zip(drawn, tail, strict=True):
                assert then.choice.logprob == now.logprob

    asyncio.run(run())


def test_routed_experts_are_those_of_the_gate(make_mixtral, prompts, isa):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory, hosts=None, scheduler=SchedulerConfig(num_draft_tokens=3), isa=isa) as mesh:
            traced, plain = await asyncio.gather(
                tokens(mesh, prompts[4] * 2, GREEDY, return_routed_experts=True), tokens(mesh, prompts[5], GREEDY)
            )
            alone = await tokens(mesh, prompts[4] * 2, GREEDY, return_routed_experts=True)
            assert [delta.routed_experts for delta in traced] == [delta.routed_experts for delta in alone]
            assert all(delta.routed_experts is None for delta in plain)
            for delta in traced:
                assert len(delta.routed_experts) == 2  # layers
                assert all(len(set(layer)) == 2 and set(layer) <= set(range(8)) for layer in delta.routed_experts)

    asyncio.run(run())


def test_min_tokens_and_stop_ids(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory, hosts=None) as mesh:
            free = ids(await tokens(mesh, prompts[2], GREEDY))
            stop = free[5]
            stopped = await tokens(mesh, prompts[2], SamplingParams(40, ignore_eos=True, stop_ids=(stop,)))
            assert ids(stopped) == free[: free.index(stop) + 1]
            assert stopped[-1].finish_reason is FinishReason.STOP_SEQUENCE
            later = ids(await tokens(mesh, prompts[2], SamplingParams(40, 12, ignore_eos=True, stop_ids=(stop,))))
            assert stop not in later[:12]

    asyncio.run(run())


def test_a_full_queue_refuses_one_request_and_disturbs_none(make_mixtral, prompts):
    directory = make_mixtral().directory
    limits = SchedulerConfig(max_num_seqs=1, max_num_waiting=2)

    async def run() -> None:
        async with run_mesh(directory, hosts=None, scheduler=limits) as mesh:
            answers = await asyncio.gather(
                *(tokens(mesh, prompt, GREEDY) for prompt in prompts[:5]), return_exceptions=True
            )
            refused = [answer for answer in answers if isinstance(answer, QueueFullError)]
            assert len(refused) == 3
            assert all(len(answer) == 40 for answer in answers if not isinstance(answer, QueueFullError))

    asyncio.run(run())


def test_many_mixed_requests_with_random_cancels_leave_nothing_behind(make_mixtral, prompts):
    directory = make_mixtral().directory
    rng = random.Random(5)

    def sampling() -> SamplingParams:
        return SamplingParams(
            max_tokens=rng.randint(1, 24),
            temperature=rng.choice([0.0, 0.7, 1.3]),
            top_k=rng.choice([0, 5]),
            top_p=rng.choice([0.8, 1.0]),
            frequency_penalty=rng.choice([0.0, 0.5]),
            logprobs=rng.choice([None, 2]),
            prompt_logprobs=rng.choice([None, None, 1]),
            ignore_eos=True,
        )

    async def use(mesh: Mesh, prompt: list[int], params: SamplingParams, num_wanted: int) -> None:
        async with aclosing(mesh.gateway.engine.generate(Request(tuple(prompt), params))) as deltas:
            async for _ in deltas:
                num_wanted -= 1
                if num_wanted == 0:
                    return

    async def run() -> None:
        limits = SchedulerConfig(max_num_batched_tokens=64, max_num_seqs=32, num_draft_tokens=2)
        async with run_mesh(directory, hosts=None, scheduler=limits, num_micro_batches=2) as mesh:
            num_tasks = len(asyncio.all_tasks())
            jobs = [
                asyncio.create_task(use(mesh, rng.choice(prompts), sampling(), rng.choice([1, 3, 1000])))
                for _ in range(200)
            ]
            for job in rng.sample(jobs, 60):
                await asyncio.sleep(0.002)
                job.cancel()
            ends = await asyncio.gather(*jobs, return_exceptions=True)
            assert not [end for end in ends if isinstance(end, Exception)]
            assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks
            assert not mesh.gateway.scheduler.has_work
            assert len(asyncio.all_tasks()) == num_tasks

    asyncio.run(run())


class OnlyOnce:
    """A constraint that is at a loss after its first token."""

    def __init__(self, num_taken: int = 0) -> None:
        self._num_taken = num_taken

    def allowed(self) -> np.ndarray:
        return np.full(512, self._num_taken == 0)

    def advance(self, token_id: int) -> None:
        if self._num_taken:
            raise InvalidRequestError("nothing may follow")
        self._num_taken += 1

    def copy(self) -> "OnlyOnce":
        return OnlyOnce(self._num_taken)


class OnlyOnceCompiler:
    """Makes of every grammar the same."""

    async def compile(self, kind: str, source: str) -> Compiled:
        return Compiled(OnlyOnce(), 0)

    async def close(self) -> None:
        pass


def test_a_constraint_at_a_loss_ends_its_own_request_only(make_mixtral, prompts, monkeypatch):
    directory = make_mixtral().directory
    monkeypatch.setattr(assembly, "_make_compiler", lambda config, model: OnlyOnceCompiler())

    async def run() -> None:
        async with run_mesh(directory, hosts=None) as mesh:
            good, bad = await asyncio.gather(
                tokens(mesh, prompts[0], GREEDY),
                tokens(mesh, prompts[1], GREEDY, grammar=("regex", "once")),
                return_exceptions=True,
            )
            assert isinstance(bad, InvalidRequestError)
            assert len(good) == 40
            assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks

    asyncio.run(run())
