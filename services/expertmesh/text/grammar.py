"""What an answer may look like: JSON, a regular expression, calls of functions. Knows texts, not tokens."""

from dataclasses import dataclass
from enum import Enum


class GrammarKind(Enum):
    """How the source of a grammar is read."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class Grammar:
    """The shape of a whole answer; ``source`` is a JSON schema or a regular expression, empty for any JSON object.

    That of calls is written by ``make_call_grammar``.
    """

    kind: GrammarKind
    source: str = ""
