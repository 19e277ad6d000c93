"""What Prometheus is told, through a real mesh: the counts are those of what was generated."""

import asyncio
import urllib.request
from contextlib import AsyncExitStack, aclosing

import pytest
from exposition import Samples
from integration_mesh import QUARTERS, Mesh, run_mesh, silent

from expertmesh.client import Output, Sampling
from expertmesh.engine.request import Request
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.errors import InvalidRequestError, QueueFullError
from expertmesh.expert import process as expert_process
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.gateway.metrics.config import MetricsConfig
from expertmesh.model.sampling import SamplingParams

NUM_LAYERS, NUM_CHOICES = 2, 2
ALL_EXPERTS = tuple(str(expert) for expert in range(8))
FIXED = {"max_tokens": 8, "ignore_eos": True}


async def scrape(mesh: Mesh) -> Samples:
    return Samples((await mesh.gateway.metrics.render()).decode())


def fetch(address: str) -> Samples:
    with urllib.request.urlopen(f"http://{address}/metrics") as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return Samples(response.read().decode())


def after(directory, use, **config) -> Samples:
    """Scrape a mesh once ``use(mesh)`` is done."""

    async def run() -> Samples:
        async with run_mesh(directory, **config) as mesh:
            await use(mesh)
            return await scrape(mesh)

    return asyncio.run(run())


def expert_sum(samples: Samples, name: str) -> float:
    return sum(samples[name, expert] for expert in ALL_EXPERTS)


@pytest.mark.parametrize("hosts", [QUARTERS, None], ids=["remote", "local"])
def test_counts_equal_what_was_generated(make_mixtral, prompts, hosts):
    asked = prompts[:3]
    num_prompt = sum(map(len, asked))

    async def use(mesh: Mesh) -> None:
        answers = await asyncio.gather(*(mesh.ids(prompt, **FIXED) for prompt in asked))
        assert [len(answer) for answer in answers] == [8, 8, 8]

    samples = after(make_mixtral().directory, use, hosts=hosts, reuses_prefixes=False)
    assert samples["expertmesh_prompt_tokens_total"] == num_prompt
    assert samples["expertmesh_generation_tokens_total"] == 24
    assert samples["expertmesh_requests_total", "length"] == 3
    assert samples["expertmesh_time_to_first_token_seconds_count"] == samples["expertmesh_request_seconds_count"] == 3
    assert samples["expertmesh_inter_token_latency_seconds_count"] == 24 - 3
    assert samples["expertmesh_request_generation_tokens_sum"] == 24
    # The last token of an answer is never computed.
    num_rows = num_prompt + 24 - 3
    assert samples["expertmesh_step_tokens_sum"] == num_rows
    assert expert_sum(samples, "expertmesh_expert_tokens_total") == num_rows * NUM_LAYERS * NUM_CHOICES
    assert expert_sum(samples, "expertmesh_expert_share_ratio") == pytest.approx(1)
    for name in ("inflight_rows", "queue_rows"):
        assert expert_sum(samples, f"expertmesh_expert_{name}") == 0
    assert samples["expertmesh_running_requests"] == samples["expertmesh_kv_cache_usage_ratio"] == 0
    assert {samples["expertmesh_expert_replicas", expert, "ready"] for expert in ALL_EXPERTS} == {1}


def test_calls_are_counted_as_replicas_count_them(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory, hosts=[(expert,) for expert in range(8)]) as mesh:
            await mesh.ids(prompts[0], **FIXED)
            samples = await scrape(mesh)
            for expert in range(8):
                [replica] = mesh.gateway.pool.ready(expert)
                assert samples["expertmesh_expert_rpc_seconds_count", str(expert)] == replica.stats.num_calls
                rows = samples["expertmesh_expert_batch_rows_sum", str(expert)]
                assert rows == samples["expertmesh_expert_tokens_total", str(expert)]

    asyncio.run(run())


def test_series_do_not_grow_with_requests(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory) as mesh:
            before = await scrape(mesh)
            for prompt in prompts[:3]:
                await mesh.ids(prompt, **FIXED)
            assert len(await scrape(mesh)) == len(before)
            assert {label for family in before.families for label in before.labels(family)} == {
                "direction",
                "expert",
                "finish_reason",
                "fingerprint",
                "key",
                "le",
                "model",
                "reason",
                "state",
                "version",
                "weight_format",
            }

    asyncio.run(run())


def test_layers_are_exported_on_demand_and_add_up(make_mixtral, prompts):
    samples = after(
        make_mixtral().directory,
        lambda mesh: mesh.ids(prompts[0], **FIXED),
        hosts=None,
        metrics=MetricsConfig(by_layer=True),
    )
    for expert in ALL_EXPERTS:
        layers = [samples["expertmesh_expert_layer_tokens_total", expert, str(layer)] for layer in range(NUM_LAYERS)]
        assert sum(layers) == samples["expertmesh_expert_tokens_total", expert]


def test_names_of_vllm_carry_the_same_values(make_mixtral, prompts):
    async def use(mesh: Mesh) -> None:
        await mesh.ids(prompts[0], **FIXED)

    directory = make_mixtral().directory
    samples = after(directory, use, hosts=None, metrics=MetricsConfig(vllm_names=True))
    model = directory.name
    assert samples["vllm:generation_tokens_total", model] == samples["expertmesh_generation_tokens_total"] == 8
    assert samples["vllm:request_success_total", "length", model] == 1
    assert samples["vllm:time_to_first_token_seconds_count", model] == 1
    assert samples["vllm:num_requests_running", model] == 0
    assert not [name for name in after(directory, use, hosts=None).names if name.startswith("vllm")]


