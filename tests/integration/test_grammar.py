import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from hostile import hostile_schema
from http_serving import Served, serving
from integration_mesh import Mesh, run_mesh

from expertmesh.client import JsonSchema, Output, Sampling
from expertmesh.engine.request import FinishReason
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.conversation import Message
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer

VOCAB = 32000
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "grün"]}, "count": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
BY_SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
BY_REGEX = Grammar(GrammarKind.REGEX, "[a-d]{1,3}-[0-9]{2}")
DRAWN = SamplingParams(temperature=1.5, seed=1)


@pytest.fixture(scope="module")
def directory(make_mixtral) -> Path:
    """A random model with the vocabulary of the published tokenizer, which never says anything sensible by itself."""
    return make_mixtral(vocab_size=VOCAB, num_hidden_layers=1).directory


def with_generator(directory: Path, use):
    """Run ``use(generator)`` against a mesh of local experts."""

    async def run():
        async with run_mesh(directory, hosts=None) as mesh:
            return await use(make_generator(directory, mesh))

    return asyncio.run(run())


def make_generator(directory: Path, mesh: Mesh) -> TextGenerator:
    tokenizer = Tokenizer.open(directory)
    return TextGenerator(tokenizer, InstTemplate(tokenizer), mesh.gateway.engine)


async def answer(generator: TextGenerator, request: GenerationRequest) -> list[str]:
    """Return the texts of all answers, each of which the model has ended."""
    texts = [""] * request.n
    reasons = []
    async for delta in generator.generate(request):
        texts[delta.index] += delta.text
        reasons += [delta.finish_reason] if delta.finish_reason else []
    assert reasons == [FinishReason.STOP] * request.n
    return texts


def test_answers_fit_their_grammar(directory: Path):
    async def use(generator: TextGenerator):
        return await asyncio.gather(
            answer(generator, GenerationRequest((1, 5), DRAWN, n=4, grammar=BY_SCHEMA)),
            answer(generator, GenerationRequest((1, 5), DRAWN, n=4, grammar=BY_REGEX)),
            answer(generator, GenerationRequest((1, 5), SamplingParams(), grammar=BY_SCHEMA)),
        )

    drawn, codes, greedy = with_generator(directory, use)
    for text in (*drawn, *greedy):
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(codes)) > 1
    assert all(re.fullmatch(BY_REGEX.source, text) for text in codes)


def test_a_wrong_grammar_is_named_and_nobody_else_is_disturbed(directory: Path):
    async def use(generator: TextGenerator):
        good = asyncio.create_task(answer(generator, GenerationRequest((1, 5), DRAWN, grammar=BY_REGEX)))
        with pytest.raises(InvalidRequestError, match="regular expression cannot be used: unclosed group"):
            await answer(generator, GenerationRequest((1,), DRAWN, grammar=Grammar(GrammarKind.REGEX, "(")))
        return await good

    assert re.fullmatch(BY_REGEX.source, with_generator(directory, use)[0])


def test_a_plain_chat_does_not_wait_for_hostile_grammars(directory: Path):
    async def use(generator: TextGenerator):
        hostile = [
            asyncio.create_task(answer(generator, GenerationRequest((1,), DRAWN, grammar=hostile_grammar(24, first))))
            for first in range(6)
        ]
        await asyncio.sleep(0.5)  # until they are at it
        prompt = tuple(await generator.encode_chat([Message("user", "Hello")]))
        plain = GenerationRequest(prompt, SamplingParams(max_tokens=8, ignore_eos=True))
        num_deltas = len([delta async for delta in generator.generate(plain)])
        assert not hostile[-1].done()
        results = await asyncio.gather(*hostile, return_exceptions=True)
        assert all(isinstance(result, InvalidRequestError) for result in results)
        return num_deltas

    assert with_generator(directory, use) >= 1


def hostile_grammar(num_patterns: int, first: int) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, hostile_schema(num_patterns, first))


@pytest.fixture(scope="module")
def served():
    with serving() as served:
        yield served


def chat(schema: str) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "hostile", "schema": json.loads(schema)}}
    return {"messages": [{"role": "user", "content": "Hello"}], "response_format": form, "max_tokens": 4}


def test_a_grammar_beyond_the_limits_is_refused_before_anything_is_computed(served: Served):
    schema = hostile_schema(24)
    refused = served.http.post("/v1/chat/completions", json=chat(schema))
    message = "takes more than (2 s|512 MiB) to compile"
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert re.search(message, refused.json()["error"]["message"])
    grammar = {"type": "json", "value": json.loads(schema)}
    refused = served.http.post("/generate", json={"inputs": "Hello", "parameters": {"grammar": grammar}})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert re.search(message, refused.json()["error"])
    with pytest.raises(InvalidRequestError, match=message):
        served.run(served.mesh.client.generate_answers((1, 5), Sampling(), Output(response_format=JsonSchema(schema))))
    assert served.http.post("/v1/chat/completions", json=chat('{"type": "null"}')).status_code == 200


def test_a_grammar_goes_no_further_when_its_client_hangs_up(served: Served):
    served.http.post("/v1/chat/completions", json=chat('{"type": "null"}'))
    served.wait_idle()
    num_tasks, rejected = served.num_tasks(), dict(served.mesh.gateway.core.state.stats.num_rejected)
    for first in (100, 200, 300):
        with suppress(httpx.ReadTimeout):
            served.http.post("/v1/chat/completions", json=chat(hostile_schema(200, first)), timeout=0.5)
    served.wait_idle(num_tasks)
    assert dict(served.mesh.gateway.core.state.stats.num_rejected) == rejected
    assert served.http.post("/v1/chat/completions", json=chat('{"type": "boolean"}')).status_code == 200
