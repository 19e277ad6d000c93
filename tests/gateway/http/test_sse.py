import asyncio
import json

import pytest
from starlette.requests import Request

from expertmesh.errors import ComputeError, QueueFullError
from expertmesh.gateway.http.errors import ClientGoneError
from expertmesh.gateway.http.sse import event_stream

SCOPE = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}


class Events:
    """Two events and an error or an endless wait; knows whether it was closed."""

    def __init__(self, *steps: str | Exception | None) -> None:
        self._steps = steps
        self.is_closed = False

    async def __call__(self):
        try:
            for step in self._steps:
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    await asyncio.Event().wait()
                yield step
        finally:
            self.is_closed = True


def stream(events: Events, leaves_after: int | None = None) -> str:
    """Run a stream; its client leaves after so many messages."""
    sent: list[dict] = []
    left = asyncio.Event()

    async def receive() -> dict:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)
        if len(sent) == leaves_after:
            left.set()

    async def run() -> None:
        if leaves_after == 0:
            left.set()
        response = await event_stream(Request(SCOPE, receive), events())
        await response(SCOPE, receive, send)

    asyncio.run(run())
    return b"".join(message.get("body", b"") for message in sent).decode()


def test_events_are_sent_as_they_come():
    events = Events("a", "b")
    assert stream(events) == "data: a\n\ndata: b\n\n"
    assert events.is_closed


def test_an_error_before_the_first_event_is_raised():
    with pytest.raises(QueueFullError):
        stream(Events(QueueFullError("full")))


def test_a_later_error_is_the_last_event():
    *events, last, _ = stream(Events("a", ComputeError("layer 3"), "never")).split("\n\n")
    assert events == ["data: a"]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "layer 3"


@pytest.mark.parametrize("num_messages", [1, 2])
def test_a_client_that_leaves_closes_the_events(num_messages: int):
    events = Events("a", None)
    stream(events, leaves_after=num_messages)
    assert events.is_closed


def test_a_client_that_leaves_before_the_first_event_closes_them_too():
    events = Events(None)
    with pytest.raises(ClientGoneError):
        stream(events, leaves_after=0)
    assert events.is_closed
