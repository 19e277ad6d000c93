"""One caller floods a gateway, another is served all the same: a real gateway, over HTTP and gRPC."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from demo_model import MODEL
from exposition import Samples
from http_serving import serving
from server_processes import ready_gateway

from expertmesh.client import AsyncClient, Sampling
from expertmesh.client.retry import RetryPolicy
from expertmesh.gateway.keys import Key, digest_of

KEYS = ("flood", "probe")
FLOOD, PROBE = (Key(digest_of(key)).id for key in KEYS)
NUM_FLOOD, NUM_SEQS, NUM_WAITING, NUM_PROBES = 300, 4, 60, 10
TEXT = "/v1/completions"
LONG = {"prompt": "What is 291 - 150?", "max_tokens": 400, "ignore_eos": True}
SHORT = {"prompt": "What is 12 + 30?", "max_tokens": 4, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[str, str]]:
    limits = ("--max-num-seqs", str(NUM_SEQS), "--max-num-waiting", str(NUM_WAITING))
    with ready_gateway(MODEL, *limits, EXPERTMESH_API_KEY=" ".join(KEYS)) as (_, grpc, url):
        yield grpc, url


@asynccontextmanager
async def asking(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=NUM_FLOOD)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=120) as client:
        yield client


async def scrape(client: httpx.AsyncClient) -> Samples:
    return Samples((await client.get("/metrics")).text)


@asynccontextmanager
async def flooded(client: httpx.AsyncClient) -> AsyncIterator[list[httpx.Response]]:
    """Ask hundreds of times at once; inside, as many are held as may be and all others were refused."""
    refused: list[httpx.Response] = []

    async def ask() -> None:
        if (reply := await client.post(TEXT, json=LONG)).status_code != 200:
            refused.append(reply)

    async with asyncio.timeout(120):
        tasks = [asyncio.create_task(ask()) for _ in range(NUM_FLOOD)]
        while len(refused) + NUM_SEQS + NUM_WAITING < NUM_FLOOD:
            await asyncio.sleep(0.01)
    try:
        yield refused
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_idle(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while (samples := await scrape(client))["expertmesh_running_requests"] or samples[
            "expertmesh_waiting_requests"
        ]:
            await asyncio.sleep(0.01)


def test_a_flood_of_one_caller_keeps_no_other_waiting_and_changes_no_text(gateway):
    grpc, url = gateway

    async def run() -> None:
        client = AsyncClient(grpc, api_key="probe", retries=RetryPolicy(max_attempts=1))
        async with asking(url, "flood") as flood, asking(url, "probe") as probe, client:
            alone = (await probe.post(TEXT, json=SHORT)).json()["choices"][0]["text"]
            async with flooded(flood) as refused:
                replies = [await probe.post(TEXT, json=SHORT) for _ in range(NUM_PROBES)]
                sampling = Sampling(max_tokens=4, ignore_eos=True, temperature=0)
                answers = [await client.generate_answers(SHORT["prompt"], sampling) for _ in range(NUM_PROBES)]
                during = await scrape(probe)
            assert [reply.status_code for reply in replies] == [200] * NUM_PROBES
            assert {reply.json()["choices"][0]["text"] for reply in replies} == {alone}
            assert len(answers) == NUM_PROBES
            # Who was there before waits still: nobody but the youngest of the batch gave way.
            assert during["expertmesh_key_waiting_requests", FLOOD] > 0
            assert during["expertmesh_key_requests_total", PROBE] == 1 + 2 * NUM_PROBES
            assert during["expertmesh_key_waiting_requests", PROBE] == 0
            assert {(reply.status_code, reply.headers["Retry-After"]) for reply in refused} == {(429, "1")}
            assert all(
                f"of them this caller's; {NUM_WAITING} may (--max-num-waiting)" in reply.text for reply in refused
            )
            await wait_idle(flood)

    asyncio.run(run())


@pytest.mark.parametrize(("shares", "num_shared"), [(False, 0), (True, 16)])
def test_what_is_known_of_the_prompts_of_one_key_is_told_to_another_only_where_that_is_wanted(shares, num_shared):
    prompt = {"prompt": list(range(10, 34)), "max_tokens": 1}
    with serving(api_keys=KEYS, shares_prefixes=shares) as mesh:

        def num_cached(key: str) -> int:
            reply = mesh.http.post(TEXT, json=prompt, headers={"Authorization": f"Bearer {key}"}).raise_for_status()
            return reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert [num_cached(key) for key in ("flood", "flood", "probe", "probe")] == [0, 16, num_shared, 16]
