"""Asking a server of the OpenAI HTTP API and noting when what arrives. Knows no statistics."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from serving.load import Question

MAX_ERROR_LENGTH = 200


@dataclass(frozen=True)
class Target:
    """A server: ``fields`` are added to every request, beside those of OpenAI's own API."""

    name: str
    url: str
    api_key: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 600.0


@dataclass(frozen=True)
class Answer:
    """When a request was sent and each piece of text came, in ``time.perf_counter`` seconds.

    Token counts are those that the server reports; with an ``error`` they and the pieces are what came until then.
    """

    sent: float
    pieces: tuple[float, ...] = ()
    finished: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


class AnswerError(Exception):
    """The server refused, or what it sent is no answer."""


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client of ``target`` with a connection per request: one that is kept may close as it is used again."""
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=target.url.rstrip("/"), headers=headers, limits=limits, timeout=target.timeout_seconds, trust_env=False
    ) as client:
        yield client


async def first_model(client: httpx.AsyncClient) -> str:
    """Ask for the name of the model that is served; AnswerError where there is none."""
    response = await client.get("/v1/models")
    await _refuse_failure(response)
    models = response.json().get("data")
    if not models:
        raise AnswerError("GET /v1/models names no model")
    return str(models[0]["id"])


async def ask(client: httpx.AsyncClient, question: Question, model: str, fields: dict[str, Any]) -> Answer:
    """Stream one completion. Failures are an answer, too: they are counted, and the run goes on."""
    log = _Log(time.perf_counter())
    try:
        async with client.stream("POST", "/v1/completions", json=_body(question, model, fields)) as response:
            await _refuse_failure(response)
            async for event in EventSource(response).aiter_sse():
                if event.data != "[DONE]":
                    log.add(json.loads(event.data))
        return log.answer()
    except (httpx.HTTPError, SSEError, ValueError, AnswerError) as error:
        return log.answer(f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH])


def _body(question: Question, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": question.prompt,
        "max_tokens": question.num_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }


async def _refuse_failure(response: httpx.Response) -> None:
    if response.is_error:
        text = (await response.aread()).decode(errors="replace")
        raise AnswerError(f"HTTP {response.status_code}: {text}")


class _Log:
    """What has arrived of one answer."""

    def __init__(self, sent: float) -> None:
        self._sent = sent
        self._pieces: list[float] = []
        self._finished: float | None = None
        self._usage: dict[str, Any] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Note one event of the stream; AnswerError if it is an error."""
        now = time.perf_counter()
        if "error" in event:
            raise AnswerError(str(event["error"]))
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices") or ():
            if choice.get("text"):
                self._pieces.append(now)
            if choice.get("finish_reason"):
                self._finished = now

    def answer(self, error: str | None = None) -> Answer:
        """Make the answer of what came; one that is not whole gets an error."""
        if error is None and (self._finished is None or "completion_tokens" not in self._usage):
            error = "AnswerError: the stream ended without a finish_reason or without usage"
        return Answer(
            sent=self._sent,
            pieces=tuple(self._pieces),
            finished=self._finished or time.perf_counter(),
            prompt_tokens=self._usage.get("prompt_tokens", 0),
            output_tokens=self._usage.get("completion_tokens", 0),
            error=error,
        )
