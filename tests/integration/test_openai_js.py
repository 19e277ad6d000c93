"""OpenAI's client for JavaScript in a page of another origin, in a real browser.

Skipped where there is no Chromium, no driver for it, or no such client.
"""

import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from browsing import needs_chromium
from demo_model import ANSWER, NAME, QUESTION
from http_serving import Served, serving

PACKAGES = Path(__file__).parents[1] / "clients" / "node" / "node_modules"

pytestmark = [
    needs_chromium,
    pytest.mark.clients,
    pytest.mark.skipif(not (PACKAGES / "openai").is_dir(), reason="needs what make test-clients installs for Node.js"),
]

KEY = "sesame"
TOOL = {
    "type": "function",
    "function": {
        "name": "subtract",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 999}}},
    },
}
# What a page does with a client: BODY, in which asked is what every request begins with.
SCRIPT = """async ([baseURL, apiKey, model, content, tool]) => {
  const { default: OpenAI } = await import("/openai/index.mjs");
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, dangerouslyAllowBrowser: true });
  const asked = { model, messages: [{ role: "user", content }], max_tokens: 300 };
  BODY
}"""


class _Packages(SimpleHTTPRequestHandler):
    """Files, of which nothing is logged."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """Another origin than the gateway's; it has the packages of Node.js."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Packages, directory=str(PACKAGES))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def served(origin: str) -> Iterator[Served]:
    with serving(api_keys=(KEY,), cors_origins=(origin,)) as mesh:
        yield mesh


@pytest.fixture
def run(served: Served, origin: str, open_page: Any) -> Any:
    """Run a body in a page of the other origin."""
    page = open_page(f"{origin}/openai/package.json")

    def run_body(body: str, key: str = KEY, url: str = served.url) -> Any:
        return page.evaluate(SCRIPT.replace("BODY", body), [f"{url}/v1", key, NAME, QUESTION, TOOL])

    return run_body


def test_whole_answers_and_streams_are_read(run: Any):
    assert run("return (await client.chat.completions.create(asked)).choices[0].message.content") == ANSWER
    assert run("return await client.chat.completions.stream(asked).finalContent()") == ANSWER
    assert run("return (await client.responses.create({ model, input: content })).output_text") == ANSWER


def test_calls_are_read(run: Any):
    calls = run(
        'const told = await client.chat.completions.create({ ...asked, tools: [tool], tool_choice: "required" });'
        "return told.choices[0].message.tool_calls.map((call) => call.function)"
    )
    assert {call["name"] for call in calls} == {"subtract"}
    assert all(set(json.loads(call["arguments"])) <= {"a"} for call in calls)


def test_a_page_reads_the_id_of_its_request_and_why_it_was_refused(run: Any):
    assert run("return (await client.chat.completions.create(asked))._request_id")
    told = "return await client.models.list().catch((error) => [error.constructor.name, error.status, error.code])"
    assert run(told, key="wrong") == ["AuthenticationError", 401, "invalid_api_key"]
    told = (
        "return await client.chat.completions.create({ ...asked, n: 0 }).catch((error) => [error.status, error.param])"
    )
    assert run(told) == [400, "n"]


def test_pages_of_origins_that_are_not_named_read_nothing(run: Any):
    with serving(cors_origins=("https://example.org",)) as other:
        told = "return await client.models.list().catch((error) => error.constructor.name)"
        assert run(told, url=other.url) == "APIConnectionError"
