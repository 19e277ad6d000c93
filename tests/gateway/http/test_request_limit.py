import asyncio
import json
import logging

import pytest

from expertmesh.gateway.http.request_limit import RequestLimit


def scope(method: str = "POST", path: str = "/v1/completions") -> dict:
    return {"type": "http", "method": method, "path": path, "headers": []}


class Asked:
    """One request, and what came back."""

    def __init__(self, limit: RequestLimit, **fields: str) -> None:
        self.sent: list[dict] = []
        self.running = asyncio.create_task(limit(scope(**fields), self._receive, self._send))

    async def _receive(self) -> dict:
        raise AssertionError("a body was read")

    async def _send(self, message: dict) -> None:
        self.sent.append(message)


def run(*fields: dict[str, str]) -> list[list[dict]]:
    """Ask one request that stays, then those with ``fields``; returns what these got at once."""

    async def ask() -> list[list[dict]]:
        let_go = asyncio.Event()

        async def app(scope, receive, send):
            if scope["path"] == "/v1/completions":
                await let_go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        limit = RequestLimit(app, max_requests=1)
        first = Asked(limit)
        await asyncio.sleep(0)
        others = [Asked(limit, **one) for one in fields]
        await asyncio.gather(*(other.running for other in others))
        let_go.set()
        await first.running
        await Asked(limit).running
        return [other.sent for other in others]

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/nothing"])
def test_further_requests_are_refused_in_the_shape_of_openai(path: str):
    [[head, body]] = run({"path": path})
    assert head["status"] == 429
    assert (b"retry-after", b"1") in head["headers"]
    error = json.loads(body["body"])["error"]
    assert (error["code"], error["message"].split(",")[0]) == ("queue_full", "1 requests are being answered")


def test_and_in_that_of_tgi():
    [[head, body]] = run({"path": "/generate"})
    assert (head["status"], json.loads(body["body"])["error_type"]) == (429, "overloaded")


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_are_answered_in_any_case(path: str):
    [[head, _]] = run({"method": "GET", "path": path})
    assert head["status"] == 200


def test_it_is_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        run({"path": "/a"}, {"path": "/b"}, {"path": "/c"})
    [record] = caplog.records
    assert record.getMessage() == (
        "1 requests are being answered, as many as --max-connections allows: further ones are refused"
    )
