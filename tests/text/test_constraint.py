import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from expertmesh.errors import InvalidRequestError
from expertmesh.text.constraint import GrammarCompiler, GrammarConstraint
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tokenizer import Tokenizer

VOCAB = 32000
EOS = 2
JSON_OBJECT = Grammar(GrammarKind.JSON_OBJECT)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory) -> Tokenizer:
    return Tokenizer.open(tokenizer_directory)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, {EOS}, VOCAB)


def of_schema(schema: dict[str, Any]) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


def of_regex(source: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, source)


def of_rules(source: str) -> Grammar:
    return Grammar(GrammarKind.RULES, source)


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return detokenizer.push(ids) + detokenizer.flush()


@cache
def closing_ids(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """The ids that close strings, arrays and objects, as a mask [V]."""
    return np.array([tokenizer.token_bytes(token_id).strip() in (b'"', b"}", b"]") for token_id in range(VOCAB)])


def walk(tokenizer: Tokenizer, constraint: GrammarConstraint, rng: random.Random) -> str:
    """Take random allowed tokens until the answer ends; the longer it gets, the more often those that close it."""
    ids: list[int] = []
    while True:
        allowed = constraint.allowed().copy()
        may_end, allowed[EOS] = allowed[EOS], False
        if not allowed.any() or (may_end and rng.random() < 0.2):
            assert may_end
            return text_of(tokenizer, ids)
        closing = allowed & closing_ids(tokenizer)
        is_closing = closing.any() and rng.random() < 0.3 + len(ids) / 100
        ids.append(rng.choice(np.flatnonzero(closing if is_closing else allowed).tolist()))
        constraint.advance(ids[-1])
        assert len(ids) < 2000


def fits(tokenizer: Tokenizer, constraint: GrammarConstraint, ids: Sequence[int]) -> bool:
    """Whether ``ids`` may come one after the other, and the answer may end behind them."""
    constraint = constraint.copy()
    for token_id in ids:
        if not constraint.allowed()[token_id]:
            return False
        constraint.advance(token_id)
    return bool(constraint.allowed()[EOS])


@pytest.mark.parametrize("seed", range(8))
def test_any_walk_is_a_json_object(tokenizer: Tokenizer, compiler: GrammarCompiler, seed: int):
    text = walk(tokenizer, compiler.compile(JSON_OBJECT), random.Random(seed))
    assert isinstance(json.loads(text), dict)


SCHEMAS: dict[str, dict[str, Any]] = {
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "β", "🙂"]}, "maxItems": 3},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "union": {"anyOf": [{"type": "null"}, {"type": "number"}, {"type": "array", "items": {"type": "boolean"}}]},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
    "tree": {
        "$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    },
    "date": {"type": "object", "properties": {"on": {"type": "string", "format": "date"}}, "required": ["on"]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_any_walk_is_valid_under_its_schema(tokenizer: Tokenizer, compiler: GrammarCompiler, name: str):
    constraint = compiler.compile(of_schema(SCHEMAS[name]))
    for seed in range(5):
        text = walk(tokenizer, constraint.copy(), random.Random(seed))
        jsonschema.validate(json.loads(text), SCHEMAS[name])


@pytest.mark.parametrize(
    "source",
    [
        "[a-c]{1,5}",
        "(yes|no), *please",
        r"\d{3}-[0-9]{4}",
        " ?x{0,20}",
        "日本語?|🙂{2,3}|é",
        "a/b|c\\\\d",
        "|a",
        "^ab?$",
    ],
)
def test_any_walk_matches_its_regex(tokenizer: Tokenizer, compiler: GrammarCompiler, source: str):
    constraint = compiler.compile(of_regex(source))
    for seed in range(8):
        text = walk(tokenizer, constraint.copy(), random.Random(seed))
        assert re.fullmatch(source, text), text


CHOICES = ["yes", "no", 'say "yes"\n', "\\", "é🙂"]


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        (Grammar.one_of(CHOICES), CHOICES),
        (of_rules('start: "a" b\nb: "b" | "c" "d"?'), ["ab", "ac", "acd"]),
        (of_rules('root ::= "a" b\nb ::= "b" | "c" "d"?'), ["ab", "ac", "acd"]),
        (of_rules('%llguidance {"no_forcing": false}\nstart: "abc"'), ["abc"]),
    ],
    ids=str,
)
def test_walks_are_the_texts_of_their_rules(tokenizer, compiler, grammar: Grammar, texts: list[str]):
    rng = random.Random(0)
    assert {walk(tokenizer, compiler.compile(grammar), rng) for _ in range(60)} == set(texts)


