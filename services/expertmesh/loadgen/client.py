"""Asking a server of the OpenAI HTTP API and noting when what arrives. Knows no statistics."""

import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from expertmesh.errors import ApiKeyError, ConfigError, GatewayError
from expertmesh.loadgen.load import Question

MAX_ERROR_LENGTH = 200
_KEY_STATUSES = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


@dataclass(frozen=True)
class Target:
    """Where a server is: ``url`` with or without /v1 at its end.

    ``model`` is the first that it lists unless it is named here. ``fields`` are added to every request, beside those of
    OpenAI's own API. ``ssl_context`` None trusts whom httpx trusts.
    """

    name: str
    url: str
    api_key: str | None = None
    model: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 600.0
    ssl_context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no request."""
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.url!r} is no URL of a server; http://127.0.0.1:8000 would be")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ConfigError("api_key is empty or has characters that a header cannot carry; printable ASCII would do")


@dataclass(frozen=True)
class Answer:
    """When a request was sent and each piece of text came, in ``time.perf_counter`` seconds.

    Token counts are those that the server reports; with an ``error`` they and the pieces are what came until then.
    ``status`` is that of HTTP, None where no response began.
    """

    sent: float
    pieces: tuple[float, ...] = ()
    finished: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    status: int | None = None
    error: str | None = None


class AnswerError(GatewayError):
    """The server refused, or what it sent is no answer."""


@dataclass(frozen=True)
class Server:
    """A server that is connected to, and the model that it is asked for."""

    name: str
    model: str
    client: httpx.AsyncClient
    fields: dict[str, Any] = field(default_factory=dict)

    async def ask(self, question: Question) -> Answer:
        """Stream one completion. Failures are an answer, too: they are counted, and the run goes on."""
        log = _Log(time.perf_counter())
        try:
            async with self.client.stream("POST", "/v1/completions", json=self._body(question)) as response:
                log.status = response.status_code
                await _refuse_failure(response)
                async for event in EventSource(response).aiter_sse():
                    if event.data != "[DONE]":
                        log.add(json.loads(event.data))
            return log.answer()
        except AnswerError as error:
            return log.answer(str(error))
        except (httpx.HTTPError, SSEError, ValueError, TypeError, AttributeError) as error:
            return log.answer(f"{type(error).__name__}: {error}")

    def _body(self, question: Question) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": question.prompt,
            "max_tokens": question.num_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Server]:
    """Connect to ``target``, with a connection per request: one that is kept may close as it is used again.

    GatewayError if it has to be asked for its model, and cannot be reached or names none.
    """
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    base_url = target.url.rstrip("/").removesuffix("/v1")
    async with httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        limits=limits,
        timeout=target.timeout_seconds,
        trust_env=False,
        verify=target.ssl_context or True,
    ) as client:
        yield Server(target.name, target.model or await first_model(client), client, target.fields)


async def first_model(client: httpx.AsyncClient) -> str:
    """Ask for the name of the model that is served; GatewayError where there is none."""
    url = client.base_url.join("/v1/models")
    try:
        response = await client.get("/v1/models")
    except httpx.HTTPError as error:
        raise GatewayError(f"{url} cannot be reached: {type(error).__name__}: {error}") from error
    if response.status_code in _KEY_STATUSES:
        raise ApiKeyError(f"{url} answered {response.status_code}; the key of the server would be right")
    try:
        return str(response.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError):
        raise GatewayError(
            f"{url} answered {response.status_code} and names no model: {response.text[:MAX_ERROR_LENGTH]!r}; "
            "a server of OpenAI's HTTP API would name one"
        ) from None


async def _refuse_failure(response: httpx.Response) -> None:
    if response.is_error:
        text = (await response.aread()).decode(errors="replace")
        raise AnswerError(f"HTTP {response.status_code}: {_message_in(text)}")


def _message_in(text: str) -> str:
    """Take the message out of an error of OpenAI's shape; of any other shape, all of it."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return text


class _Log:
    """What has arrived of one answer."""

    def __init__(self, sent: float) -> None:
        self._sent = sent
        self._pieces: list[float] = []
        self._finished: float | None = None
        self._usage: dict[str, Any] = {}
        self.status: int | None = None

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
            error = "the stream ended without a finish_reason or without usage"
        return Answer(
            sent=self._sent,
            pieces=tuple(self._pieces),
            finished=self._finished or time.perf_counter(),
            prompt_tokens=self._usage.get("prompt_tokens", 0),
            output_tokens=self._usage.get("completion_tokens", 0),
            status=self.status,
            error=error and error[:MAX_ERROR_LENGTH],
        )
