import asyncio
import json
import re
from pathlib import Path

import jsonschema
import pytest
from integration_mesh import Mesh, run_mesh

from expertmesh.engine.request import FinishReason
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.model.sampling import SamplingParams
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
