"""What surrounds the routes: keys, origins, bodies, queues and clients that leave."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from demo_model import MODEL, NAME, QUESTION
from http_serving import serving
from integration_mesh import run_mesh

from expertmesh.client import Output, Sampling
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.errors import InvalidRequestError
from expertmesh.mesh.dispatch_config import DispatchConfig

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK = {"messages": [{"role": "user", "content": QUESTION}]}
LONG = {"prompt": "Hello", "max_tokens": 400, "ignore_eos": True}
KEY = {"Authorization": "Bearer sesame"}


@pytest.fixture(scope="module")
def served():
    with serving(max_body_bytes=100_000) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def guarded():
    with serving(api_keys=("other", "sesame"), cors_origins=("https://example.org",)) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def narrow():
    with serving(scheduler=SchedulerConfig(max_num_seqs=1, max_num_waiting=2)) as mesh:
        yield mesh


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}])
def test_callers_without_a_key_are_refused_in_the_shape_of_the_route(guarded, headers):
    for path, body in ((CHAT, ASK), (TEXT, {"prompt": "a"}), ("/tokenize", {"prompt": "a"}), ("/nothing", {})):
        reply = guarded.http.post(path, json=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/", "/v1", "/generate", "/generate_stream"):
        reply = guarded.http.post(path, json={"inputs": "a"}, headers=headers)
        assert (reply.status_code, reply.json()["error_type"]) == (401, "authentication")
    assert guarded.http.get("/v1/models", headers=headers).status_code == 401
    assert guarded.http.get("/info", headers=headers).status_code == 401


def test_callers_with_a_key_and_probes_are_let_in(guarded):
    for key in ("sesame", "other"):
        with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client:
            assert client.chat.completions.create(model=NAME, **ASK).choices[0].message.content == "141"
    for path in ("/health", "/ready", "/version", "/openapi.json"):
        assert guarded.http.get(path).status_code == 200
    wrong = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="no", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_every_reply_names_its_request(guarded):
    name = {"X-Request-Id": "job 7/é".encode("ascii", "replace").decode()}
    for path, body, status in (
        (CHAT, ASK, 200),
        (TEXT, {}, 400),
        (CHAT, {**ASK, "stream": True}, 200),
        ("/x", {}, 404),
    ):
        reply = guarded.http.post(path, json=body, headers={**KEY, **name})
        assert (reply.status_code, reply.headers["X-Request-Id"]) == (status, "job 7/?")
    refused = guarded.http.post(CHAT, json=ASK, headers=name)
    assert (refused.status_code, refused.headers["X-Request-Id"]) == (401, "job 7/?")
    made = {guarded.http.get("/health", headers=headers).headers["X-Request-Id"] for headers in ({}, {})}
    assert len(made) == 2


@pytest.mark.parametrize("name", ["", "a" * 129, "a\tb", "é".encode()])
def test_a_name_that_is_not_sane_is_replaced(guarded, name):
    reply = guarded.http.get("/health", headers={"X-Request-Id": name})
    assert len(reply.headers["X-Request-Id"]) == 32


def test_head_asks_for_the_headers_that_get_has(guarded):
    for path in ("/health", "/v1/models", "/v1/models/awq", "/info", "/metrics", "/dashboard", "/nothing"):
        whole, head = (ask(path, headers=KEY) for ask in (guarded.http.get, guarded.http.head))
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert guarded.http.head("/v1/models").status_code == 401
    assert guarded.http.head(CHAT, headers=KEY).status_code == 405


def test_a_slash_at_the_end_changes_nothing(guarded):
    assert guarded.http.get("/health/").json() == {"status": "ok"}
    assert guarded.http.get("/v1/models/", headers=KEY).json()["object"] == "list"
    assert guarded.http.post(f"{CHAT}/", json={**ASK, "max_tokens": 1}, headers=KEY).status_code == 200
    assert guarded.http.post(f"{CHAT}/", json=ASK).status_code == 401


def test_unknown_paths_are_answered_with_what_may_be_meant(guarded):
    for path, words in (("/chat/completions", f"{CHAT} is nearest"), ("/v1/embeddings", "no embeddings")):
        reply = guarded.http.post(path, json={}, headers=KEY)
        assert (reply.status_code, words in reply.json()["error"]["message"]) == (404, True)


def preflight(http: httpx.Client, origin: str) -> httpx.Response:
    wants = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    return http.options(CHAT, headers={"Origin": origin, **wants})


def test_pages_of_an_allowed_origin_may_call_and_read_errors(guarded):
    allowed = preflight(guarded.http, "https://example.org")
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, "https://example.org")
    assert allowed.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
    assert "Access-Control-Allow-Origin" not in preflight(guarded.http, "https://elsewhere.org").headers
    refused = guarded.http.post(CHAT, json=ASK, headers={"Origin": "https://example.org"})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://example.org")


def test_without_allowed_origins_no_page_may_call(served):
    assert preflight(served.http, "https://example.org").status_code == 405
    reply = served.http.get("/v1/models", headers={"Origin": "https://example.org"})
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize("num_bytes", [100_001, 1_000_000, 5_000_000])
def test_a_body_that_is_too_large_is_refused_whether_or_not_its_length_is_announced(served, num_bytes):
    pieces = (b" " * 1000 for _ in range(num_bytes // 1000 + 1))
    for content in (b" " * num_bytes, pieces):
        reply = served.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert reply.status_code == 413
        assert "100000 bytes" in reply.json()["error"]["message"]
    assert "error_type" in served.http.post("/generate", content=b" " * num_bytes).json()


def test_a_body_at_the_limit_is_taken(served):
    body = json.dumps(ASK)
    reply = served.http.post(
        CHAT, content=body + " " * (100_000 - len(body)), headers={"content-type": "application/json"}
    )
    assert reply.status_code == 200


def test_system_routes(served):
    assert served.http.get("/health").json() == {"status": "ok"}
    assert served.http.get("/ready").json() == {"status": "ready"}
    assert served.http.get("/version").json()["version"]
    assert served.http.get("/docs").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TEXT, LONG),
        (TEXT, {**LONG, "stream": True}),
        (TEXT, {**LONG, "prompt": ["a", "b"], "n": 3, "stream": True}),
        (TEXT, {**LONG, "best_of": 4}),
        (CHAT, {**ASK, "ignore_eos": True}),
        (CHAT, {**ASK, "ignore_eos": True, "stream": True}),
        ("/generate", {"inputs": "Hello" * 9, "parameters": {"max_new_tokens": 400, "best_of": 3}}),
        ("/generate_stream", {"inputs": "Hello" * 9, "parameters": {"max_new_tokens": 400, "repetition_penalty": 9}}),
    ],
    ids=str,
)
def test_a_client_that_leaves_frees_everything(served, path, body):
    served.http.get("/health")
    num_tasks = served.num_tasks()

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=served.url) as client:
            reply = asyncio.create_task(client.post(path, json=body))
            await asyncio.sleep(0.15)
            reply.cancel()
            await asyncio.gather(reply, return_exceptions=True)

    asyncio.run(leave())
    served.wait_idle(num_tasks)


def test_a_client_that_reads_one_event_and_leaves_frees_everything(served):
    with served.http.stream("POST", TEXT, json={**LONG, "stream": True}) as reply:
        assert next(reply.iter_lines()).startswith("data: {")
    served.wait_idle()


def test_a_full_queue_is_answered_with_429_and_when_to_come_back():
    with serving(scheduler=SchedulerConfig(max_num_seqs=1, max_num_waiting=1)) as mesh:

        def ask(_: int) -> httpx.Response:
            return mesh.http.post(TEXT, json={**LONG, "max_tokens": 60})

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(ask, range(8)))
        refused = [reply for reply in replies if reply.status_code != 200]
        assert 0 < len(refused) < 8
        assert {(reply.status_code, reply.headers["Retry-After"]) for reply in refused} == {(429, "1")}
        assert {reply.json()["error"]["code"] for reply in refused} == {"queue_full"}
        mesh.wait_idle()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TEXT, {"prompt": "a", "n": 4}),
        (TEXT, {"prompt": "a", "best_of": 4}),
        (TEXT, {"prompt": ["a", "b"], "n": 2}),
        (TEXT, {"prompt": ["a"] * 4, "stream": True}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "n": 4}),
        ("/generate", {"inputs": "a", "parameters": {"best_of": 4}}),
    ],
    ids=str,
)
def test_what_never_fits_is_not_told_to_come_again(narrow, path, body):
    reply = narrow.http.post(path, json=body)
    assert reply.status_code == (422 if path == "/generate" else 400)
    assert "Retry-After" not in reply.headers
    assert "asks for 4 sequences" in reply.text and "at most 3" in reply.text
    assert narrow.http.post(TEXT, json={"prompt": ["a", "b"], "max_tokens": 1}).status_code == 200


def test_what_never_fits_is_refused_over_grpc_too(narrow):
    with pytest.raises(InvalidRequestError, match="asks for 4 sequences.*at most 3"):
        narrow.run(narrow.mesh.client.generate_answers("a", Sampling(), Output(n=4)))


def test_an_expert_that_is_gone_is_answered_with_503_and_ends_a_stream_with_an_error():
    async def run() -> None:
        hosts = ((0, 1, 2, 3, 4, 5, 6, 7),)
        dispatch = DispatchConfig(wait_seconds=0)
        async with run_mesh(MODEL, hosts=hosts, http_listen="127.0.0.1:0", dispatch=dispatch) as mesh:
            url = f"http://{mesh.gateway.http.address}"
            async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                async with client.stream("POST", TEXT, json={**LONG, "stream": True}) as reply:
                    lines = reply.aiter_lines()
                    assert (await anext(lines)).startswith("data: {")
                    stopping = asyncio.create_task(mesh.experts[0].aclose())
                    *_, last, _ = [line async for line in lines]
                    await stopping
                error = json.loads(last.removeprefix("data: "))["error"]
                assert (error["type"], error["code"]) == ("server_error", "expert_unavailable")
                assert "127.0.0.1" not in error["message"], "which replica failed is for the log"
                refused = await client.post(CHAT, json=ASK)
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
                tgi = await client.post("/generate", json={"inputs": "a"})
                assert (tgi.status_code, tgi.json()["error_type"]) == (503, "generation")
                assert (await client.get("/health")).status_code == 200
            assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks

    asyncio.run(run())


def test_ready_is_what_grpc_health_says(served):
    health = served.mesh.gateway.server
    served.run(health.set_serving(False))
    reply = served.http.get("/ready")
    assert (reply.status_code, reply.json()) == (503, {"status": "not ready", "missing_experts": []})
    assert served.http.get("/health").status_code == 200
    served.run(health.set_serving(True))
    assert served.http.get("/ready").status_code == 200


def test_two_hundred_mixed_requests_with_random_ends_leave_nothing(served):
    bodies = (
        (TEXT, {"prompt": "Hello", "max_tokens": 20, "stream": True, "ignore_eos": True}),
        (TEXT, {"prompt": ["a", "b"], "n": 2, "max_tokens": 5, "temperature": 1.0}),
        (CHAT, {**ASK, "stream": True}),
        (CHAT, {**ASK, "tools": [{}]}),
        ("/generate", {"inputs": "Hello", "parameters": {"max_new_tokens": 9}}),
    )

    async def ask(client: httpx.AsyncClient, number: int) -> int | None:
        path, body = bodies[number % len(bodies)]
        try:
            async with asyncio.timeout(None if number % 3 else 0.01 * (number % 17)):
                return (await client.post(path, json=body)).status_code
        except TimeoutError:
            return None

    async def run() -> set[int | None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=served.url, timeout=60, limits=limits) as client:
            return set(await asyncio.gather(*(ask(client, number) for number in range(200))))

    num_tasks = served.num_tasks()
    assert asyncio.run(run()) <= {200, 400, 429, None}
    served.wait_idle(num_tasks)
