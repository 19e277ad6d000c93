"""What an answer may look like: JSON, a regular expression, rules, calls of functions. Knows texts, not tokens."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self


class GrammarKind(Enum):
    """How the source of a grammar is read."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    RULES = "rules"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class Grammar:
    """The shape of a whole answer.

    ``source`` is a JSON schema, a regular expression, or rules of a context-free grammar in Lark or GBNF; it is empty
    for any JSON object. That of calls is written by ``make_call_grammar``.
    """

    kind: GrammarKind
    source: str = ""

    @classmethod
    def one_of(cls, texts: Iterable[str]) -> Self:
        """Make the grammar of an answer that is one of ``texts``, none of them empty."""
        return cls(GrammarKind.RULES, "start: " + " | ".join(map(json.dumps, texts)))