@pytest.mark.parametrize("text", ["{}", '{"a": [1, -2.5e3, null]}', '{\n    "naïve": {"日本語": "🙂\\n"}\n}'])
def test_usual_tokens_of_a_text_fit(tokenizer: Tokenizer, compiler: GrammarCompiler, text: str):
    """The pieces that SentencePiece makes of a text, first of all the one whose space the client never sees."""
    ids = tokenizer.encode(text)
    assert tokenizer.piece(ids[0]).startswith("\u2581")
    constraint = compiler.compile(JSON_OBJECT)
    assert fits(tokenizer, constraint, ids)
    assert not fits(tokenizer, constraint, ids[:-1])
    assert fits(tokenizer, constraint, [3 + byte for byte in text.encode()])


def pieces(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.piece(token_id) for token_id in range(VOCAB)]


def test_only_the_first_piece_loses_its_space(tokenizer: Tokenizer, compiler: GrammarCompiler):
    space, brace, spaced_a, a = (pieces(tokenizer).index(piece) for piece in ("\u2581", "{", "\u2581a", "a"))
    space_byte = 3 + ord(" ")
    only_a, space_a = compiler.compile(of_regex("a")), compiler.compile(of_regex(" a"))
    for first in ([a], [spaced_a], [space, a]):
        assert fits(tokenizer, only_a, first)
        assert text_of(tokenizer, first) == "a"
    for first in ([space_byte, a], [space, spaced_a], [space, space_byte, a]):
        assert fits(tokenizer, space_a, first)
        assert text_of(tokenizer, first) == " a"
    assert not fits(tokenizer, only_a, [space, spaced_a])
    assert not fits(tokenizer, space_a, [spaced_a])
    continued = compiler.compile(of_regex(" a"), is_at_start=False)
    assert fits(tokenizer, continued, [spaced_a])
    assert not fits(tokenizer, continued, [space, spaced_a])
    assert not compiler.compile(JSON_OBJECT).allowed()[a]
    assert compiler.compile(JSON_OBJECT).allowed()[brace]


def test_the_end_is_allowed_exactly_where_the_text_may_end(tokenizer: Tokenizer, compiler: GrammarCompiler):
    constraint = compiler.compile(of_regex("(ab)*"))
    for token_id, may_end in ((3 + ord("a"), False), (3 + ord("b"), True), (3 + ord("a"), False)):
        constraint.advance(token_id)
        assert constraint.allowed()[EOS] == may_end
    constraint.advance(3 + ord("b"))
    constraint.advance(EOS)
    assert np.flatnonzero(constraint.allowed()).tolist() == [EOS]


def test_control_and_unknown_tokens_never_come(compiler: GrammarCompiler):
    allowed = compiler.compile(of_regex("(.|\n)*")).allowed()
    assert not allowed[[0, 1]].any()
    assert allowed[[EOS, 3, 3 + ord("a"), 1000]].all()


def test_several_ids_end_an_answer(tokenizer: Tokenizer):
    constraint = GrammarCompiler(tokenizer, {EOS, 1000, 40_000}, VOCAB).compile(of_regex("x*"))
    for ending in (EOS, 1000):
        assert constraint.allowed()[ending]
        copy = constraint.copy()
        copy.advance(ending)
        assert set(np.flatnonzero(copy.allowed())) == {EOS, 1000}


@pytest.mark.parametrize("vocab_size", [512, 32_064])
def test_the_vocabulary_of_the_model_counts(tokenizer: Tokenizer, vocab_size: int):
    constraint = GrammarCompiler(tokenizer, {EOS}, vocab_size).compile(of_regex('[^"]*'))
    for _ in range(3):
        allowed = constraint.allowed()
        assert (allowed.shape, allowed.dtype) == ((vocab_size,), np.bool_)
        assert not allowed[VOCAB:].any()
        constraint.advance(int(np.flatnonzero(allowed)[-1]))


