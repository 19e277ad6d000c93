"""What an answer may look like: JSON, a JSON schema, a regular expression. Knows texts, not tokens."""

from dataclasses import dataclass
from enum import Enum


class GrammarKind(Enum):
    """How the source of a grammar is read."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"


@dataclass(frozen=True)
class Grammar:
    """The shape of a whole answer; ``source`` is a JSON schema or a regular expression, empty for any JSON object."""

    kind: GrammarKind
    source: str = ""
