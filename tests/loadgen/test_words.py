import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from expertmesh.loadgen.client import Server
from expertmesh.loadgen.lengths import Uniform
from expertmesh.loadgen.prompts import GivenPrompts, RandomPrompts, TokenIds, Words
from expertmesh.loadgen.words import TEXT, WORDS, count_in_tokens

RANDOM = RandomPrompts(Words(WORDS), Uniform(5, 9), 0.5)


def counted(tokenize, prompts=RANDOM):
    async def count():
        app = Starlette(routes=[Route("/tokenize", tokenize, methods=["POST"])])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await count_in_tokens(prompts, Server("mesh", "tiny", client))

    return asyncio.run(count())


async def like_vllm(request):
    body = await request.json()
    assert (body["prompt"], body["model"], body["add_special_tokens"]) == (TEXT, "tiny", False)
    return JSONResponse({"count": 4, "tokens": [7, 5, 7, 6]})


async def like_llama_cpp(request):
    return JSONResponse({"tokens": [8, 9] if (await request.json()).get("content") == TEXT else []})


@pytest.mark.parametrize(("tokenize", "ids"), [(like_vllm, (7, 5, 6)), (like_llama_cpp, (8, 9))])
def test_prompts_are_of_the_tokens_that_words_have(tokenize, ids):
    assert counted(tokenize) == RandomPrompts(TokenIds(ids), Uniform(5, 9), 0.5)


@pytest.mark.parametrize("reply", [{"error": "unknown"}, {"tokens": ["a"]}, ["a"], {"tokens": None}])
def test_a_server_that_does_not_say_gets_words(reply):
    async def tokenize(request):
        return JSONResponse(reply)

    assert counted(tokenize) is RANDOM


def test_a_server_without_tokenize_gets_words_and_given_prompts_stay():
    async def missing(request):
        return JSONResponse({"detail": "Not Found"}, 404)

    assert counted(missing) is RANDOM
    given = GivenPrompts(("a",))
    assert counted(like_vllm, given) is given
