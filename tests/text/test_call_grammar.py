import json
import random

import jsonschema
import numpy as np
import pytest
from chat_files import copy_version

from expertmesh.errors import InvalidRequestError
from expertmesh.text.call_format import HERMES, MISTRAL, CallFormat, Mark
from expertmesh.text.call_grammar import make_call_grammar
from expertmesh.text.call_parser import CallParser, join_calls
from expertmesh.text.constraint import GrammarCompiler
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.tools import Tool, ToolChoice, ToolUse

EOS, VOCAB = 2, 32768
NODE = {"properties": {"next": {"$ref": "#/$defs/node"}, "n": {"enum": [1, 2]}}, "additionalProperties": False}
SCHEMAS = {
    "look-up": {"type": "object", "properties": {"w": {"enum": ["a", "β", '"}']}}, "required": ["w"]},
    "walk": {"$defs": {"node": {"type": "object", **NODE}}, "$ref": "#/$defs/node"},
    "set": {"properties": {"on": {"type": "boolean"}, "n": {"type": "integer", "maximum": 9, "minimum": 0}}},
}
NONE = {"type": "object", "maxProperties": 0}
TOOLS = (*(Tool(name, parameters=schema) for name, schema in SCHEMAS.items()), Tool("now"))
FORMATS = {"hermes": HERMES, "mistral, as text": MISTRAL, "mistral": CallFormat(Mark("[TOOL_CALLS]", 5))}
HERMES_TOKENS = CallFormat(Mark("<tool_call>", 6), Mark("</tool_call>", 7))
TWO = ['{"name": "now", "arguments": {}}', '{"name": "look-up", "arguments": {"w": "a"}}']


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.open(copy_version(tmp_path_factory.mktemp("tokenizer"), 3))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, {EOS}, VOCAB)


def ids_of(tokenizer: Tokenizer, call_format: CallFormat, text: str) -> list[int]:
    """Ids of an answer, the mark as the token that it is."""
    if call_format.opening.token_id is None:
        return tokenizer.encode(text)
    before, mark, behind = text.partition(call_format.opening.text)
    return [*tokenizer.encode(before), *([call_format.opening.token_id] if mark else []), *tokenizer.encode(behind)]


def fits(compiler: GrammarCompiler, grammar: Grammar, ids: list[int]) -> bool:
    constraint = compiler.compile(grammar)
    for token_id in ids:
        if not constraint.allowed()[token_id]:
            return False
        constraint.advance(token_id)
    return bool(constraint.allowed()[EOS])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("use", "takes"),
    [
        (ToolUse(TOOLS), (True, True, True, True)),
        (ToolUse(TOOLS, is_parallel=False), (True, True, False, True)),
        (ToolUse(TOOLS, ToolChoice.REQUIRED), (False, True, True, False)),
        (ToolUse(TOOLS, ToolChoice.REQUIRED, is_parallel=False), (False, True, False, False)),
        (ToolUse(TOOLS, ToolChoice.REQUIRED, "now"), (False, True, False, False)),
        (ToolUse(TOOLS, ToolChoice.REQUIRED, "set"), (False, False, False, False)),
    ],
)
def test_the_choice_says_what_an_answer_may_be(tokenizer, compiler, name: str, use: ToolUse, takes: tuple[bool, ...]):
    call_format = FORMATS[name]
    answers = ("Noon.", call_format.write(TWO[:1]), call_format.write(TWO), f"Wait.\n{call_format.write(TWO[:1])}")
    grammar = make_call_grammar(use, call_format)
    assert tuple(fits(compiler, grammar, ids_of(tokenizer, call_format, text)) for text in answers) == takes


@pytest.mark.parametrize("call_format", [*FORMATS.values(), HERMES_TOKENS], ids=[*FORMATS, "hermes, as tokens"])
def test_any_walk_is_calls_valid_under_their_schemas(tokenizer, compiler, call_format: CallFormat):
    constraint = compiler.compile(make_call_grammar(ToolUse(TOOLS, ToolChoice.REQUIRED), call_format))
    for seed in range(6):
        text = walk(tokenizer, constraint.copy(), call_format, random.Random(seed))
        parser = CallParser(call_format)
        content, pieces = parser.push(text)
        calls = join_calls(pieces)
        assert (content, bool(calls)) == ("", True), text
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS.get(call.name, NONE))


def walk(tokenizer: Tokenizer, constraint, call_format: CallFormat, rng: random.Random) -> str:
    detokenizer, text = Detokenizer(tokenizer, shown=call_format.shown), ""
    for _ in range(1000):
        allowed = np.flatnonzero(constraint.allowed())
        if EOS in allowed:
            return text
        token_id = int(rng.choice(allowed))
        constraint.advance(token_id)
        text += detokenizer.push([token_id])
    raise AssertionError(text)


def test_once_a_call_has_begun_it_is_one(tokenizer, compiler):
    grammar = make_call_grammar(ToolUse(TOOLS), HERMES)
    begun = tokenizer.encode("So <tool_call>")
    constraint = compiler.compile(grammar)
    for token_id in begun:
        constraint.advance(token_id)
    allowed = {tokenizer.token_bytes(int(one)).strip()[:1] for one in np.flatnonzero(constraint.allowed())}
    assert allowed == {b"", b"{"}


def test_functions_take_no_other_arguments_than_are_named(tokenizer, compiler):
    def takes(schema, arguments) -> bool:
        use = ToolUse((Tool("f", parameters=schema),), ToolChoice.REQUIRED)
        text = HERMES.write([json.dumps({"name": "f", "arguments": arguments})])
        return fits(compiler, make_call_grammar(use, HERMES), tokenizer.encode(text))

    named = {"properties": {"a": {"type": "integer"}}}
    assert [takes(named, one) for one in ({}, {"a": 1}, {"b": 1}, 1)] == [True, True, False, False]
    assert takes({**named, "additionalProperties": True}, {"b": 1})
    assert takes({}, {"b": 1})
    assert not takes(None, {"b": 1})


def test_what_grammars_cannot_express_is_passed_over_unless_it_is_strict(compiler):
    schema = {"properties": {"a": {"not": {"type": "null"}}}}
    compiler.compile(make_call_grammar(ToolUse((Tool("f", parameters=schema),)), HERMES))
    with pytest.raises(InvalidRequestError, match="^tools\\[1\\].function.parameters: .*Unimplemented keys") as error:
        use = ToolUse((Tool("f"), Tool("g", parameters=schema, is_strict=True)))
        compiler.compile(make_call_grammar(use, HERMES))
    assert error.value.param == "tools[1].function.parameters"


@pytest.mark.parametrize(
    ("content", "good"),
    [
        (Grammar(GrammarKind.JSON_OBJECT), '{"a": 1}'),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"const": 3}'), "3"),
        (Grammar(GrammarKind.REGEX, "a/b+"), "a/bb"),
    ],
)
def test_an_answer_without_calls_may_have_a_shape(tokenizer, compiler, content: Grammar, good: str):
    grammar = make_call_grammar(ToolUse(TOOLS), HERMES, content)
    texts = (good, HERMES.write(TWO), "other", f"{good} {HERMES.write(TWO)}")
    assert [fits(compiler, grammar, tokenizer.encode(text)) for text in texts] == [True, True, False, False]
