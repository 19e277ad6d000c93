"""Which tokens keep an answer within a grammar. Knows grammars and ids, not logits or requests."""

import json
import re
from collections.abc import Iterable, Mapping
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expertmesh.errors import InvalidRequestError, shortened
from expertmesh.text.call_grammar import GAP, argument_schemas, write_call_grammar
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tokenizer import Tokenizer, check_unicode
from expertmesh.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_SOURCE_LENGTH = 100_000
# Some reasons repeat the whole grammar.
MAX_REASON_LENGTH = 300
JSON_OPTIONS = {
    "whitespace_flexible": True,
    "whitespace_pattern": GAP,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
# A model chooses its own tokens for text that the grammar leaves no choice in.
LARK_OPTIONS = '%llguidance {"no_forcing": true}\n'
# How a rule of GBNF begins, and none of Lark.
GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


class GrammarCompiler:
    """Makes constraints for one tokenizer; prepares it at the first call, which takes a few tenths of a second.

    Construction is not bounded by the limits of llguidance: 24 patterns in an ``allOf`` take 40 s and 4 GB, only to be
    refused. So compile what a stranger wrote in a process that can be killed; what passes there is cheap ever after.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Iterable[int], vocab_size: int) -> None:
        """``eos_ids`` end an answer; ``vocab_size`` is that of the model, which may be larger than the tokenizer's."""
        self._tokenizer = tokenizer
        self._eos_ids = sorted(eos_ids)
        self._vocab_size = vocab_size

    def prepare(self) -> None:
        """Do now what takes long once."""
        self._ll_tokenizer  # noqa: B018  # made when it is asked for

    def compile(self, grammar: Grammar, is_at_start: bool = True) -> "GrammarConstraint":
        """Return the constraint of an answer that has not begun; InvalidRequestError says what is wrong with a grammar.

        ``is_at_start`` is that of the answer's ``Detokenizer``: whether the first piece loses its space. Takes
        milliseconds, and without end for a hostile grammar.
        """
        matcher = self._match(_to_lark(grammar))
        if matcher.is_error():
            self._blame_function(grammar)
            raise InvalidRequestError(f"the {_name(grammar)} cannot be used: {_reason(matcher)}")
        return GrammarConstraint(matcher, self._vocabulary, is_at_start)

    def _match(self, lark: str) -> "LLMatcher":
        from llguidance import LLMatcher

        return LLMatcher(self._ll_tokenizer, LARK_OPTIONS + lark, log_level=0, limits=_limits())

    def _blame_function(self, grammar: Grammar) -> None:
        """Raise InvalidRequestError for the first function whose schema cannot be used even alone."""
        if grammar.kind is not GrammarKind.TOOL_CALLS:
            return
        for index, (schema, is_lenient) in enumerate(argument_schemas(grammar.source)):
            matcher = self._match(f"start: %json {_write_arguments(schema, is_lenient)}")
            if matcher.is_error():
                param = f"tools[{index}].function.parameters"
                raise InvalidRequestError(f"{param}: cannot be used: {_reason(matcher)}", param)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.read(self._tokenizer, self._eos_ids, self._vocab_size)

    @cached_property
    def _ll_tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        vocabulary = self._vocabulary
        return LLTokenizer(
            TokenizerWrapper(_Pieces(vocabulary)),
            n_vocab=len(vocabulary.texts),
            eos_token=vocabulary.eos_ids,
            slices=LLTokenizer.json_slices(),
        )


class GrammarConstraint:
    """How far the answer of one sequence has come in its grammar.

    What may come next is worked out as soon as it is certain, so that a grammar that proves too complex fails where its
    own sequence is moved on, and not where the masks of a whole batch are asked for.
    """

    def __init__(self, matcher: "LLMatcher", vocabulary: Vocabulary, is_at_start: bool) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._is_at_start = is_at_start
        self._allowed = self._look_ahead()

    def allowed(self) -> NDArray[np.bool_]:
        """Which ids may come next [V], read-only; those that end the answer exactly where it may end."""
        return self._allowed

    def advance(self, token_id: int) -> None:
        """Take the next token.

        InvalidRequestError when it is not one of the allowed ones, or when the grammar turns out to be too complex.
        """
        if not self._allowed[token_id]:
            raise InvalidRequestError(f"token {token_id} does not fit the grammar here")
        is_at_start, self._is_at_start = self._is_at_start, False
        if not (is_at_start and self._vocabulary.is_silent_at_start[token_id]):
            self._matcher.consume_token(int(self._vocabulary.start_ids[token_id]) if is_at_start else token_id)
        self._allowed = self._look_ahead()

    def copy(self) -> "GrammarConstraint":
        """Return the constraint of another sequence that has come as far."""
        other = copy(self)
        other._matcher = self._matcher.deep_copy()
        return other

    def _look_ahead(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        fitting = np.unpackbits(bits, bitorder="little").view(np.bool_)[: len(self._vocabulary.texts)]
        if self._matcher.is_error() or not fitting.any():
            raise InvalidRequestError(f"the answer cannot go on within its grammar: {_reason(self._matcher)}")
        allowed = fitting[: len(self._vocabulary.start_ids)]
        if self._is_at_start:
            allowed = fitting[self._vocabulary.start_ids] | self._vocabulary.is_silent_at_start
        allowed.setflags(write=False)
        return allowed


class _Pieces:
    """A vocabulary under the names by which llguidance asks for it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self.tokens = vocabulary.texts
        self.special_token_ids = vocabulary.special_ids

    def __call__(self, text: str | bytes) -> list[int]:
        """Encode text, which is asked for only where tokens are forced."""
        raise NotImplementedError


def _to_lark(grammar: Grammar) -> str:
    """Write a grammar in the language that llguidance reads, but for our options."""
    if len(grammar.source) > MAX_SOURCE_LENGTH:
        raise InvalidRequestError(
            f"the {_name(grammar)} has {len(grammar.source)} characters; at most {MAX_SOURCE_LENGTH} are taken"
        )
    if grammar.kind is GrammarKind.TOOL_CALLS:
        return write_call_grammar(grammar.source, _write_arguments, _to_rule)
    if grammar.kind is GrammarKind.RULES:
        return f"{_in_lark(grammar.source)}\n{LARK_OPTIONS}"  # behind those that the client may have written
    return f"start: {_to_rule(grammar)}"


def _to_rule(grammar: Grammar) -> str:
    """Write a grammar that is one rule as its right side."""
    if grammar.kind is GrammarKind.REGEX:
        return f"/{_escape_regex(grammar.source)}/"
    source = '{"type": "object"}' if grammar.kind is GrammarKind.JSON_OBJECT else grammar.source
    return f"%json {_with_options(source)}"


def _in_lark(source: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    check_unicode(source)
    if not GBNF_RULE.search(source):
        return source
    try:
        return gbnf_to_lark(source)
    except Exception as error:  # Exception itself among them
        raise InvalidRequestError(f"the grammar cannot be used: {shortened(str(error), MAX_REASON_LENGTH)}") from None


def _escape_regex(source: str) -> str:
    from llguidance import regex_to_lark

    try:
        return regex_to_lark(source)
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"the regular expression is not valid Unicode at character {error.start}") from None


def _with_options(source: str) -> str:
    """Add our options to a JSON schema, in place of its own if it has any."""
    try:
        schema = json.loads(source)
        if not isinstance(schema, dict):
            raise InvalidRequestError(f"the JSON schema is of type {type(schema).__name__}; it must be an object")
        return json.dumps({**schema, "x-guidance": JSON_OPTIONS})
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the JSON schema is not JSON: {error}") from None


def _write_arguments(schema: Mapping[str, Any], is_lenient: bool) -> str:
    return json.dumps({**schema, "x-guidance": {**JSON_OPTIONS, "lenient": is_lenient}})


def _limits() -> "LLParserLimits":
    """Bound what a step takes to about ten milliseconds, and the states of a lexer to some 40 MB."""
    from llguidance import LLParserLimits

    return LLParserLimits(step_lexer_fuel=50_000, step_max_items=20_000, max_lexer_states=20_000, verbose_errors=False)


def _name(grammar: Grammar) -> str:
    names = {
        GrammarKind.REGEX: "regular expression",
        GrammarKind.RULES: "grammar",
        GrammarKind.TOOL_CALLS: "description of tools",
    }
    return names.get(grammar.kind, "JSON schema")


def _reason(matcher: "LLMatcher") -> str:
    """Say in one line why a matcher gave up, without places in a source that the client has not written."""
    lines = matcher.get_error().splitlines() or ["no token fits"]
    if lines[0].startswith("NoExtension"):
        return "no text fits"
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    reason = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", reason)
    return shortened(reason, MAX_REASON_LENGTH)
