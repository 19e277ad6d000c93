"""Every field of the public API is honoured: asked through the client, answered by a real gateway."""

import asyncio
from collections.abc import Awaitable, Callable
from statistics import fmean
from typing import Any

import pytest
from integration_mesh import Mesh, run_mesh

from expertmesh.client import Answer, AsyncClient, Client, Output, RetryPolicy, Sampling
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.errors import ApiKeyError, GatewayBusyError, InvalidRequestError
from expertmesh.text.tokenizer import Tokenizer

PROMPT = [1, *range(300, 340)]


@pytest.fixture(scope="module")
def directory(make_mixtral):
    return make_mixtral(vocab_size=32000, max_position_embeddings=128).directory


def with_mesh(directory, use: Callable[[Mesh], Awaitable[Any]], **config: Any) -> Any:
    async def run() -> Any:
        async with run_mesh(directory, hosts=None, **config) as mesh:
            result = await use(mesh)
            assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks
            return result

    return asyncio.run(run())


async def ask(mesh: Mesh, output: Output = Output(), **sampling: Any) -> list[Answer]:
    return await mesh.client.generate_answers(
        PROMPT, Sampling(**{"max_tokens": 12, "ignore_eos": True, **sampling}), output
    )


def test_logprobs_of_output_and_prompt(directory):
    tokenizer = Tokenizer.open(directory)
    [answer], [plain] = with_mesh(
        directory, lambda mesh: asyncio.gather(ask(mesh, logprobs=3, prompt_logprobs=2), ask(mesh))
    )
    assert [entry.token.token_id for entry in answer.logprobs] == list(answer.token_ids)
    assert all(entry.top[0] == entry.token and len(entry.top) == 3 for entry in answer.logprobs)  # it was greedy
    assert all(entry.token.token_bytes == tokenizer.token_bytes(entry.token.token_id) for entry in answer.logprobs)
    assert [entry.token.token_id for entry in answer.prompt_logprobs] == PROMPT[1:]
    assert all(len(entry.top) == 2 and entry.token.logprob < 0 for entry in answer.prompt_logprobs)
    assert (plain.token_ids, plain.logprobs, plain.prompt_logprobs) == (answer.token_ids, (), ())


def test_routed_experts_of_each_token_and_layer(directory):
    [answer] = with_mesh(directory, lambda mesh: ask(mesh, Output(return_routed_experts=True)))
    assert len(answer.routed_experts) == len(answer.token_ids) == 12
    for layers in answer.routed_experts:
        assert [len(set(experts)) for experts in layers] == [2, 2]
        assert {expert for experts in layers for expert in experts} <= set(range(8))


def test_stop_strings_and_stop_ids_end_an_answer(directory):
    async def use(mesh: Mesh):
        [whole] = await ask(mesh)
        stop = whole.text[len(whole.text) // 2 :][:4]
        return (
            whole,
            stop,
            await ask(mesh, Output(stop=[stop, "never there"])),
            await ask(mesh, stop_ids=[whole.token_ids[5]]),
        )

    whole, stop, [by_text], [by_id] = with_mesh(directory, use)
    assert (by_text.text, by_text.stop, by_text.finish_reason) == (whole.text.split(stop)[0], stop, "stop_sequence")
    assert by_id.token_ids == whole.token_ids[: whole.token_ids.index(whole.token_ids[5]) + 1]
    assert (by_id.stop, by_id.finish_reason) == (None, "stop_sequence")


def test_min_tokens_put_stop_ids_off(directory):
    async def use(mesh: Mesh):
        [whole] = await ask(mesh)
        return await ask(mesh, stop_ids=[whole.token_ids[0]], min_tokens=6)

    [answer] = with_mesh(directory, use)
    assert answer.num_output_tokens >= 6


def test_logit_bias_forces_a_token_and_penalties_spread_them(directory):
    async def use(mesh: Mesh):
        return await asyncio.gather(
            ask(mesh, logit_bias={777: 100.0}),
            ask(mesh, logit_bias={777: 100.0}, frequency_penalty=2.0, presence_penalty=2.0),
            ask(mesh, temperature=9.0, min_p=1.0, seed=1),
            ask(mesh, temperature=9.0, typical_p=1e-6, seed=1),
            ask(mesh, temperature=9.0, typical_p=1e-6, seed=2),
            ask(mesh),
        )

    # In bfloat16 several tokens can be as probable as the most probable one.
    answers = with_mesh(directory, use, dtype="float32")
    [forced], [penalised], [only_best], [typical], [typical_again], [greedy] = answers
    assert forced.token_ids == penalised.token_ids == (777,) * 12  # 100 outweighs 2 + 12 x 2
    assert only_best.token_ids == greedy.token_ids  # only the most probable is as probable as it
    assert typical.token_ids == typical_again.token_ids  # just one is the most typical


def test_n_answers_are_those_of_their_seeds(directory):
    async def use(mesh: Mesh):
        together = await ask(mesh, Output(n=3), temperature=0.9, seed=40)
        alone = [await ask(mesh, temperature=0.9, seed=40 + index) for index in range(3)]
        return together, [answer for [answer] in alone]

    together, alone = with_mesh(directory, use)
    assert [answer.index for answer in together] == [0, 1, 2]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert len({answer.token_ids for answer in together}) == 3


def test_best_of_gives_the_most_probable_answers(directory):
    async def use(mesh: Mesh):
        every = await ask(mesh, Output(n=4), temperature=0.9, seed=40, logprobs=0)
        return every, await ask(mesh, Output(n=2, best_of=4), temperature=0.9, seed=40)

    every, best = with_mesh(directory, use)
    ranked = sorted(every, key=lambda answer: -fmean(entry.token.logprob for entry in answer.logprobs))
    assert [answer.token_ids for answer in best] == [answer.token_ids for answer in ranked[:2]]
    assert [answer.logprobs for answer in best] == [(), ()]


def test_cached_tokens_are_counted(directory):
    async def use(mesh: Mesh):
        return [await ask(mesh) for _ in range(2)]

    [first], [second] = with_mesh(directory, use)
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 32)  # whole blocks of 16
    assert (second.num_prompt_tokens, second.token_ids) == (41, first.token_ids)


