"""Requests of every kind that a gateway's HTTP API serves, drawn from a seed. Knows what is asked, no measures."""

import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
MAX_TOKENS = 48


@dataclass
class Tally:
    """How often what was asked, and what went wrong."""

    num_requests: int = 0
    errors: list[str] = field(default_factory=list)


class MixedClient:
    """Asks for one thing after the other; what a request may not answer goes into the ``tally``."""

    def __init__(self, http: httpx.AsyncClient, model: str, tally: Tally, seed: int) -> None:
        self._http = http
        self._model = model
        self._tally = tally
        self._rng = random.Random(seed)

    async def ask(self) -> None:
        """Draw a request, send it and read as much of the answer as is wanted."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._stream_chat,
            self._complete,
            self._complete_twice,
            self._fill_schema,
            self._leave,
            self._be_refused,
            self._look,
        ]
        self._tally.num_requests += 1
        try:
            await self._rng.choice(kinds)()
        except (httpx.HTTPError, ValueError) as error:
            self._tally.errors.append(f"{type(error).__name__}: {error}")

    async def _stream_chat(self) -> None:
        await self._read_stream("/v1/chat/completions", messages=self._messages(), seed=self._rng.randrange(1000))

    async def _complete(self) -> None:
        await self._post("/v1/completions", prompt=self._prompt(), temperature=0.0, logprobs=3)

    async def _complete_twice(self) -> None:
        await self._post("/v1/completions", prompt=self._prompt(), n=2, temperature=0.9, stop=["="])

    async def _fill_schema(self) -> None:
        # Some are new to the gateway, which keeps those it has compiled.
        schema = {**SCHEMA, "title": str(self._rng.randrange(50))}
        wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        await self._post("/v1/chat/completions", messages=self._messages(), response_format=wanted)

    async def _leave(self) -> None:
        await self._read_stream("/v1/completions", self._rng.randrange(1, 10), prompt=self._prompt())

    async def _be_refused(self) -> None:
        response = await self._http.post("/v1/completions", json=self._body({"prompt": "x", "temperature": "warm"}))
        if response.status_code != httpx.codes.BAD_REQUEST:
            raise ValueError(f"a temperature that is none was answered with {response.status_code}")

    async def _look(self) -> None:
        for path in ("/metrics", "/v1/models", "/ready"):
            (await self._http.get(path)).raise_for_status()

    async def _post(self, path: str, **body: Any) -> None:
        response = await self._http.post(path, json=self._body(body))
        response.raise_for_status()
        response.json()["choices"][0]

    async def _read_stream(self, path: str, max_lines: int | None = None, **body: Any) -> None:
        """Read a stream to its end, or leave after so many lines."""
        async with self._http.stream("POST", path, json=self._body({**body, "stream": True})) as response:
            response.raise_for_status()
            num_lines = 0
            async for line in response.aiter_lines():
                num_lines += 1
                if num_lines == max_lines:
                    return
                if line.startswith("data: {") and "error" in json.loads(line.removeprefix("data: ")):
                    raise ValueError(line)

    def _body(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self._model, "max_tokens": self._rng.randrange(1, MAX_TOKENS), **body}

    def _prompt(self) -> str:
        """Make a prompt: some begin alike, and some are long enough to be computed in parts."""
        numbers = " + ".join(str(self._rng.randrange(1000)) for _ in range(self._rng.choice([2, 2, 2, 20])))
        return f"{self._rng.choice(['What is', 'Please tell me how much is'])} {numbers}?"

    def _messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._prompt()}]
