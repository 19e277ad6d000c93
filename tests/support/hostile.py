"""Grammars that are small to write and large to compile."""

import json


def hostile_schema(num_patterns: int, first: int = 0) -> str:
    """A schema whose patterns have to be found in one text in any order: twice the work for each more."""
    patterns = [{"pattern": f"a{number}"} for number in range(first, first + num_patterns)]
    return json.dumps({"type": "string", "allOf": patterns})


HOSTILE_REGEX = "(ab|cd)?" * 12_000
# 97 MB, for the remainders of a number.
LARGE_SCHEMA = json.dumps({"type": "integer", "multipleOf": 299_993})