def test_ends_are_counted_by_why(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def leave_early(mesh: Mesh) -> None:
        deltas = mesh.gateway.engine.generate(Request(tuple(prompts[0]), SamplingParams(ignore_eos=True)))
        async with aclosing(deltas):
            async for _ in deltas:
                break

    async def meet_a_stop_string(mesh: Mesh) -> None:
        sampling = Sampling(max_tokens=30, ignore_eos=True)
        [whole] = await mesh.client.generate_answers(prompts[0], sampling)
        [cut] = await mesh.client.generate_answers(prompts[0], sampling, Output(stop=whole.text.strip()[:1]))
        assert cut.finish_reason == "stop_sequence"

    async def use(mesh: Mesh) -> None:
        await leave_early(mesh)
        await meet_a_stop_string(mesh)
        with pytest.raises(InvalidRequestError):
            await mesh.ids([], **FIXED)
        waiting = mesh.gateway.engine.generate(Request(tuple(prompts[0]), SamplingParams(max_tokens=50)))
        first = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await anext(mesh.gateway.engine.generate(Request(tuple(prompts[1]), SamplingParams())))
        await first
        await waiting.aclose()

    samples = after(directory, use, hosts=None, scheduler=SchedulerConfig(max_num_waiting=1))
    ends = {
        reason: samples["expertmesh_requests_total", reason]
        for reason in ("stop", "stop_sequence", "length", "cancelled", "failed")
    }
    assert ends == {"stop": 0, "stop_sequence": 1, "length": 1, "cancelled": 2, "failed": 0}
    assert samples["expertmesh_requests_rejected_total", "invalid"] == 1
    assert samples["expertmesh_requests_rejected_total", "queue_full"] == 1


def test_what_is_known_of_a_prompt_is_counted(make_mixtral):
    prompt = [1, *range(3, 50)]

    async def use(mesh: Mesh) -> None:
        for _ in range(2):
            await mesh.ids(prompt, max_tokens=1)

    samples = after(make_mixtral().directory, use, hosts=None)
    assert samples["expertmesh_prefix_cache_query_tokens_total"] == 2 * len(prompt)
    assert samples["expertmesh_prefix_cache_hit_tokens_total"] == 32


def test_guesses_are_counted_and_change_no_other_count(make_mixtral):
    prompt = [1, *[5, 6, 7, 8] * 6]

    async def use(mesh: Mesh) -> None:
        assert len(await mesh.ids(prompt, max_tokens=40, ignore_eos=True)) == 40

    samples = after(make_mixtral().directory, use, hosts=None, scheduler=SchedulerConfig(num_draft_tokens=4))
    drafted, accepted = (samples[f"expertmesh_speculative_{what}_tokens_total"] for what in ("draft", "accepted"))
    assert 0 <= accepted <= drafted
    assert samples["expertmesh_generation_tokens_total"] == 40
    assert samples["expertmesh_inter_token_latency_seconds_count"] == 39
    # Every step computes the rows of the sequence and those of its draft.
    assert samples["expertmesh_step_tokens_sum"] == len(prompt) + 39 - accepted + drafted


def test_an_expert_without_replicas_has_demand_that_grows(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory) as mesh:
            await mesh.experts[0].aclose()
            asking = asyncio.create_task(mesh.ids(prompts[0], max_tokens=40, ignore_eos=True))
            async with asyncio.timeout(20):
                while not (waiting := expert_sum(await scrape(mesh), "expertmesh_expert_queue_rows")):
                    await asyncio.sleep(0.01)
                before = expert_sum(await scrape(mesh), "expertmesh_expert_demand_rows")
                await asyncio.sleep(0.05)
            samples = await scrape(mesh)
            assert waiting > 0
            assert expert_sum(samples, "expertmesh_expert_demand_rows") > before
            assert {samples["expertmesh_expert_replicas", expert, "ready"] for expert in "01"} == {0}
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(run())


def test_the_http_api_serves_what_is_rendered_to_scrapers_without_a_key(make_mixtral):
    async def run() -> None:
        async with run_mesh(
            make_mixtral().directory, hosts=None, http_listen="127.0.0.1:0", api_keys=("secret",)
        ) as mesh:
            samples = await asyncio.to_thread(fetch, mesh.gateway.http.address)
            assert samples.names == (await scrape(mesh)).names

    asyncio.run(run())


def test_an_expert_server_is_scraped_at_its_own_address(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> None:
        async with AsyncExitStack() as stack:
            config = ExpertServerConfig(
                directory, "127.0.0.1:0", backend="reference", drain_seconds=0.2, metrics_listen="127.0.0.1:0"
            )
            loaded = expert_process.load_store(config, silent)
            server = await stack.enter_async_context(expert_process.running(config, loaded.store, loaded.info))
            async with run_mesh(directory, hosts=(), extra=[server.address]) as mesh:
                await mesh.ids(prompts[0], **FIXED)
                [replica] = mesh.gateway.pool.replicas
                samples = await asyncio.to_thread(fetch, server.metrics_address)
                assert samples["expertmesh_server_calls_total"] == replica.stats.num_calls
                assert samples["expertmesh_server_rows_total"] == (len(prompts[0]) + 7) * NUM_LAYERS
                ours = await scrape(mesh)
                for there, here in (("received", "sent"), ("sent", "received")):
                    assert (
                        samples["expertmesh_server_bytes_total", there] == ours["expertmesh_expert_bytes_total", here]
                    )

    asyncio.run(run())