def test_a_copy_goes_its_own_way(compiler: GrammarCompiler):
    one = compiler.compile(of_regex("ab|cd"))
    other = one.copy()
    one.advance(3 + ord("a"))
    assert other.allowed()[3 + ord("c")]
    other.advance(3 + ord("c"))
    assert [one.allowed()[3 + ord("b")], other.allowed()[3 + ord("d")]] == [True, True]
    assert not one.copy().allowed()[3 + ord("d")]


@pytest.mark.parametrize(
    ("blanks", "num_taken"), [(" ", 1), ("\n", 1), ("\n" + " " * 30, 21), ("\n\t\t\t", 4), (" \n", 1)]
)
@pytest.mark.parametrize("grammar", [JSON_OBJECT, of_schema({"type": "object"})], ids=["any", "schema"])
def test_blanks_come_to_an_end(compiler: GrammarCompiler, grammar: Grammar, blanks: str, num_taken: int):
    constraint = compiler.compile(grammar)
    constraint.advance(3 + ord("{"))
    taken = 0
    for blank in blanks * 2:
        if not constraint.allowed()[3 + ord(blank)]:
            break
        constraint.advance(3 + ord(blank))
        taken += 1
    assert taken == num_taken
    constraint.advance(3 + ord("}"))


def test_a_token_that_is_not_allowed_is_an_error(compiler: GrammarCompiler):
    with pytest.raises(InvalidRequestError, match="^token 123 does not fit the grammar here$"):
        compiler.compile(JSON_OBJECT).advance(3 + ord("x"))


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (of_regex("a("), "^the regular expression cannot be used: unclosed group$"),
        (of_regex("(?=a)b"), "regular expression.*look-ahead"),
        (of_regex("[^\\x00-\\U0010ffff]"), "no text fits"),
        (of_regex("\ud800"), "regular expression is not valid Unicode at character 0"),
        (of_regex("a" * 100_001), "regular expression has 100001 characters; at most 100000"),
        (Grammar(GrammarKind.JSON_SCHEMA, "{"), "JSON schema is not JSON: .*line 1 column 2"),
        (Grammar(GrammarKind.JSON_SCHEMA, "[" * 99_999), "JSON schema is not JSON"),
        (Grammar(GrammarKind.JSON_SCHEMA, "[1]"), "JSON schema is of type list; it must be an object"),
        (of_schema({"type": "text"}), "^the JSON schema cannot be used: Invalid type: text$"),
        (of_schema({"not": {"type": "null"}}), r'Unimplemented keys: \["not"\]'),
        (of_schema({"$ref": "#/$defs/lost"}), "/\\$defs/lost' does not exist"),
        (of_schema({"type": "string", "pattern": "("}), "unclosed group"),
        (of_schema({"allOf": [{"type": "null"}, {"type": "string"}]}), "Unsatisfiable schema"),
        (of_rules("start: b"), "the grammar cannot be used: .*unknown name"),
        (of_rules("root ::= b"), "the grammar cannot be used: Rule 'b' not found"),
        (of_rules("\ud800"), "not valid Unicode"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_named(compiler: GrammarCompiler, grammar: Grammar, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        compiler.compile(grammar)


@pytest.mark.parametrize("source", ["(a|b){1,100}" * 20, "((a|b|c){1,100}){1,100}", "(.*a.{200}|x.{300}b)*c"])
def test_hostile_grammars_end_with_an_error_or_work(tokenizer: Tokenizer, compiler: GrammarCompiler, source: str):
    rng = random.Random(0)
    try:
        constraint = compiler.compile(of_regex(source))
        for _ in range(50):
            constraint.advance(rng.choice(np.flatnonzero(constraint.allowed()).tolist()))
    except InvalidRequestError as error:
        assert "too many" in str(error)


def test_the_library_is_imported_when_a_grammar_is_compiled():
    code = "import sys, expertmesh.text.constraint; assert 'llguidance' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
