"""Plain words for random prompts, and the tokens that a server makes of them."""

from dataclasses import replace
from typing import Any

import httpx

from expertmesh.loadgen.client import Server
from expertmesh.loadgen.prompts import Prompts, RandomPrompts, TokenIds

TEXT = (
    "the a of and to in is was for on with as by at from this that it be are or an not have one all new more "
    "time year day way man world life hand part child eye woman place work week case point home water room mother "
    "area money story fact month book night word house side kind head friend father power hour game line end city "
    "name team minute idea body back face level office door health person art war history party result change "
    "morning reason girl boy age law food sun tree road river stone bird fish horse bread milk sugar salt gold "
    "red blue green white black small large long short old young good great early late fast slow open close "
    "go see come take make find give tell ask play move live stand run write read sit lead"
)
WORDS = tuple(TEXT.split())


async def count_in_tokens(prompts: Prompts, server: Server) -> Prompts:
    """Make random prompts of what the server says are tokens; without its /tokenize, and for given ones, change none.

    A prompt of token ids is exactly as long as asked for, whatever the tokenizer.
    """
    if not isinstance(prompts, RandomPrompts):
        return prompts
    ids = await _token_ids(server)
    return replace(prompts, pieces=TokenIds(ids)) if ids else prompts


async def _token_ids(server: Server) -> tuple[int, ...]:
    """Return which tokens the words are made of; none where the server does not say."""
    # As vLLM and expertmesh want it, and as llama.cpp does.
    for body in ({"model": server.model, "prompt": TEXT, "add_special_tokens": False}, {"content": TEXT}):
        if ids := await _tokenize(server.client, body):
            return tuple(dict.fromkeys(ids))
    return ()


async def _tokenize(client: httpx.AsyncClient, body: dict[str, Any]) -> list[int]:
    """Return the ids that /tokenize makes; none where there is no such thing."""
    try:
        response = await client.post("/tokenize", json=body)
        ids = response.raise_for_status().json()["tokens"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return []
    return ids if isinstance(ids, list) and all(isinstance(token, int) for token in ids) else []