@pytest.mark.parametrize(
    ("sampling", "output", "message"),
    [
        ({"min_p": 1.5}, Output(), "min_p is 1.5"),
        ({"logprobs": 21}, Output(), "logprobs is 21"),
        ({"stop_ids": [32000]}, Output(), "stop_ids names token 32000"),
        ({"logit_bias": {5: 200.0}}, Output(), "logit_bias is .*200.*from -100 to 100"),
        ({}, Output(n=0), "n is 0"),
        ({}, Output(n=3, best_of=2), "best_of is 2"),
        ({}, Output(stop=""), "empty string"),
    ],
)
def test_values_out_of_range_are_named(directory, sampling, output, message):
    async def use(mesh: Mesh):
        with pytest.raises(InvalidRequestError, match=message):
            await ask(mesh, output, **sampling)

    with_mesh(directory, use)


def test_leaving_one_of_many_answers_frees_everything(directory):
    async def use(mesh: Mesh):
        pieces = mesh.client.generate(PROMPT, Sampling(max_tokens=80, ignore_eos=True), Output(n=4))
        await anext(pieces)
        await pieces.aclose()
        while mesh.gateway.scheduler.has_work:
            await asyncio.sleep(0.01)

    with_mesh(directory, use)


def test_both_clients_get_the_same(directory):
    def use_sync(endpoint: str) -> Any:
        with Client(endpoint) as client:
            pieces = list(client.chat("Hello", Sampling(max_tokens=4)))
            ids = client.tokenize("Hello you")
            return pieces, ids, client.detokenize(ids), client.model_info(), client.is_serving()

    async def use(mesh: Mesh):
        client = mesh.client
        pieces = [piece async for piece in client.chat("Hello", Sampling(max_tokens=4))]
        ids = await client.tokenize("Hello you")
        ours = pieces, ids, await client.detokenize(ids), await client.model_info(), await client.is_serving()
        assert await client.tokenize([("user", "Hello")]) != ids
        return ours, await asyncio.to_thread(use_sync, client.endpoint), await client.load()

    ours, theirs, load = with_mesh(directory, use, reuses_prefixes=False)
    assert ours == theirs
    assert (ours[2], ours[3].num_experts, ours[4]) == ("Hello you", 8, True)
    assert sum(expert.tokens for expert in load.experts) > 0


def test_keys_are_asked_for(directory):
    async def use(mesh: Mesh):
        assert await mesh.client.is_serving()
        for call in (mesh.client.model_info, mesh.client.load, lambda: mesh.client.chat_answers("Hello")):
            with pytest.raises(ApiKeyError, match="API key"):
                await call()
        async with AsyncClient(mesh.client.endpoint, api_key="wrong") as client:
            with pytest.raises(ApiKeyError):
                await client.model_info()
        for key in ("one", "two"):
            async with AsyncClient(mesh.client.endpoint, api_key=key) as client:
                assert (await client.chat_answers("Hello", Sampling(max_tokens=2)))[0].num_output_tokens == 2
                assert len((await client.load()).experts) == 8

    with_mesh(directory, use, api_keys=("one", "two"))


def test_a_full_queue_refuses_and_is_asked_again(directory):
    long = Sampling(max_tokens=80, ignore_eos=True)

    async def use(mesh: Mesh):
        async with AsyncClient(mesh.client.endpoint, retries=RetryPolicy(max_attempts=1)) as impatient:
            running = asyncio.create_task(mesh.client.generate_answers(PROMPT, long))
            while not mesh.gateway.scheduler.num_running:
                await asyncio.sleep(0)
            waiting = asyncio.create_task(mesh.client.generate_answers(PROMPT, long))
            while not mesh.gateway.scheduler.num_waiting:
                await asyncio.sleep(0)
            with pytest.raises(GatewayBusyError, match="1 sequences wait already"):
                await impatient.generate_answers(PROMPT, long)
            [patient] = await mesh.client.generate_answers(PROMPT, long)
            return [*(await asyncio.gather(running, waiting)), [patient]]

    answers = with_mesh(directory, use, scheduler=SchedulerConfig(max_num_seqs=1, max_num_waiting=1))
    assert len({answer.token_ids for [answer] in answers}) == 1
