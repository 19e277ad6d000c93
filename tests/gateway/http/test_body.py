"""Bodies that come too slowly. Those that are too large are tested over a socket in tests/integration."""

import asyncio

import pytest
from starlette.exceptions import HTTPException

from expertmesh.gateway.http.body import BodyLimit


async def read_body(
    parts: list[bytes], max_seconds: float, pause: float = 0.0, silence: float = 0.0, **limits: float
) -> tuple[bytes, str]:
    """Read a body whose parts come ``pause`` seconds apart, then wait for what comes after ``silence``."""
    read: list[bytes] = []
    after = ""
    messages = [
        *({"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts),
        {"type": "http.disconnect"},
    ]

    async def app(scope, receive, send):
        nonlocal after
        for _ in parts:
            read.append((await receive())["body"])
        after = (await receive())["type"]

    async def receive():
        await asyncio.sleep(pause if len(messages) > 1 else silence)
        return messages.pop(0)

    async def send(message):
        raise AssertionError(message)

    await BodyLimit(app, **{"max_bytes": 100, "max_seconds": max_seconds, **limits})({"type": "http"}, receive, send)
    return b"".join(read), after


def test_a_body_that_does_not_arrive_in_time_is_refused():
    with pytest.raises(HTTPException, match=r"the body did not arrive within 0\.05 s") as error:
        asyncio.run(read_body([b"a", b"b", b"c"], pause=3600, max_seconds=0.05))
    assert error.value.status_code == 408


def test_the_wait_for_what_follows_a_body_has_no_limit():
    assert asyncio.run(read_body([b"a"], max_seconds=0.3, silence=0.4)) == (b"a", "http.disconnect")


def test_a_body_that_stops_coming_is_refused_sooner_and_its_connection_closed():
    with pytest.raises(HTTPException, match=r"the body did not arrive for 0\.05 s") as error:
        asyncio.run(read_body([b"a", b"b"], pause=3600, max_seconds=3600, pause_seconds=0.05))
    assert (error.value.status_code, error.value.headers) == (408, {"Connection": "close"})


def test_nor_does_one_that_is_too_large_take_longer():
    with pytest.raises(HTTPException) as error:
        asyncio.run(read_body([b"a", b"b"], pause=0.2, max_seconds=3600, pause_seconds=3600, max_bytes=0))
    assert error.value.status_code == 413
    with pytest.raises(HTTPException) as error:
        asyncio.run(read_body([b"a" * 101, b"b", b"c"], pause=0.3, max_seconds=0.5, pause_seconds=3600))
    assert error.value.status_code == 408
